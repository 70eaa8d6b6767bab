"""RLHF with a reverse-KL penalty: fit the base model if it is not there yet, fine-tune it, look at held-out prompts.

kljax train
kljax train experiment=movie_reviews kl.beta=0.05
kljax train -m kl.beta=0.1,0.3,1 seed=0,1
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kljax.command_line import importing, launch
from kljax.config import Config
from kljax.errors import UserError
from kljax.runs.config_file import run_path
from kljax.runs.lock import one_writer


def main() -> None:
    """Answer the command line."""
    launch(run, Config)


def run(config: Config) -> None:
    with one_writer(run_path(config)):  # before the imports, until the evaluation is written
        with importing():
            from kljax.runs.setup import set_up_process
            from kljax.training.loop import train

        set_up_process(config)
        train(config, partial(evaluate, config))


@contextmanager
def evaluating(path: Path) -> Iterator[None]:
    """Say of whatever ends the evaluation early that the training before it is whole."""
    whole = f"Training is finished and saved in {path}, its evaluation is not made"
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{whole}: the same command makes it.") from None
    except UserError as error:
        raise UserError(f"{error} {whole}: when this is mended, the same command makes it.") from None


def evaluate(config: Config, path: Path) -> Mapping[str, float]:
    from kljax.analysis import tables
    from kljax.runs import evaluation, evaluation_files
    from kljax.runs.restore import restore

    with evaluating(path):
        result = evaluation.evaluate(restore(path, "latest", config.mesh, custom=True), config.evaluation)
        tables.show_evaluation(result, path)
        evaluation_files.save_own(result, path)
    tables.show_paths(path, config.track)
    return result.metrics
