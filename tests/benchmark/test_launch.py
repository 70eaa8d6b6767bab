"""The launches of the real script, with a config of seconds."""

import pytest

from kljax.benchmark.launch import measure_launch
from kljax.errors import UserError


def test_the_second_launch_finds_base_model_and_programs(tiny_overrides):
    shown = [override for override in tiny_overrides if not override.startswith(("run.", "steps="))]
    launch = measure_launch([*shown, "run.save_every=1"])
    assert 0 < launch.imports < launch.cached < launch.cold
    assert launch.beyond_imports == launch.cached - launch.imports


def test_a_mistake_is_reported_as_the_run_says_it():
    with pytest.raises(UserError, match="betta"):
        measure_launch(["kl.betta=1"])
