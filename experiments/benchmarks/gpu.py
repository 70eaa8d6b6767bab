"""One size on an accelerator, in a minute or so: the step and its parts in seconds, MFU, memory, KL at the start.

python -m experiments.benchmarks.gpu --size s --out runs/gpu.jsonl model.dtype=bfloat16
python -m experiments.benchmarks.gpu --table runs/gpu.jsonl

experiments/benchmarks/gpu.sh runs all sizes, and the oracle tests on the device.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from kljax.command_line import CONFIGS, compose, importing, reporting_mistakes
from kljax.config import Config
from kljax.errors import UserError
from kljax.json_text import json_text

PREFIX = "benchmark_"
SIZES = sorted(file.stem.removeprefix(PREFIX) for file in (CONFIGS / "experiment").glob(f"{PREFIX}*.yaml"))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--size", choices=SIZES, help="of configs/experiment/benchmark_<size>.yaml")
    task.add_argument("--table", type=Path, help="show what --out has written, and measure nothing")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--out", type=Path, help="a file to which a line of JSON is added")
    parser.add_argument("overrides", nargs="*", help="changes of the config, as for train.py")
    arguments = parser.parse_args()
    if arguments.table is not None:
        if not arguments.table.is_file():
            raise UserError(f"--table: {arguments.table} is no file, expected one that --out has written.")
        found = [json.loads(line) for line in arguments.table.read_bytes().splitlines()]
    else:
        config = compose([f"experiment=benchmark_{arguments.size}", *arguments.overrides], Config)
        found = [{"size": arguments.size, **measure(config, arguments.steps)}]
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            with arguments.out.open("a", encoding="utf-8") as lines:
                lines.write(json_text(found[0]) + "\n")
    if found:
        from experiments.benchmarks import accelerator, tables

        tables.show(tables.measured_on(found[0]["environment"]), [accelerator.table(found)])


def measure(config: Config, steps: int) -> dict[str, Any]:
    with importing():
        import jax

        from experiments.benchmarks import accelerator, machine
        from kljax.devices.resources import divide_cpu

    divide_cpu(config)
    jax.config.update("jax_compilation_cache_dir", None)  # what is compiled here is compiled anew
    return {"environment": machine.describe()} | accelerator.measure(config, steps)


if __name__ == "__main__":
    with reporting_mistakes(Config):
        main()
