"""Fits a model by maximum likelihood, which minimises forward KL(data‖model): the base model that kljax train starts from.

kljax pretrain
kljax pretrain experiment=movie_reviews model.dropout=0.2

With another pretrain/objective, an encoder's hidden tokens, a classifier, or a reward model (configs/pretrain/objective/):

kljax pretrain experiment=sst2
"""

from dataclasses import replace
from pathlib import Path

from kljax.command_line import importing, launch
from kljax.config import Config
from kljax.errors import UserError
from kljax.progress import console, say


def main() -> None:
    """Answer the command line."""
    launch(run, Config)


def run(config: Config) -> None:
    with importing():
        from kljax.analysis import tables
        from kljax.fitting.fit import check_export, ensure_base, export_base, read_result
        from kljax.runs.directory import MODEL
        from kljax.runs.setup import prepare, set_up_process

    set_up_process(config)
    setup = prepare(config)
    check_export(setup)
    if config.adapter.kind == "lora":
        say("adapter: lora is for kljax train; a fit changes every parameter.")
    path = ensure_base(setup)
    export_base(setup, path)
    tables.show_base(read_result(path), path)
    if (path / MODEL).exists():  # it writes text
        evaluate(path, config)


def evaluate(path: Path, config: Config) -> None:
    """Look at its completions, and at how far it has come from the model that it started from; or say why not."""
    from kljax.analysis import tables
    from kljax.runs import evaluation, evaluation_files
    from kljax.runs.restore import restore

    restored = restore(path, "latest", config.mesh, custom=True)
    given = {"reward": config.reward, "rollout": config.rollout, "task": config.task}  # whoever has fitted it
    asked = replace(restored.setup.config, **given)
    restored = replace(restored, setup=replace(restored.setup, config=asked))
    try:
        result = evaluation.evaluate(restored, config.evaluation, evaluation.left_out(restored, custom=True))
    except UserError as error:
        console.print(f"Its completions of held-out prompts are not looked at: {error}", soft_wrap=True, markup=False)
        return
    tables.show_evaluation(result, path)
    evaluation_files.save_own(result, path)
