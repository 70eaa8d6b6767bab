"""Fits that diverge, in each way: what is said, and that nothing of it is kept."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.devices.state import all_finite, not_finite
from kljax.errors import UserError
from kljax.fitting import divergence, objectives
from kljax.fitting import fit as fitting
from kljax.fitting.fit import ensure_base
from kljax.runs import checkpoints
from kljax.runs.checkpoints import load_params, save_params
from kljax.runs.setup import base_path, prepare

SHORT = ["pretrain.steps=20", "pretrain.eval_every=10"]


def check_nothing_is_kept(setup, steps=()):
    """Of a refused fit: the sound checkpoints before it, a log without NaN, and nothing that others take for a result."""
    path = base_path(setup)
    assert not any((path / name).exists() for name in ("result.json", "huggingface", "checkpoints/reference"))
    kept = checkpoints.Checkpoints(path)
    assert kept.steps() == list(steps)
    kept.close()
    log = path / "metrics.jsonl"
    lines = [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()] if log.exists() else []
    assert [line["step"] + 1 for line in lines] == list(steps)
    assert not any(value is None for line in lines for value in line.values())


def planted(monkeypatch, change):
    """The task's objective with a part of it changed."""
    real = objectives.build
    monkeypatch.setattr(fitting.objectives, "build", lambda setup: change(real(setup)))


def nan_from(update, taken):
    """An objective whose loss is NaN from this update on: the batch says which it is, and so does `taken`."""

    def change(objective):
        def batch(step):
            taken.append(step + 1)
            return objective.batch(step), np.full(16, step >= update - 1)

        def loss(model, batch, key):
            rows, now = batch
            return jnp.where(now.any(), jnp.nan, 1.0) * objective.loss(model, rows, key)

        return replace(objective, batch=batch, loss=loss)

    return change


@pytest.mark.parametrize(
    ("objective", "overrides", "words"),
    [
        ("classification", ["pretrain.optimizer.learning_rate=1e30"], "loss is nan, of parameters that are finite"),
        ("masked_token", ["pretrain.optimizer.learning_rate=1e30"], "diverged at update 2 of 20"),
        ("regression", ["pretrain.optimizer.learning_rate=1e30"], "diverged at update 2 of 20"),
        ("preference", ["pretrain.optimizer.learning_rate=1e30"], "diverged at update 2 of 20"),
        (
            "rated_pairs",
            ["pretrain.optimizer.learning_rate=3e38", "pretrain.optimizer.weight_decay=1e4"],
            "diverged at update 1 of 20: loss and gradient are finite, but the parameters or the optimiser's moments after it",
        ),
    ],
)
def test_a_diverged_fit_of_any_kind_is_refused_and_keeps_nothing(toy, objective, overrides, words):
    if objective == "masked_token":
        overrides = [*overrides, toy.echoes, "data.prompt_fraction=0.0"]
    setup = prepare(toy(objective, *SHORT, *overrides))
    with pytest.raises(UserError) as raised:
        ensure_base(setup)
    sentence = str(raised.value)
    assert words in sentence
    assert "Nothing of it was saved; the same command would begin again" in sentence
    assert f"a lower pretrain.optimizer.learning_rate (now {setup.config.pretrain.optimizer.learning_rate:g})" in sentence
    check_nothing_is_kept(setup)


def test_the_first_bad_update_is_named_and_the_last_sound_checkpoint(toy, monkeypatch):
    """Found two updates later at most, not at the next look."""
    taken = []
    planted(monkeypatch, nan_from(13, taken))
    setup = prepare(toy("classification", *SHORT))
    with pytest.raises(UserError, match=r"at update 13 of 20: the training loss is nan.* is that of step 10, from which"):
        ensure_base(setup)
    assert max(taken) == 14
    check_nothing_is_kept(setup, [10])
    with pytest.raises(UserError, match="at update 13 of 20"):  # the same command
        ensure_base(setup)


def test_a_gradient_without_a_norm_is_told_from_a_loss_without_a_number(toy, monkeypatch):
    def change(objective):
        def loss(model, rows, key):
            value = objective.loss(model, rows, key)
            return value + jnp.sqrt(value - jax.lax.stop_gradient(value))  # 0, with an infinite slope

        return replace(objective, loss=loss)

    planted(monkeypatch, change)
    setup = prepare(toy("classification", *SHORT))
    with pytest.raises(UserError, match=r"at update 1 of 20: the training loss is 0\.\d+, but its gradient has the norm"):
        ensure_base(setup)
    check_nothing_is_kept(setup)


def test_a_model_that_gives_no_number_for_held_out_rows_alone_is_refused(toy, monkeypatch):
    """Before the first update, when no learning rate is to blame, and after some."""

    def change(objective):
        calls = []

        def outputs(params, rows):
            calls.append(None)
            values = real(params, rows)
            if len(calls) >= first:
                values[3, 1] = np.inf
            return values

        monkeypatch.setattr(fitting, "_compile_outputs", lambda setup, objective: outputs)
        return objective

    setup = prepare(toy("classification", *SHORT))
    real = fitting._compile_outputs(setup, objectives.build(setup))
    planted(monkeypatch, change)
    first = 1
    with pytest.raises(UserError, match=r"the model gives inf for held-out row 3, .* No update is the cause .* in float32"):
        ensure_base(setup)
    first = 3
    with pytest.raises(UserError, match=r"at update 20 of 20: the training loss is finite, but the model gives inf for"):
        ensure_base(setup)
    check_nothing_is_kept(setup, [10])


def test_random_parameters_are_no_fit(toy, monkeypatch):
    looks = iter(range(1, 99))
    planted(monkeypatch, lambda objective: replace(objective, figures=lambda outputs, rows: {"loss": float(next(looks))}))
    setup = prepare(toy("classification", *SHORT))
    with pytest.raises(UserError, match=r"nothing was learnt: in none of 2 looks .* or more pretrain.steps \(now 20\)"):
        ensure_base(setup)
    assert not (base_path(setup) / "result.json").exists()


def test_ratings_that_no_parameter_can_hold_are_refused(toy, tmp_path):
    file = tmp_path / "ratings.jsonl"
    file.write_text("".join(json.dumps({"text": f"word{i % 5} a", "rating": (i % 4) * 1e38}) + "\n" for i in range(60)))
    setup = prepare(toy("regression", *SHORT, f"data.source.path={file}"))
    with pytest.raises(UserError, match=r"holds [123]e\+38 in training row \d+, whose square is too large for .*1e\+18"):
        ensure_base(setup)
    assert not base_path(setup).exists()
    with pytest.raises(UserError, match=r"the fitted model holds a number that float32 cannot, in out.bias; expected smaller"):
        divergence.check_result(setup, {"out": {"bias": jnp.full(1, jnp.inf)}})


def test_a_directory_of_a_diverged_fit_of_an_older_version_is_refused(tiny, tmp_path):
    """Weights with one NaN, as such a version kept them, and a checkpoint of one."""
    setup = prepare(tiny())
    arch = setup.architecture
    params = arch.init(0)
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[2].set(jnp.nan)
    save_params(tmp_path, params)
    with pytest.raises(UserError, match=r"reference holds a number that is not finite, in final_norm.scale: .* Remove "):
        load_params(tmp_path, arch.shapes, arch.shardings)
    checks = divergence.FitChecks(setup, tmp_path, checkpoints.Checkpoints(tmp_path / "fit"))
    with pytest.raises(UserError, match=r"the checkpoint of step 7 in .* \(final_norm.scale\): an older version .* lower"):
        checks.restored(7, params)


def test_every_number_of_a_tree_is_looked_at():
    sound = {"key": jax.random.key(0), "step": jnp.zeros((), jnp.int32), "half": jnp.ones(3, jnp.bfloat16), "none": None}
    assert all_finite(sound)
    assert all_finite({})
    for value in (np.nan, np.inf, -np.inf):
        broken = sound | {"moment": {"mu": jnp.ones((2, 3)).at[1, 2].set(value)}}
        assert not all_finite(broken)
        assert not_finite(broken) == "moment.mu"
    assert not_finite(sound | {"half": jnp.full(2, jnp.nan, jnp.float16)}) == "half"
