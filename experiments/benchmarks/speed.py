"""How fast a step is, beside what this machine could do at best, and beside other libraries.

python -m experiments.benchmarks.speed --size s --size m
python -m experiments.benchmarks.speed --size xs --loop --launch
python -m experiments.benchmarks.speed --size s --peers --trl-python venv-trl/bin/python --tunix-python venv-tunix/bin/python
python -m experiments.benchmarks.speed --size smollm2 adapter=lora

A size is a config, configs/experiment/benchmark_<size>.yaml. What the figures mean: docs/performance.md.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kljax.command_line import CONFIGS, compose, importing, reporting_mistakes, variant
from kljax.config import Config
from kljax.errors import UserError
from kljax.progress import console

if TYPE_CHECKING:
    from experiments.benchmarks.report import Figures

AGAIN = (sys.executable, "-m", "experiments.benchmarks.speed")  # this script, as another process
PREFIX = "benchmark_"
SIZES = sorted(file.stem.removeprefix(PREFIX) for file in (CONFIGS / "experiment").glob(f"{PREFIX}*.yaml"))
PEERS_SCRIPTS = Path(__file__).parents[3] / "shared" / "peers"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", action="append", choices=SIZES, required=True, help="may be given several times")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--loop", action="store_true", help="also what a run's loop costs beside the step")
    parser.add_argument("--launch", action="store_true", help="also how long a run takes to its first step, twice")
    parser.add_argument("--peers", action="store_true", help="also the peers' scripts, in turn with ours")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each with --peers (default: 2)")
    parser.add_argument("--trl-python", type=Path, help="a Python that has TRL")
    parser.add_argument("--tunix-python", type=Path, help="a Python that has Tunix")
    parser.add_argument("--peers-scripts", type=Path, default=PEERS_SCRIPTS, help="their folder (default: %(default)s)")
    parser.add_argument("--only", choices=["step"], help="whole steps alone, printed as the peers' scripts print theirs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="where the JSON files go (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="changes of the config, as for train.py")
    arguments = parser.parse_args()
    for name in ("steps", "rounds"):
        if (given := getattr(arguments, name)) < 1:
            raise UserError(f"--{name}: got {given}, expected at least 1.")
    return arguments


def main() -> None:
    arguments = parse()
    configs = {
        size: compose([f"experiment={PREFIX}{size}", *arguments.overrides], Config) for size in dict.fromkeys(arguments.size)
    }

    with importing():
        from experiments.benchmarks import machine, peers, report, timing
        from experiments.benchmarks.launch import measure_launch
        from kljax.runs.setup import set_up_process

    for config in configs.values():
        set_up_process(config)
    if arguments.only == "step":
        for config in configs.values():
            peers.as_peer(timing.subject(config), arguments.steps)
        return
    environment = machine.describe()
    # Before anything is measured here: a process begins with the largest memory that the one which starts it has had.
    standings = {size: compare(size, config, arguments) if arguments.peers else [] for size, config in configs.items()}
    for size, config in configs.items():
        found = measure(config, arguments) | {
            "size": name_of(size, arguments.overrides),
            "environment": environment,
            "peers": standings[size],
        }
        if arguments.launch:
            found["launch"] = report.launched(measure_launch([f"experiment={PREFIX}{size}", *arguments.overrides]))
        report.show(found)
        console.print(f"Written to {report.write_json(found, arguments.out)}", soft_wrap=True)


def name_of(size: str, overrides: list[str]) -> str:
    """Of the file: the size and what is changed of it."""
    return "+".join([size, *([variant(overrides)] if overrides else [])])


def measure(config: Config, arguments: argparse.Namespace) -> "Figures":
    """Measure what the machine can do, and what a step does on it."""
    from experiments.benchmarks import machine, report, timing

    ceiling = machine.measure_ceiling(config.model.dtype)
    measured, it = timing.measure(config, arguments.steps)
    return report.figures(ceiling, it, measured, timing.time_loop(it) if arguments.loop else None)


def compare(size: str, config: Config, arguments: argparse.Namespace) -> "list[Figures]":
    """Ours in a process of its own, too: the same script with --only step."""
    from experiments.benchmarks import peers, report
    from kljax.runs.setup import prepare

    pythons = {"trl": arguments.trl_python, "tunix": arguments.tunix_python}
    others = peers.contestants(prepare(config), arguments.steps, pythons, arguments.peers_scripts)
    ours = (*AGAIN, "--size", size, "--steps", str(arguments.steps), "--only", "step", *arguments.overrides)
    contestants = peers.with_each_malloc([peers.Contestant("kljax", ours), *others])
    return report.standings(peers.compare(contestants, arguments.rounds))


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
