"""Fits a model by maximum likelihood, which minimises forward KL(data‖model): the base model that train.py would start from.

python experiments/pretrain.py
python experiments/pretrain.py experiment=movie_reviews model.dropout=0.2

With another pretrain/objective, an encoder's hidden tokens, a classifier, or a reward model (configs/pretrain/objective/):

python experiments/pretrain.py experiment=sst2
"""

from kljax.command_line import importing, launch
from kljax.config import Config


def run(config: Config) -> None:
    with importing():
        from kljax.analysis import tables
        from kljax.fitting.fit import check_export, ensure_base, export_base, read_result
        from kljax.runs.setup import prepare, set_up_process

    set_up_process(config)
    setup = prepare(config)
    check_export(setup)
    path = ensure_base(setup)
    export_base(setup, path)
    tables.show_base(read_result(path), path)


if __name__ == "__main__":
    launch(run, Config)
