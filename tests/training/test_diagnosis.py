"""A number that is not finite: where it came from is said, no file holds it, and the state before it can be gone on from."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.devices.state import all_finite
from kljax.errors import UserError
from kljax.runs import config_file, directory
from kljax.runs.checkpoints import Checkpoints
from kljax.training import loop
from kljax.training.diagnosis import cause
from kljax.training.loop import train
from kljax.training.trainer import build_trainer

FINITE = {
    "reward/terms/sentiment": 1.0,
    "reward/mean": 1.0,
    "policy/entropy_tok": 1.0,
    "kl/forward_exact_on_policy_tok": 0.1,
    "kl/reverse_exact_seq": 0.1,
    "policy/penalty_loss": 0.1,
    "policy/loss": 0.1,
    "policy/grad_norm": 1.0,
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", range(len(FINITE)))
def test_the_first_of_a_step_is_the_cause_of_all_after_it(tiny, first, value):
    names = list(FINITE)
    spoilt = FINITE | dict.fromkeys(names[first:], value)
    assert cause(spoilt, tiny()).startswith(f"{names[first]} is {value}, expected a finite number: ")


def test_what_trains_nothing_is_no_cause(tiny):
    config = tiny("reward=[sentiment,length]", "reward.length.weight=0")
    assert cause(FINITE | {"reward/terms/length": math.nan, "kl/reverse_k3_seq": math.inf}, config) is None


def test_a_python_term_that_says_none_of_a_whole_batch_is_no_cause(tiny):
    config = tiny("reward=[sentiment,regex]", "reward.regex.arguments.pattern=x")
    assert cause(FINITE | {"reward/terms/regex": math.nan}, config) is None


def test_before_the_first_update_no_update_is_the_cause(tiny):
    spoilt = FINITE | {"policy/entropy_tok": math.nan}
    assert "base model gives no probabilities at rollout.temperature=1" in cause(spoilt, tiny(), begun=False)


def nan(tree):
    return jax.tree.map(lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


PLANTS = {
    # what is NaN from the fourth step on: (state, frozen) → (state, frozen), the metric that tells, and its cause
    "policy": (lambda s, f: (replace(s, params=nan(s.params)), f), "policy/entropy_tok", "the policy gives no probabilities"),
    "reference": (
        lambda s, f: (s, replace(f, reference=nan(f.reference))),
        "kl/forward_exact_on_policy_tok",
        "the reference is not",
    ),
    "beta": (lambda s, f: (replace(s, controller=nan(s.controller)), f), "kl/beta", "the controller has raised it"),
    "moments": (lambda s, f: (replace(s, opt_state=nan(s.opt_state)), f), "what the optimiser made", "learning_rate"),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_step_that_is_not_finite_stops_the_run_and_the_same_command_goes_on_before_it(tiny, monkeypatch, name):
    plant, metric, why = PLANTS[name]
    whole = train(tiny("run.variant=whole"))

    def planted(setup):
        trainer = build_trainer(setup)

        def take_step(state, frozen, batch):
            return trainer.take_step(*(plant(state, frozen) if batch.step == 3 else (state, frozen)), batch)

        return replace(trainer, take_step=take_step)

    config = tiny(f"run.variant={name}")
    told = rf"^step 3, counted from 0: .*{metric}.*{why}.*its last checkpoint is of step 2"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_trainer", planted)
        with pytest.raises(UserError, match=told) as raised:
            train(config)
    assert "nan" not in str(raised.value).partition("expected")[2]
    path = config_file.run_path(config)
    written = "".join(file.read_text() for file in (*path.glob("*.jsonl"), *path.glob("*.json")))
    assert "NaN" not in written
    assert "Infinity" not in written
    assert states(path) == [2]
    train(config)
    assert states(path) == [2, 4, 6]
    times = ("time/", "memory/")
    lines = [
        [{k: v for k, v in line.items() if not k.startswith(times)} for line in directory.read_lines(p / "metrics.jsonl")]
        for p in (whole, path)
    ]
    assert lines[0] == lines[1]


def states(path):
    checkpoints = Checkpoints(path)
    found = checkpoints.steps()
    checkpoints.close()
    return found


def test_a_jax_reward_that_is_nan_is_named_before_anything_is_trained(tiny, tmp_path, monkeypatch):
    (tmp_path / "nan_reward.py").write_text(
        "import jax.numpy as jnp\ndef make(tokenizer):\n    return lambda rollout: jnp.log(rollout.mask.sum(axis=-1) - 99.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny("reward=jax", "reward.jax.function=nan_reward.make")
    with pytest.raises(UserError, match=r"^before the first step: reward/terms/jax is .*: 'nan_reward.make' is none for some"):
        train(config)
    assert not config_file.run_path(config).exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_number_among_many_is_found(value, dtype):
    tree = {"a": jnp.zeros((3, 4), dtype).at[2, 1].set(value), "step": jnp.int32(3), "key": jax.random.key(0)}
    assert all_finite(tree) == bool(np.isfinite(value))
