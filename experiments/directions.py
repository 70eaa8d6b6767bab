"""Forward beside reverse KL on text, one part at a time: a table, JSON and a PNG.

modes: a student too small for two dialects, fitted by each divergence, beside the exact optimum.
forgetting: what a model that learns a new task, by given answers or by RL, loses of an old one, against both KLs.
chain: the stages of a task as a practitioner runs it, from finished runs: a model as it is, fitted to answers, then RL; what
  each has written is in chain.md.

python experiments/directions.py modes
python experiments/directions.py forgetting
python experiments/directions.py modes --seeds 1 --out /tmp/directions
python experiments/directions.py chain runs
"""

import argparse
from dataclasses import replace
from pathlib import Path

from kljax.command_line import reporting_mistakes
from kljax.disk import writing_to
from kljax.errors import UserError
from kljax.progress import console, say


def modes(arguments: argparse.Namespace) -> None:
    """Two dialects and a student that sees one word."""
    from experiments.studies.directions import modes, modes_report, results
    from experiments.studies.directions.dialects import Dialects

    make(arguments.out)
    settings = {"seeds": arguments.seeds, "steps": 500, "starts": 4}
    found = modes.study(Dialects(), **settings, say=say)
    results.write(settings, found, arguments.out / "modes.json")
    modes_report.plot(found, arguments.out / "modes.png")
    modes_report.show(found)
    written(arguments.out, "modes.json", "modes.png")


def forgetting(arguments: argparse.Namespace) -> None:
    """An old task and a new one."""
    from experiments.studies.directions import forgetting, forgetting_report, results

    make(arguments.out)
    settings = forgetting.Settings(seeds=arguments.seeds)
    found = forgetting.study(settings, say=say)
    results.write(vars(settings), found, arguments.out / "forgetting.json")
    forgetting_report.plot(found, arguments.out / "forgetting.png")
    forgetting_report.show(found)
    written(arguments.out, "forgetting.json", "forgetting.png")


def chain(arguments: argparse.Namespace) -> None:
    """Finished fits and runs of tasks."""
    from experiments.studies.directions import chain, results

    found = chain.chains(arguments.runs, arguments.metric)
    make(arguments.out)
    given = {"runs": list(map(str, arguments.runs)), "metric": arguments.metric}
    results.write(
        given, [replace(link, samples=()) for links in found.values() for link in links], arguments.out / "chain.json"
    )
    chain.write_samples(found, arguments.out / "chain.md", arguments.samples)
    chain.plot(found, arguments.out / "chain.png")
    chain.show(found)
    written(arguments.out, "chain.json", "chain.png", "chain.md")


def make(out: Path) -> None:
    """The folder of the results. UserError where there cannot be one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, expected a folder, or none yet.")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)


def written(out: Path, *names: str) -> None:
    """Say where the results are."""
    console.print(f"Written to {out}: {', '.join(names)}", soft_wrap=True)


PARTS = {"modes": modes, "forgetting": forgetting, "chain": chain}


def main() -> None:
    """The part that is named."""
    parser = argparse.ArgumentParser(
        "python experiments/directions.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))
    for name in PARTS:
        part = parts.add_parser(name)
        part.add_argument("--out", type=Path, default=Path("runs/directions"), help="where PART.json and PART.png go")
        if name == "chain":
            part.add_argument("runs", nargs="+", type=Path, help="folders of kljax pretrain and kljax train with a task")
            part.add_argument("--samples", type=int, default=10, help="prompts of each task in chain.md (default: 10)")
            part.add_argument("--metric", help="the figure to show, as rouge_l (default: the task's first)")
        else:
            part.add_argument("--seeds", type=int, default=3, help="students, or base models, of each kind (default: 3)")
    arguments = parser.parse_args()
    if arguments.part != "chain" and arguments.seeds < 1:
        raise UserError(f"--seeds: got {arguments.seeds}, expected at least 1.")
    if arguments.part == "chain" and arguments.samples < 1:
        raise UserError(f"--samples: got {arguments.samples}, expected at least 1.")
    PARTS[arguments.part](arguments)


if __name__ == "__main__":
    with reporting_mistakes():
        main()
