"""Saving and restoring, and refusing what would mean something else."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import to_dict
from kljax.devices.mesh import replicated
from kljax.devices.state import params_hash
from kljax.errors import UserError
from kljax.models.layers import layer_of, stack
from kljax.runs import directory
from kljax.runs.checkpoints import Checkpoints, check_version, frozen_hash, load_frozen, load_params, save_frozen, save_params
from kljax.runs.setup import base_identity, prepare
from kljax.training.trainer import build_trainer


@pytest.fixture
def trainer(tiny):
    return build_trainer(prepare(tiny()))


def params_of(trainer, seed=0):
    return trainer.setup.architecture.init(seed)


def state_of(trainer, seed=0):
    params = params_of(trainer, seed)
    return trainer.initial_state(params, params)


def assert_equal(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        raw = jax.random.key_data if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray
        np.testing.assert_array_equal(raw(a), raw(b))


def test_a_state_comes_back_bit_for_bit(trainer, tmp_path):
    state = state_of(trainer)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {"reference": "hash"})
    checkpoints.wait()
    restored = checkpoints.restore(3, trainer.shapes, trainer.parts.shardings, "hash")
    assert checkpoints.steps() == [3]
    checkpoints.close()
    assert_equal(restored, state)
    assert type(restored) is type(state)


def test_a_run_may_go_on_in_the_other_form(tiny, tmp_path):
    """Layers one by one or stacked in the program: on disk they are stacked."""
    stacked, one_by_one = (
        build_trainer(prepare(tiny("model.layers=3", f"run.unroll_layers={each}"))) for each in ("false", "true")
    )
    assert (stacked.unrolled, one_by_one.unrolled) == (False, True)
    state = state_of(one_by_one)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()
    same, other = (checkpoints.restore(1, each.shapes, each.parts.shardings) for each in (one_by_one, stacked))
    checkpoints.close()
    assert jax.tree.structure(same) == jax.tree.structure(state)
    assert jax.tree.structure(other) == jax.tree.structure(state_of(stacked))
    assert_equal(same, state)
    assert_equal(other, state_of(stacked))


def test_parts_of_a_state_are_read_without_the_others(trainer, tmp_path):
    """In the form of files, whatever that of the program is."""
    state = state_of(trainer)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {"reference": "hash"})
    checkpoints.wait()
    arch, whole = trainer.setup.architecture, replicated(trainer.setup.mesh)
    shapes = {"params": arch.shapes, "controller": trainer.shapes.controller}
    shardings = {"params": arch.shardings, "controller": jax.tree.map(lambda _: whole, trainer.shapes.controller)}
    found = checkpoints.restore_parts(1, shapes, shardings, "hash")
    with pytest.raises(UserError, match="was trained against the reference hash"):
        checkpoints.restore_parts(1, shapes, shardings, "other")
    checkpoints.close()
    assert set(found) == {"params", "controller"}
    assert_equal(found["params"], stack(state.params))
    assert type(found["controller"]) is type(state.controller)
    assert_equal(found["controller"], state.controller)


@pytest.mark.parametrize("kind", ["run", "fit"])
def test_what_an_older_version_saved_is_said_to_be_older(trainer, tmp_path, kind):
    """A fit is removed as a whole: its checkpoints are older, too. Of a run nothing is: the version that wrote it needs all."""
    state, setup = state_of(trainer), trainer.setup
    directory.create(tmp_path, to_dict(setup.config) if kind == "run" else base_identity(setup))
    older = {**state.params, "layers": {str(i): layer_of(stack(state.params)["layers"], i) for i in range(1)}}
    way_on = (
        "begin anew (name=…), or from its policy, as that version's experiments/export.py writes it (model.path=DIR)."
        if kind == "run"
        else f"remove {tmp_path}: the command that made it makes it again."
    )
    said = "was written by an older version of kljax, which saved each layer by itself; " + way_on
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, replace(state, params=older))
    checkpoints.wait()
    folder = tmp_path / "checkpoints"
    with pytest.raises(UserError) as error:
        checkpoints.restore(1, trainer.shapes, trainer.parts.shardings)
    assert str(error.value) == f"{folder / '1' / 'state'} {said}"
    checkpoints.close()
    with pytest.raises(UserError) as error:
        check_version(tmp_path)
    assert str(error.value) == f"{folder / '1' / 'state'} {said}"
    save_params(tmp_path, older)
    for check in (
        check_version,
        partial(load_params, shapes=setup.architecture.shapes, shardings=setup.architecture.shardings),
    ):
        with pytest.raises(UserError) as error:
            check(tmp_path)
        assert str(error.value) == f"{folder / 'reference'} {said}"


def test_what_was_saved_is_the_state_at_the_time_of_saving(trainer, tmp_path):
    """The next step donates the state's buffers while the checkpoint is still being written."""
    state = state_of(trainer)
    kept = jax.tree.map(jnp.copy, state)
    reference = jax.tree.map(jnp.copy, state.params)
    frozen = trainer.freeze(reference, reference)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, state, {"reference": "hash"})
    for step in range(3):
        state, _, _ = trainer.take_step(state, frozen, trainer.batch(step))
    checkpoints.wait()
    restored = checkpoints.restore(0, trainer.shapes, trainer.parts.shardings, "hash")
    checkpoints.close()
    assert_equal(restored, kept)


def test_another_reference_is_refused(trainer, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(trainer), {"reference": "0123456789abcdef"})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"trained against the reference 0123456789ab…, this one is fedcba987654…"):
        checkpoints.restore(1, trainer.shapes, trainer.parts.shardings, "fedcba9876543210")
    checkpoints.close()


def test_another_model_is_refused(trainer, tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(trainer), {"reference": "hash"})
    checkpoints.wait()
    wider = build_trainer(prepare(tiny("model.d_model=32")))
    with pytest.raises(UserError, match="holds another model"):
        checkpoints.restore(1, wider.shapes, wider.parts.shardings, "hash")
    checkpoints.close()


def test_the_reference_comes_back_with_its_hash(trainer, tmp_path):
    params = params_of(trainer)
    arch = trainer.setup.architecture
    assert save_frozen(tmp_path, params, params) == params_hash(params)
    base, reference, digest = load_frozen(tmp_path, arch.shapes, arch.shardings)
    assert_equal(reference, params)
    assert base is reference
    assert digest == params_hash(params)


def test_a_base_of_its_own_comes_back_too_and_counts_in_the_hash(trainer, tmp_path):
    arch = trainer.setup.architecture
    base, reference = (params_of(trainer, seed) for seed in (0, 1))
    digest = save_frozen(tmp_path, base, reference)
    again = load_frozen(tmp_path, arch.shapes, arch.shardings)
    assert_equal(again[:2], (base, reference))
    assert again[2] == digest != frozen_hash(reference, base)


def test_a_lower_precision_comes_back_as_it_was(trainer, tmp_path):
    arch = trainer.setup.architecture
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params_of(trainer))
    save_params(tmp_path, low)
    assert_equal(load_params(tmp_path, arch.shapes, arch.shardings), low)
    types = {leaf.dtype for leaf in jax.tree.leaves(load_params(tmp_path, arch.shapes, arch.shardings))}
    assert types == {jnp.dtype(jnp.bfloat16)}


def test_a_reference_is_written_once(trainer, tmp_path):
    arch = trainer.setup.architecture
    first = params_of(trainer, seed=0)
    save_params(tmp_path, first)
    save_params(tmp_path, params_of(trainer, seed=1))
    assert_equal(load_params(tmp_path, arch.shapes, arch.shardings), first)


def test_a_missing_reference_is_said(trainer, tmp_path):
    arch = trainer.setup.architecture
    with pytest.raises(UserError, match="holds no reference model"):
        load_params(tmp_path, arch.shapes, arch.shardings)


def test_the_hash_sees_every_bit_and_every_name():
    params = {"a": jnp.arange(4.0), "b": jnp.ones(2)}
    assert params_hash(params) == params_hash(jax.tree.map(jnp.copy, params))
    assert params_hash(params) != params_hash({"a": jnp.nextafter(params["a"], jnp.inf), "b": params["b"]})
    assert params_hash(params) != params_hash({"a": params["a"], "c": params["b"]})
    assert params_hash(params) != params_hash({"a": params["a"].reshape(2, 2), "b": params["b"]})
