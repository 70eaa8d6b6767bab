"""How long a researcher waits: from the command line to the first step, the first time and when all is in the caches."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kljax.errors import UserError

POLL = 0.005  # seconds
TURNS = 3
SCRIPT = Path(__file__).parents[1] / "train.py"
IMPORTS = "import kljax.command_line, kljax.training.loop, kljax.runs.restore, kljax.runs.evaluation"
"""Imports that a run needs: the script imports it when the config is read."""


@dataclass(frozen=True)
class Launch:
    """Seconds: of the imports alone; from the start of the process to the metrics of the first step, cold and cached.

    The cold launch compiles and fits the base model; the cached one finds both.
    """

    imports: float
    cold: float
    cached: float

    @property
    def beyond_imports(self) -> float:
        """Seconds of the second launch beside its imports."""
        return self.cached - self.imports


def measure_launch(overrides: list[str]) -> Launch:
    """A run of one step of a config and more of the same, in a root and with a cache of their own.

    Launches with all in the caches and bare imports take turns; the median of each counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        shared = [*overrides, f"run.root={folder}/runs", f"run.compilation_cache={folder}/cache", "steps=1"]
        cold, cached, imports = _to_first_step(shared, "first", Path(folder)), [], []
        for turn in range(TURNS):
            cached.append(_to_first_step(shared, f"again_{turn}", Path(folder)))
            imports.append(_seconds([sys.executable, "-c", IMPORTS]))
    return Launch(median(imports), cold, median(cached))


def _to_first_step(overrides: list[str], variant: str, folder: Path) -> float:
    command = [sys.executable, str(SCRIPT), *overrides, f"run.variant={variant}"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        while not any(file.stat().st_size for file in folder.glob(f"runs/*/{variant}/metrics.jsonl")):
            if run.poll() is not None:
                raise UserError(f"the run ended before its first step: {run.stdout.read() if run.stdout else ''}")
            time.sleep(POLL)
        seconds = time.perf_counter() - began
        run.communicate()
    return seconds


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began
