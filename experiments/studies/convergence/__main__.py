"""Every penalty on the task that can be enumerated, several seeds: where training ends, against where theory says.

python -m experiments.studies.convergence
python -m experiments.studies.convergence --penalties exact k3_loss --seeds 2 --out /tmp/convergence steps=200
"""

import argparse
from pathlib import Path
from typing import get_args

from kljax.command_line import compose, importing, reporting_mistakes
from kljax.config import Config, PenaltyName
from kljax.errors import UserError
from kljax.progress import console

PENALTIES = get_args(PenaltyName)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.studies.convergence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--penalties", nargs="+", default=PENALTIES, choices=PENALTIES, metavar="PENALTY")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each penalty (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/convergence"))
    parser.add_argument("overrides", nargs="*", help="changes of experiment=enumerable, as for train.py")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f"--seeds: got {arguments.seeds}, expected at least 1.")
    fixed = ["experiment=enumerable", f"run.root={arguments.out}", *arguments.overrides]
    configs = [
        compose([*fixed, f"kl.penalty={penalty}", f"seed={seed}", f"run.variant={penalty}_seed_{seed}"], Config)
        for penalty in arguments.penalties
        for seed in range(arguments.seeds)
    ]

    with importing():
        from experiments.studies.convergence import study
        from kljax.runs.setup import set_up_process

    set_up_process(configs[0])
    outcomes = [study.run(config) for config in configs]
    study.write_csv(outcomes, arguments.out / "convergence.csv")
    study.show(outcomes, configs[0].kl.beta)
    console.print(f"Written to {arguments.out / 'convergence.csv'}", soft_wrap=True)


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
