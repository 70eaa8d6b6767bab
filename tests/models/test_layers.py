"""Layers in a loop against the same layers one by one, and a program that is as large for many layers as for few."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from kljax.config import LoraAdapter, MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import decoder_architecture
from kljax.models.decoder import Layer, causal_mask, positions_of
from kljax.models.layers import is_unrolled, layer_of, make_layers, names_of_layers, stack, unroll
from kljax.models.lora import add_adapters
from kljax.models.sampling import Sampler, sample_with_activations
from kljax.models.scoring import score
from kljax.types import Prompts

VOCAB, WIDTH, SAMPLES, DEPTH = 13, 5, 2, 3
SAMPLER = Sampler(samples=SAMPLES, max_new_tokens=6, temperature=0.8, top_k=0, top_p=1.0, eos_ids=(2,), pad_id=0)
KINDS = {
    "gpt2": ("gpt2", {}),
    "gpt2, remat of each layer": ("gpt2", {"remat": "layer"}),
    "llama, remat of each MLP": ("llama", {"remat": "mlp"}),
    "olmo2": ("olmo2", {}),
    "every second layer without positions": ("smollm3", {}),
    "adapters": ("llama", {}),
}


def parts_of(make_decoder, kind):
    family, changes = KINDS[kind]
    model = make_decoder(family, layers=DEPTH, **changes)
    if kind == "adapters":
        add_adapters(model, LoraAdapter(kind="lora", rank=2, alpha=4.0, targets=None), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    return graphdef, nnx.to_pure_dict(params)


def prompts():
    rng = np.random.default_rng(0)
    return Prompts(jnp.array(rng.integers(3, VOCAB, (3, WIDTH))), jnp.array(np.arange(WIDTH) >= np.arange(3)[:, None]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_over_the_layers_is_one_after_another(make_decoder, kind):
    """Sampling, what it keeps, scores and gradients, with and without what is kept."""
    graphdef, params = parts_of(make_decoder, kind)
    reference = make_decoder("llama", 1)

    def compute(params):
        rollout, known = sample_with_activations(nnx.merge(graphdef, params), prompts(), jax.random.key(0), SAMPLER)

        def total(params, known):
            scores = score(nnx.merge(graphdef, params), reference, rollout, SAMPLES, 0.8, known=known)
            shown = jax.tree.map(lambda x: jnp.where(rollout.mask, x, 0.0), scores)
            return sum(jnp.sum(x * (i + 1)) for i, x in enumerate(jax.tree.leaves(shown))), shown

        gradients = tuple(jax.grad(total, has_aux=True)(params, each) for each in (known, None))
        return rollout, stack(known), stack(gradients)

    one_by_one = unroll(params, DEPTH)
    assert (is_unrolled(params), is_unrolled(one_by_one)) == (False, True)
    looped, one_after_another = jax.jit(compute)(params), jax.jit(compute)(one_by_one)
    np.testing.assert_array_equal(looped[0].tokens, one_after_another[0].tokens)
    for a, b in zip(jax.tree.leaves(looped), jax.tree.leaves(one_after_another), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(1 + jnp.abs(b).max()))


def test_dropout_is_the_same_in_both(make_decoder, family):
    graphdef, params = nnx.split(make_decoder(family, layers=DEPTH))
    tokens = jnp.array(np.random.default_rng(0).integers(0, VOCAB, (2, 9)))
    inputs = tokens, positions_of(jnp.ones((2, 9), bool)), causal_mask(jnp.ones((2, 9), bool))
    params = nnx.to_pure_dict(params)
    looped, one_after_another = (
        jax.jit(lambda p: nnx.merge(graphdef, p)(*inputs, dropout_key=jax.random.key(3))[0])(each)
        for each in (params, unroll(params, DEPTH))
    )
    np.testing.assert_allclose(looped, one_after_another, atol=1e-5)


def test_layers_made_together_are_those_made_one_after_another(make_decoder, family):
    config = make_decoder(family, layers=DEPTH).config
    rngs, same = nnx.Rngs(5), nnx.Rngs(5)
    together = nnx.to_pure_dict(nnx.state(make_layers(lambda rngs: Layer(config, rngs=rngs), DEPTH, rngs)))
    for i in range(DEPTH):
        alone = nnx.to_pure_dict(nnx.state(Layer(config, rngs=same)))
        jax.tree.map(np.testing.assert_array_equal, layer_of(together, i), alone)
    np.testing.assert_array_equal(jax.random.key_data(rngs()), jax.random.key_data(same()))


def test_unrolling_is_undone_by_stacking(make_decoder):
    mesh = meshes.build(MeshConfig(data=1, fsdp=4, tensor=2))
    config = replace(make_decoder("llama", layers=DEPTH).config, d_model=16)
    arch = decoder_architecture(config, VOCAB + 3, mesh)
    params = arch.init(0)
    for tree in (params, arch.shapes, arch.shardings):
        unrolled = unroll(tree, DEPTH)
        assert len(jax.tree.leaves(unrolled)) > len(jax.tree.leaves(tree))
        same = jax.tree.map(lambda a, b: bool(np.all(a == b)), stack(unrolled), tree)
        assert jax.tree.all(same)
    assert unroll(arch.shardings, DEPTH)["layers"]["mlp"]["up"]["kernel"][0] == NamedSharding(
        mesh, PartitionSpec("fsdp", "tensor")
    )
    assert stack(params) is not params
    jax.tree.map(np.testing.assert_array_equal, stack(params), params)


def test_parameters_have_the_names_of_their_layers():
    leaf = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert names_of_layers(["body", "layers", "up", "bias"], leaf) == [("body", "layers", i, "up", "bias") for i in (0, 1)]
    assert names_of_layers(["embed", "embedding"], leaf) == [("embed", "embedding")]


def test_the_program_of_a_gradient_is_as_large_for_many_layers_as_for_few(make_decoder, family):
    def lines(layers):
        graphdef, params = nnx.split(make_decoder(family, layers=layers))
        tokens, mask = jnp.zeros((2, 9), int), jnp.ones((2, 9), bool)

        def total(params):
            fixed, model = nnx.merge(graphdef, jax.lax.stop_gradient(params)), nnx.merge(graphdef, params)
            rollout, known = sample_with_activations(fixed, prompts(), jax.random.key(0), SAMPLER)
            scores = score(model, model, rollout, SAMPLES, 0.8, known=known)
            return model(tokens, positions_of(mask), causal_mask(mask))[0].sum() + scores.logp.sum()

        return len(jax.jit(jax.grad(total)).lower(nnx.to_pure_dict(params)).as_text().splitlines())

    assert lines(3) == lines(30)
