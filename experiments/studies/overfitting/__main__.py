"""Each measure against overfitting, alone and together, on too few rows: curves of training and held-out rows, a table, a PNG.

python -m experiments.studies.overfitting
python -m experiments.studies.overfitting --seeds 2 --out runs/mine data.source.path=reviews.csv data.source.column=review \
  data.source.held_out_path=null data.source.test_path=null pretrain.objective.label=stars 'data.share=[0,1]'
"""

import argparse
from pathlib import Path

from kljax.command_line import compose, importing, reporting_mistakes
from kljax.config import Config
from kljax.errors import UserError
from kljax.progress import console


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.studies.overfitting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="fits of each variant (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/overfitting"))
    parser.add_argument("overrides", nargs="*", help="changes of experiment=overfitting, as for kljax pretrain")
    parser.set_defaults(experiment="overfitting")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f"--seeds: got {arguments.seeds}, expected at least 1.")

    from experiments.studies.overfitting import variants

    fixed = [f"experiment={arguments.experiment}", f"run.root={arguments.out}"]
    configs = {
        (name, seed): compose([*fixed, *measures, *arguments.overrides, f"pretrain.seed={seed}"], Config)
        for name, measures in variants.VARIANTS.items()
        for seed in range(arguments.seeds)
    }
    variants.check(configs)

    with importing():
        from experiments.studies.overfitting import picture, study
        from kljax.runs.setup import set_up_process

    set_up_process(next(iter(configs.values())))
    curves = [study.run(name, config) for (name, _), config in configs.items()]
    study.write_csv(curves, arguments.out / "overfitting.csv")
    picture.plot(curves, arguments.out / "overfitting.png")
    study.show(curves)
    console.print(f"Written to {arguments.out / 'overfitting.csv'} and {arguments.out / 'overfitting.png'}", soft_wrap=True)


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
