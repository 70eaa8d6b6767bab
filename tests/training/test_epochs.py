"""A run whose length is given in epochs."""

import json
from dataclasses import replace

import pytest
import yaml

from kljax.errors import UserError
from kljax.runs.setup import prepare
from kljax.training import epochs
from kljax.training.epochs import steps_of, with_steps
from kljax.training.loop import train


@pytest.mark.parametrize(
    ("passes", "rows", "batch", "steps"),
    [
        (2.0, 1234, 32, 78),  # 77.1
        (1.0, 64, 32, 2),
        (1.0, 65, 32, 3),
        (0.1, 320, 32, 1),  # 0.1 · 320 = 32, in floating point, too
        (0.7, 100, 10, 7),  # and here it is 7.000000000000001 that must not become 8
        (1e-9, 10, 32, 1),
        (1.0, 3, 32, 1),  # fewer prompts than a step takes
    ],
)
def test_steps_are_epochs_times_prompts_by_batch_rounded_up(passes, rows, batch, steps):
    assert steps_of(passes, rows, batch) == steps


@pytest.fixture(scope="module")
def said():
    """What with_steps says, until it is emptied."""
    sentences = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "say", sentences.append)
        yield sentences


def test_without_epochs_nothing_changes(tiny, said):
    setup = prepare(tiny())
    assert with_steps(setup) is setup
    assert said == []


def test_a_warm_up_is_held_against_the_steps_that_the_epochs_make(tiny):
    """40 prompts, 8 a step: 5 steps, though `steps` is 6 and would allow for a warm-up of 5."""
    setup = prepare(replace(tiny("optimizer.warmup_steps=5"), epochs=1.0))
    with pytest.raises(UserError, match=r"^optimizer.warmup_steps: got 5, expected fewer than the 5 steps\. For"):
        with_steps(setup)


def test_more_epochs_allow_for_a_longer_warm_up(tiny):
    setup = prepare(replace(tiny("steps=20", "optimizer.warmup_steps=9"), epochs=2.0))
    assert with_steps(setup).config.steps == 10


def test_a_run_in_epochs_holds_its_steps_and_resumes(tiny, said, capsys):
    said.clear()
    config = replace(tiny("run.variant=half"), epochs=0.5)
    path = train(config)
    assert said == ["epochs=0.5: 40 prompts, 8 a step: 3 steps."]
    kept = yaml.safe_load((path / "config.yaml").read_text())
    assert (kept["epochs"], kept["steps"]) == (0.5, 3)
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    assert train(config) == path  # done: nothing to do, nothing refused
    assert "at step 3 of 3" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"belongs to another config: seed is 0 there, 1 here"):
        train(replace(config, seed=1))
