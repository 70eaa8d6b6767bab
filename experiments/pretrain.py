"""A base model by maximum likelihood, which minimises forward KL(data‖model): the one that train.py would start from.

python experiments/pretrain.py
python experiments/pretrain.py experiment=movie_reviews model.dropout=0.2
"""

from kljax.analysis import tables
from kljax.command_line import launch
from kljax.config import Config
from kljax.training.fitting import ensure_base, read_result
from kljax.training.task import prepare, use_compilation_cache


def run(config: Config) -> None:
    use_compilation_cache(config.run.compilation_cache)
    path = ensure_base(prepare(config))
    tables.show_base(read_result(path), path)


if __name__ == "__main__":
    launch(run, Config)
