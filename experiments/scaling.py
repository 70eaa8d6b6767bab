"""How the cost of a step grows with batch, length and model, with runs side by side, and what devices say to one another.

python experiments/scaling.py                                 # everything
python experiments/scaling.py --series batch --series tokens  # some series
python experiments/scaling.py --series devices model.layers=12 rollout.prompts=64
python experiments/scaling.py --docs docs/scaling.md          # write the sections of that file, too

What the figures mean: docs/scaling.md.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table

from kljax.benchmark import machine, report, scaling
from kljax.command_line import compose, reporting_mistakes
from kljax.config import Config
from kljax.errors import UserError
from kljax.training.progress import console
from kljax.training.run_directory import write_atomically

RUNS, DEVICES = "runs", "devices"
NAMES = [*scaling.SERIES, RUNS, DEVICES]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", action="append", choices=NAMES, help="may be given several times (default: all)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/scaling.json"), help="the JSON file (%(default)s)")
    parser.add_argument("--docs", type=Path, help="a Markdown file whose sections are replaced")
    parser.add_argument("overrides", nargs="*", help="changes of every config, as for train.py")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        raise UserError(f"--steps: got {arguments.steps}, expected at least 1.")
    return arguments


def main() -> None:
    arguments = parse()
    names = [name for name in NAMES if name in (arguments.series or NAMES)]
    jax.config.update("jax_compilation_cache_dir", None)  # what is compiled here is compiled anew
    if names == [DEVICES]:
        jax.config.update("jax_num_cpu_devices", scaling.DEVICES)
    for name in names:
        if name == DEVICES and len(names) > 1:
            alone(arguments)
            continue
        environment = machine.describe()
        found, tables = measure(name, arguments.steps, tuple(arguments.overrides))
        heading = caption(environment)
        show(name, heading, tables)
        add_to_json(arguments.out, name, {"environment": environment, "figures": found})
        console.print(f"Written to {arguments.out}", soft_wrap=True)
        if arguments.docs is not None:
            write_section(arguments.docs, name, heading, tables)


def alone(arguments: argparse.Namespace) -> None:
    """The devices, in a process of their own: one that has begun to use its one device cannot simulate eight."""
    docs = [] if arguments.docs is None else ["--docs", str(arguments.docs)]
    given = ["--series", DEVICES, "--out", str(arguments.out), *docs, *arguments.overrides]
    subprocess.run([sys.executable, sys.argv[0], *given], check=True)


def measure(name: str, steps: int, changed: scaling.Overrides) -> tuple[list[dict[str, Any]], list[report.Rows]]:
    """A series as figures and as tables."""
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


def config(overrides: scaling.Overrides) -> Config:
    return compose(overrides, Config)


def add_to_json(file: Path, name: str, found: dict[str, Any]) -> None:
    """Replace one series in the file, and keep the others."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if file.exists() else {}
    write_atomically(file, json.dumps(before | {name: found}, indent=1, ensure_ascii=False) + "\n")


def caption(at: dict[str, Any]) -> str:
    """When, where, with what and by which command."""
    versions = ", ".join(f"{name} {at['versions'][name]}" for name in ("jax", "jaxlib", "flax"))
    changes = " with uncommitted changes" if at["uncommitted_changes"] else ""
    return (
        f"{at['date'][:10]}, {at['processor']}, {at['cores']} cores, load average {at['load_average']:.1f} at the start; "
        f"{versions}, commit {(at['git_commit'] or 'unknown')[:10]}{changes}; `python {shlex.join(at['command'])}`."
    )


def show(name: str, heading: str, tables: list[report.Rows]) -> None:
    console.print(f"\n{name}: {heading}", soft_wrap=True)
    for rows in tables:
        table = Table(*rows[0], box=box.SIMPLE_HEAD, width=report.WIDTH)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table, crop=False)


def write_section(file: Path, name: str, heading: str, tables: list[report.Rows]) -> None:
    """Put the tables between the marks `<!-- scaling:<series> -->` and `<!-- /scaling:<series> -->`; all else stays."""
    first, last = (f"<!-- {slash}scaling:{name} -->" for slash in ("", "/"))
    before, begun, rest = (file.read_text() if file.exists() else "").partition(first)
    _, ended, after = rest.partition(last)
    if not (begun and ended):
        raise UserError(f"--docs: {file} has no section between lines '{first}' and '{last}'; put them where it shall stand.")
    body = "\n\n".join([heading, *(report._markdown(rows) for rows in tables)])
    write_atomically(file, f"{before}{first}\n{body}\n{last}{after}")


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
