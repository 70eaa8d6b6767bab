"""Saving and restoring, and refusing what would mean something else."""

import shutil
from dataclasses import replace

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
from kljax.runs.checkpoints import Checkpoints, Keep, frozen_hash, load_frozen, load_params, save_frozen, save_params
from kljax.runs.setup import prepare
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


def test_what_an_older_version_saved_layer_by_layer_is_read(trainer, tmp_path):
    """Parts of its states and its frozen models, known by the hash of their names of then."""
    state, arch = state_of(trainer), trainer.setup.architecture
    params = stack(state.params)
    older = {**params, "layers": {str(i): layer_of(params["layers"], i) for i in range(1)}}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, replace(state, params=older))
    checkpoints.wait()
    shapes, shardings = ({"params": each} for each in (arch.shapes, arch.shardings))
    assert_equal(checkpoints.restore_parts(1, shapes, shardings, None)["params"], params)
    checkpoints.close()
    save_params(tmp_path, older)
    _, reference, known = load_frozen(tmp_path, arch.shapes, arch.shardings)
    assert_equal(reference, params)
    assert known == params_hash(older | {"layers": [older["layers"]["0"]]})  # they took it of a list of layers


def test_the_last_are_kept_and_some_for_analysis(trainer, tmp_path):
    state = state_of(trainer)
    checkpoints = Checkpoints(tmp_path, Keep(last=2, every=4))
    for step in range(1, 8):
        checkpoints.save(step, state)
    checkpoints.wait()
    assert checkpoints.steps() == [4, 6, 7]
    checkpoints.close()


def test_a_step_without_its_manifest_is_not_there_and_a_changed_one_is_set_aside(trainer, tmp_path):
    state = state_of(trainer)
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state)
    checkpoints.close()
    folder = tmp_path / "checkpoints"
    (folder / "3" / "manifest.json").unlink()
    largest = max((folder / "2" / "state").rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1, 2]
    with pytest.raises(UserError, match=r"was changed since it was written .* delete \S+/2: the run goes on from step 1"):
        checkpoints.restore(2, trainer.shapes, trainer.parts.shardings)
    step, said = checkpoints.newest_whole()
    assert (step, checkpoints.steps()) == (1, [1])
    assert [sentence.partition(" is set aside, in ")[2] for sentence in said] == [f"{folder}/set_aside/{n}." for n in (3, 2)]
    checkpoints.save(2, state)
    checkpoints.close()
    assert (folder / "2" / "manifest.json").exists()


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


def test_folders_of_another_run_and_under_another_name_are_not_taken(trainer, tiny, tmp_path):
    """Their digests are right: a manifest says whose it is, too, however long that run is and wherever it lies."""
    state, config = state_of(trainer), trainer.setup.config
    runs = {name: tmp_path / name for name in ("one", "longer", "other")}
    changed = {"longer": replace(config, steps=9), "other": replace(config, seed=1)}
    for name, run in runs.items():
        directory.create(run, "rl", to_dict(changed.get(name, config)))
    checkpoints = Checkpoints(runs["one"])
    checkpoints.save(2, state)
    checkpoints.close()
    for name, step, said in (
        ("longer", 2, None),
        ("other", 2, "was written by another run"),
        ("one", 4, "was written under another name, 2"),
    ):
        shutil.copytree(runs["one"] / "checkpoints" / "2", runs[name] / "checkpoints" / str(step))
        checkpoints = Checkpoints(runs[name])
        found, sentences = checkpoints.newest_whole()
        checkpoints.close()
        assert found == (2 if name != "other" else None)
        assert [sentence.partition(". It is")[0].rpartition(f"{step} ")[2] for sentence in sentences] == (
            [said] if said else []
        )
