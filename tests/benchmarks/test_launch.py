"""Launches of a script that does what train.py does, in no time; and a mistake in the arguments of the real one."""

import pytest

from experiments.benchmarks import launch
from kljax.errors import UserError

SCRIPT = """
import sys, time
from pathlib import Path

if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[1:])
    cache = Path(given["run.compilation_cache"])
    time.sleep(0.1 if cache.exists() else 1.5)  # compiling
    cache.mkdir(exist_ok=True)
    run = Path(given["run.root"]) / "name" / given["run.variant"]
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 0}')
"""


def test_the_second_launch_finds_what_the_first_has_left(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(launch, "SCRIPT", script)
    monkeypatch.setattr(launch, "IMPORTS", "import json")
    found = launch.measure_launch(["kl.beta=1"])
    assert 0 < found.imports < found.cached
    assert found.cached + 1 < found.cold
    assert found.beyond_imports == found.cached - found.imports


def test_a_mistake_is_reported_as_the_run_says_it():
    with pytest.raises(UserError, match="betta"):
        launch.measure_launch(["kl.betta=1"])
