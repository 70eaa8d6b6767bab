"""How the cost of a step grows with batch, length and model, with runs side by side, and what devices say to one another.

python -m experiments.benchmarks.growth                                 # everything
python -m experiments.benchmarks.growth --series batch --series tokens  # some series
python -m experiments.benchmarks.growth --series devices model.layers=12 rollout.prompts=64

What the figures mean: docs/performance.md.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks import series
from experiments.benchmarks.series import BASE, SERIES, Overrides
from experiments.benchmarks.tables import Rows, measured_on, show
from kljax.command_line import compose, importing, reporting_mistakes
from kljax.config import Config
from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.progress import console

AGAIN = (sys.executable, "-m", "experiments.benchmarks.growth")  # this script, as another process
RUNS, DEVICES = "runs", "devices"
ALONE = (RUNS, DEVICES)
NAMES = [*SERIES, *ALONE]
FIRST = {RUNS: series.SMALL, DEVICES: series.DISTRIBUTED} | dict.fromkeys(SERIES, BASE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", action="append", choices=NAMES, help="may be given several times (default: all)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/scaling.json"), help="the JSON file (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="changes of every config, as for train.py")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        raise UserError(f"--steps: got {arguments.steps}, expected at least 1.")
    return arguments


def main() -> None:
    arguments = parse()
    names = [name for name in NAMES if name in (arguments.series or NAMES)]
    for base in dict.fromkeys(FIRST[name] for name in names):
        config((*base, *arguments.overrides))  # a mistake is answered before the imports

    with importing():
        import jax

        from experiments.benchmarks import machine

    jax.config.update("jax_compilation_cache_dir", None)  # what is compiled here is compiled anew
    if (devices := devices_of(names[0], tuple(arguments.overrides))) is not None:
        jax.config.update("jax_num_cpu_devices", devices)
    for name in names:
        if name in ALONE and len(names) > 1:
            alone(arguments, name)
            continue
        environment = machine.describe()
        found, tables = measure(name, arguments.steps, tuple(arguments.overrides))
        show(f"{name}: {measured_on(environment)}", tables)
        add_to_json(arguments.out, name, {"environment": environment, "figures": found})
        console.print(f"Written to {arguments.out}", soft_wrap=True)


def devices_of(name: str, changed: Overrides) -> int | None:
    """The number of devices for which the series takes this machine's CPU; None: one."""
    fixed = {RUNS: None, DEVICES: series.DEVICES}
    if name in fixed:
        return fixed[name]
    from kljax.devices.resources import chosen_devices

    base = config((*BASE, *changed))
    return base.run.cpu_devices or chosen_devices(base)


def alone(arguments: argparse.Namespace, name: str) -> None:
    """A series in a process of its own: one that has begun to use its CPU as two devices cannot take it for one or eight."""
    given = ["--series", name, "--steps", str(arguments.steps), "--out", str(arguments.out), *arguments.overrides]
    if code := subprocess.run([*AGAIN, *given], check=False).returncode:
        sys.exit(code)  # it has said why


def measure(name: str, steps: int, changed: Overrides) -> tuple[list[dict[str, Any]], list[Rows]]:
    """A series as figures and as tables."""
    from experiments.benchmarks import scaling

    if name == DEVICES:
        found = [scaling.lay_out(config, label, changed) for label in scaling.MESHES]
        tables = scaling.layout_tables(found)
    elif name == RUNS:
        found = scaling.measure_runs(config, steps, changed)
        tables = [scaling.runs_table(found)]
    else:
        found = scaling.measure_series(config, name, steps, changed)
        tables = [scaling.cost_table(found)]
    return [asdict(each) for each in found], tables


def config(overrides: Overrides) -> Config:
    return compose(overrides, Config)


def add_to_json(file: Path, name: str, found: dict[str, Any]) -> None:
    """Replace one series in the file, and keep the others."""
    from kljax.runs.directory import write_atomically

    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_bytes()) if file.exists() else {}
    write_atomically(file, json_text(before | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
