"""Forward beside reverse KL on text, one part at a time: a table, JSON and a PNG.

modes: a student too small for two dialects, fitted by each divergence, beside the exact optimum.
forgetting: what a model that learns a new task, by given answers or by RL, loses of an old one, against both KLs.

python experiments/directions.py modes
python experiments/directions.py forgetting
python experiments/directions.py modes --seeds 1 --out /tmp/directions
"""

import argparse
from pathlib import Path

from kljax.command_line import reporting_mistakes
from kljax.errors import UserError
from kljax.progress import console, say


def modes(seeds: int, out: Path) -> None:
    """Two dialects and a student that sees one word."""
    from experiments.studies.directions import modes, modes_report, results
    from experiments.studies.directions.dialects import Dialects

    settings = {"seeds": seeds, "steps": 500, "starts": 4}
    found = modes.study(Dialects(), **settings, say=say)
    results.write(settings, found, out / "modes.json")
    modes_report.plot(found, out / "modes.png")
    modes_report.show(found)


def forgetting(seeds: int, out: Path) -> None:
    """An old task and a new one."""
    from experiments.studies.directions import forgetting, forgetting_report, results

    settings = forgetting.Settings(seeds=seeds)
    found = forgetting.study(settings, say=say)
    results.write(vars(settings), found, out / "forgetting.json")
    forgetting_report.plot(found, out / "forgetting.png")
    forgetting_report.show(found)


PARTS = {"modes": modes, "forgetting": forgetting}


def main() -> None:
    """The part that is named."""
    parser = argparse.ArgumentParser(
        "python experiments/directions.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=3, help="students, or base models, of each kind (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/directions"), help="where PART.json and PART.png go")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f"--seeds: got {arguments.seeds}, expected at least 1.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    PARTS[arguments.part](arguments.seeds, arguments.out)
    console.print(f"Written to {arguments.out / arguments.part}.json and .png", soft_wrap=True)


if __name__ == "__main__":
    with reporting_mistakes():
        main()
