"""Meshes that fit, and the sentences for those that do not."""

import jax
import pytest

from kljax.config import MeshConfig
from kljax.devices import mesh as meshes
from kljax.errors import UserError
from kljax.runs.setup import prepare


def mesh(data, fsdp, tensor):
    return meshes.build(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@pytest.mark.parametrize(
    ("given", "shape"), [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 1, 1), (1, 1, 1)), ((1, 4, -1), (1, 4, 2))]
)
def test_minus_one_takes_the_rest(given, shape):
    assert jax.device_count() == 8
    assert tuple(mesh(*given).shape.values()) == shape


def test_axes_are_auto():
    """Recent JAX makes Explicit axes by default, with which the embedding look-up fails."""
    assert set(mesh(2, 2, 2).axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((3, -1, 1), r"mesh: data=3 × fsdp=-1 × tensor=1 does not fit the 8 devices .* \(1, 2, 4, 8\)"),
        ((16, 1, 1), r"does not fit the 8 devices"),
        ((-1, -1, 1), r"mesh.fsdp: got -1, expected a number: only one axis can take the rest, and mesh.data does"),
        ((0, 1, 1), r"mesh.data: got 0, expected a number of devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        mesh(*given)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["mesh.data=8", "rollout.prompts=12"], r"rollout.prompts: 12 cannot be divided over 8 devices .*such as 8 or 16"),
        (["mesh.data=8", "rollout.prompts=3"], r"rollout.prompts: 3 .* such as 8, or a mesh size among 1, 3"),
        (["mesh.fsdp=4", "pretrain.batch=6"], r"pretrain.batch: 6 cannot be divided over 4 devices \(mesh.data × mesh.fsdp\)"),
        (["mesh.tensor=4"], r"model.heads: 2 cannot be divided over 4 devices \(mesh.tensor\)"),
        (["mesh.fsdp=8", "model.d_model=20"], r"model.d_model: 20 cannot be divided over 8 devices"),
        (["rollout.microbatches=3"], r"rollout.microbatches: got 3, expected a divisor .*over 1 device: 1, 2, 4, 8\."),
        (["mesh.data=2", "rollout.microbatches=8"], r"rollout.microbatches: got 8, .*over 2 devices: 1, 2, 4\."),
        (["mesh.tensor=2", "model.kv_heads=1"], r"model.kv_heads: 1 cannot be divided over 2 devices"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_those_that_would(tiny, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare(tiny("rollout.prompts=8", *overrides))
