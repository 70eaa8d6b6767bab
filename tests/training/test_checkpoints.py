"""Saving and restoring, and refusing what would mean something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.errors import UserError
from kljax.training.checkpoints import Checkpoints, load_reference, save_reference
from kljax.training.loop import build_trainer
from kljax.training.state import initial_state, params_hash
from kljax.training.task import prepare


@pytest.fixture
def trainer(tiny):
    return build_trainer(prepare(tiny()))


def state_of(trainer, seed=0):
    task, parts = trainer.task, trainer.parts
    params = task.architecture.init(task.config.model, seed)
    return initial_state(params, parts.optimizer, parts.controller, task.config.seed, parts.shardings)


def assert_equal(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        raw = jax.random.key_data if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray
        np.testing.assert_array_equal(raw(a), raw(b))


def test_a_state_comes_back_bit_for_bit(trainer, tmp_path):
    state = state_of(trainer)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, "hash")
    checkpoints.wait()
    restored = checkpoints.restore(3, trainer.shapes, trainer.parts.shardings, "hash")
    assert checkpoints.steps() == [3]
    checkpoints.close()
    assert_equal(restored, state)
    assert type(restored) is type(state)


def test_what_was_saved_is_the_state_at_the_time_of_saving(trainer, tmp_path):
    """The next step donates the state's buffers while the checkpoint is still being written."""
    state = state_of(trainer)
    kept = jax.tree.map(jnp.copy, state)
    reference = jax.tree.map(jnp.copy, state.params)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, state, "hash")
    for step in range(3):
        state, _, _ = trainer.take_step(state, reference, trainer.batch(step))
    checkpoints.wait()
    restored = checkpoints.restore(0, trainer.shapes, trainer.parts.shardings, "hash")
    checkpoints.close()
    assert_equal(restored, kept)


def test_another_reference_is_refused(trainer, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(trainer), "0123456789abcdef")
    checkpoints.wait()
    with pytest.raises(UserError, match=r"trained against the reference 0123456789ab…, this one is fedcba987654…"):
        checkpoints.restore(1, trainer.shapes, trainer.parts.shardings, "fedcba9876543210")
    checkpoints.close()


def test_another_model_is_refused(trainer, tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(trainer), "hash")
    checkpoints.wait()
    wider = build_trainer(prepare(tiny("model.d_model=32")))
    with pytest.raises(UserError, match="holds another model"):
        checkpoints.restore(1, wider.shapes, wider.parts.shardings, "hash")
    checkpoints.close()


def test_the_reference_comes_back_with_its_hash(trainer, tmp_path):
    params = state_of(trainer).params
    arch = trainer.task.architecture
    save_reference(tmp_path, params)
    restored, digest = load_reference(tmp_path, arch.shapes, arch.shardings)
    assert_equal(restored, params)
    assert digest == params_hash(params)


def test_a_reference_is_written_once(trainer, tmp_path):
    arch = trainer.task.architecture
    first = state_of(trainer, seed=0).params
    save_reference(tmp_path, first)
    save_reference(tmp_path, state_of(trainer, seed=1).params)
    assert load_reference(tmp_path, arch.shapes, arch.shardings)[1] == params_hash(first)


def test_a_missing_reference_is_said(trainer, tmp_path):
    arch = trainer.task.architecture
    with pytest.raises(UserError, match="holds no reference model"):
        load_reference(tmp_path, arch.shapes, arch.shardings)


def test_the_hash_sees_every_bit_and_every_name():
    params = {"a": jnp.arange(4.0), "b": jnp.ones(2)}
    assert params_hash(params) == params_hash(jax.tree.map(jnp.copy, params))
    assert params_hash(params) != params_hash({"a": jnp.nextafter(params["a"], jnp.inf), "b": params["b"]})
    assert params_hash(params) != params_hash({"a": params["a"], "c": params["b"]})
    assert params_hash(params) != params_hash({"a": params["a"].reshape(2, 2), "b": params["b"]})
