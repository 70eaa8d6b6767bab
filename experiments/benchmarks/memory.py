"""The memory of a training step: parameters, optimiser, frozen weights, and the peak of the process. Linux only.

python -m experiments.benchmarks.memory experiment=smollm2 adapter=none
python -m experiments.benchmarks.memory experiment=smollm2 adapter=lora
"""

from dataclasses import asdict

from kljax.command_line import importing, launch
from kljax.config import Config
from kljax.progress import console


def run(config: Config) -> None:
    with importing():
        from experiments.benchmarks.process_memory import measure
        from kljax.runs.setup import set_up_process

    set_up_process(config)
    for name, size in asdict(measure(config)).items():
        console.print(f"{name:10} {size / 2**20:8,.0f} MiB")


if __name__ == "__main__":
    launch(run, Config)
