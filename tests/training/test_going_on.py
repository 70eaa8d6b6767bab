"""A run that is gone on with to another number of steps is, bit for bit, the run that had them from its start, or refused."""

import json
import shutil
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

from kljax.devices import resources
from kljax.errors import UserError
from kljax.runs import config_file, digests, directory, going_on
from kljax.runs.checkpoints import Checkpoints
from kljax.runs.setup import prepare
from kljax.training import loop
from kljax.training.loop import train
from kljax.training.trainer import build_trainer

SHORT, LONG = "steps=5", "steps=9"  # checkpoints every 2


def metrics_of(path):
    lines = directory.read_lines(path / "metrics.jsonl")
    return [{key: value for key, value in line.items() if not key.startswith(("time/", "memory/"))} for line in lines]


def state_of(config, step):
    """All that is in the checkpoint: parameters, moments, controller, key, step, a reference that moves."""
    path = config_file.run_path(config)
    trainer, checkpoints = build_trainer(prepare(config)), Checkpoints(path)
    try:
        state = checkpoints.restore(step, trainer.shapes, trainer.parts.shardings, checkpoints.about(step)["reference"])
    finally:
        checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(replace(state, key=jax.random.key_data(state.key)))]


def assert_same_run(extended, whole, step):
    ours, theirs = (config_file.run_path(config) for config in (extended, whole))
    assert [line["step"] for line in metrics_of(ours)] == list(range(step))
    assert metrics_of(ours) == metrics_of(theirs)
    assert (ours / "samples.jsonl").read_text() == (theirs / "samples.jsonl").read_text()
    for a, b in zip(state_of(extended, step), state_of(whole, step), strict=True):
        np.testing.assert_array_equal(a, b)


def launches(path):
    return json.loads((path / "environment.json").read_text())["launches"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("run.variant=device",),
        ("run.variant=host", "reward=[regex]", "kl/controller=target", "kl.controller.budget=0.01", "reference/refresh=every"),
    ],
    ids=["device", "host"],
)
def test_a_longer_run_is_the_one_that_was_never_shorter(tiny, overrides, capsys):
    path = train(tiny(SHORT, *overrides))
    assert train(tiny(LONG, *overrides)) == path
    assert f"Going on with {path} from step 5 to 9." in capsys.readouterr().out.replace("\n", " ")
    whole = tiny(LONG, "name=whole", *overrides)
    train(whole)
    assert_same_run(tiny(LONG, *overrides), whole, 9)
    assert going_on.saved_steps(path) == (6, 8, 9)
    kept, other = (yaml.safe_load((one / "config.yaml").read_text()) for one in (path, config_file.run_path(whole)))
    assert kept == other | {"name": kept["name"]}
    assert [launch["steps"] for launch in launches(path)] == [{"before": None, "after": 5}, {"before": 5, "after": 9}]


def test_epochs_and_steps_make_one_run(tiny):
    """40 prompts, 8 a step."""
    path = train(tiny("steps=2", "run.variant=both"))
    assert train(replace(tiny("run.variant=both"), epochs=1.0)) == path
    assert going_on.saved_steps(path)[-1] == 5
    kept = yaml.safe_load((path / "config.yaml").read_text())
    assert (kept["steps"], kept["epochs"]) == (5, 1.0)
    with pytest.raises(UserError, match=r"^steps: got 3 \(epochs=0\.5\), but .* has taken 5 and is beyond"):
        train(replace(tiny("run.variant=both"), epochs=0.5))


def test_fewer_steps_than_it_has_are_refused_and_change_nothing(tiny):
    path = train(tiny(SHORT))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"^steps: got 4, but .* has taken 5 .* step=4 looks at .*\(it has: 2, 4, 5\)"):
        train(tiny("steps=4"))
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("broken", ["steps: many", "epochs: [1]"])
def test_a_length_that_is_none_is_refused(tiny, broken):
    config = tiny(SHORT)
    path = config_file.run_path(config)
    directory.create(path, "rl", directory.to_dict(config))
    key, _, value = broken.partition(": ")
    values = yaml.safe_load((path / "config.yaml").read_text()) | {key: yaml.safe_load(value)}
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    digests.note(path, ["config.yaml"])
    with pytest.raises(UserError, match=rf"config\.yaml says .*{key}=.* expected numbers"):
        train(config)


def test_a_stopped_run_can_be_made_shorter(tiny, monkeypatch):
    stop_before(4, tiny(LONG), monkeypatch)
    path = train(tiny(SHORT))
    assert going_on.saved_steps(path)[-1] == 5
    assert [launch["steps"]["after"] for launch in launches(path)] == [9, 5]


def stop_before(step, config, monkeypatch):
    """The first launch of the config, ended before this step."""
    with monkeypatch.context() as patch:

        def watched(setup):
            trainer = build_trainer(setup)

            def take(state, frozen, batch):
                if batch.step == step:
                    raise UserError("stopped")
                return trainer.take_step(state, frozen, batch)

            return replace(trainer, take_step=take)

        patch.setattr(loop, "build_trainer", watched)
        with pytest.raises(UserError, match="stopped"):
            train(config)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_learning_rate_on_its_way_to_zero_cannot_be_extended(tiny, schedule):
    config = replace(tiny(SHORT), optimizer=replace(tiny().optimizer, schedule=schedule))
    path = config_file.run_path(config)
    (path / "checkpoints" / "5").mkdir(parents=True)
    (path / "checkpoints" / "5" / "manifest.json").touch()
    directory.create(path, "rl", directory.to_dict(config))
    longer = replace(config, steps=9)
    with pytest.raises(UserError, match=rf"^optimizer\.schedule: got {schedule} with steps=9, .* at step 5, .* Give steps=5"):
        train(longer)
    assert going_on.check(path, config).taken == 5  # the same command goes on
    shutil.rmtree(path / "checkpoints" / "5")
    assert going_on.check(path, longer).taken == 0  # nothing has been taken that could be another


def reward_of(tmp_path, monkeypatch, body):
    (tmp_path / "long_reward.py").write_text(f"def reward(completions, trainer_state, **columns):\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "long_reward", raising=False)
    return ["reward=[vader]", "reward.vader.function=long_reward.reward"]


def test_a_reward_that_has_asked_for_the_length_of_the_run_holds_it_to_that(tiny, tmp_path, monkeypatch):
    body = "    return [trainer_state.global_step / trainer_state.max_steps + len(c) for c in completions]"
    reward = reward_of(tmp_path, monkeypatch, body)
    path = train(tiny(SHORT, *reward))
    assert going_on.asked(path, 5) == ["reward.vader"]
    with pytest.raises(UserError, match=r"^reward\.vader: its function has asked for trainer_state\.max_steps, which was 5 in"):
        train(tiny(LONG, *reward))
    same = tiny(SHORT, *reward)
    going_on.check_rewards(going_on.check(path, same), same, {"reward.vader"})


def test_a_reward_that_could_ask_and_does_not_can_be_extended(tiny, tmp_path, monkeypatch):
    """Until a checkpoint does not say whether it did: those of older versions."""
    reward = reward_of(tmp_path, monkeypatch, "    return [float(trainer_state.global_step + len(c)) for c in completions]")
    path = train(tiny("steps=2", *reward))
    assert going_on.asked(train(tiny("steps=3", *reward)), 3) == []
    about = path / "checkpoints" / "3" / "about" / "metadata"
    about.write_text(json.dumps({key: value for key, value in json.loads(about.read_text()).items() if key != going_on.ASKED}))
    with pytest.raises(UserError, match=r"may have asked .*older version"):
        train(tiny("steps=4", *reward))
    same = tiny("steps=3", *reward)
    going_on.check_rewards(going_on.check(path, same), same, {"reward.vader"})


def test_it_keeps_the_form_that_its_first_launch_chose(tiny, monkeypatch, capsys):
    """From 10 steps on layers would be compiled one by one, which changes last digits."""
    monkeypatch.setattr(resources, "FEW_LAYERS", 0)
    path = train(tiny(SHORT))
    train(tiny("steps=10"))
    assert "compiled as a loop, as before in this run" in capsys.readouterr().out.replace("\n", " ")
    assert [launch["chosen"]["unroll_layers"] for launch in launches(path)] == [False, False]
    train(whole := tiny("steps=10", "name=whole", "run.unroll_layers=false"))
    assert_same_run(tiny("steps=10", "run.unroll_layers=false"), whole, 10)


def test_a_run_that_its_budget_stopped_comes_to_the_same_step(tiny, capsys):
    budget = ["kl.hard_budget=0.005", "optimizer.learning_rate=0.01"]
    path = train(tiny(SHORT, *budget))
    stopped = going_on.saved_steps(path)
    assert max(stopped) < 5
    capsys.readouterr()
    train(tiny(LONG, *budget))
    assert going_on.saved_steps(path) == stopped
    said = capsys.readouterr().out.replace("\n", " ")
    assert ("Going on" in said) == (max(stopped) > 0)
    assert "more than 0.005. The run stops" in said
