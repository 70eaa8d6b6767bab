"""Adapters: nothing at the start, a product of two matrices after that, and merged as that product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.command_line import compose
from kljax.config import Config, LoraAdapter
from kljax.errors import UserError
from kljax.models.decoder import causal_mask, positions_of
from kljax.models.lora import add_adapters, matrices, merge, targets_note

ADAPTER = LoraAdapter(kind="lora", rank=3, alpha=6.0, targets=["q", "v", "down", "gate"])
TOKENS = jnp.array(np.random.default_rng(0).integers(0, 13, (2, 9)))
MASK = jnp.ones(TOKENS.shape, bool)


def logits_of(model):
    return model.logits(model(TOKENS, positions_of(MASK), causal_mask(MASK))[0])


def adapted(make_decoder, family, seed=None):
    """Frozen parameters and adapters of a decoder; with a seed, adapters that do something."""
    model = add_adapters(make_decoder(family), ADAPTER, rngs=nnx.Rngs(0))
    graphdef, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)
    adapters, frozen = nnx.to_pure_dict(adapters), nnx.to_pure_dict(frozen)
    if seed is not None:
        leaves, structure = jax.tree.flatten(adapters)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        leaves = [jax.random.normal(key, p.shape) for key, p in zip(keys, leaves, strict=True)]
        adapters = jax.tree.unflatten(structure, leaves)
    return graphdef, adapters, frozen


def test_fresh_adapters_change_nothing_to_the_bit(make_decoder, family):
    np.testing.assert_array_equal(logits_of(nnx.merge(*adapted(make_decoder, family))), logits_of(make_decoder(family)))


def test_only_the_chosen_matrices_have_adapters(make_decoder, family):
    _, adapters, frozen = adapted(make_decoder, family)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(adapters)]
    matrices = {jax.tree_util.keystr(path[1:3], simple=True, separator=".") for path in paths}
    assert matrices == {"attention.q", "attention.v", "mlp.down"} | ({"mlp.gate"} if family == "llama" else set())
    plain = nnx.to_pure_dict(nnx.state(make_decoder(family)))
    assert jax.tree.structure(frozen) == jax.tree.structure(plain)


def lora(targets):
    return LoraAdapter(kind="lora", rank=2, alpha=4.0, targets=targets)


def test_no_targets_are_all_matrices_in_the_order_of_the_list(make_decoder, family):
    """Null adapts what every layer has, and draws the same numbers as the whole list would."""
    adapters = []
    for targets in (None, list(matrices(make_decoder(family).config))):
        model = add_adapters(make_decoder(family), lora(targets), rngs=nnx.Rngs(0))
        adapters.append(nnx.to_pure_dict(nnx.state(model, nnx.LoRAParam)))
        layer = model.layers
        kernels = [m for part in (layer.attention, layer.mlp) for m in vars(part).values() if isinstance(m, nnx.Linear)]
        assert kernels
        assert all(hasattr(matrix, "lora") for matrix in kernels)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *adapters))
    assert targets_note(make_decoder(family).config, compose(["adapter=lora"], Config).adapter) is None


def test_targets_that_the_model_has_not_are_refused_or_named(make_decoder):
    gpt2, llama = make_decoder("gpt2"), make_decoder("llama")
    with pytest.raises(UserError) as error:
        add_adapters(gpt2, lora(["gate"]), rngs=nnx.Rngs(0))
    assert str(error.value) == (
        "adapter.targets: got [gate], but the layers of this model have q, k, v, out, up, down; expected some of these, or "
        "null for all."
    )
    note = targets_note(gpt2.config, lora(["gate", "v", "q"]))
    assert note.startswith("adapter.targets: the layers of this model have no gate; adapted are q, v. ")
    assert targets_note(llama.config, lora(["gate", "v", "q"])) is None
    with pytest.raises(UserError, match=r"^adapter.targets: 'q' is named twice in \[q, v, q\]"):
        add_adapters(llama, lora(["q", "v", "q"]), rngs=nnx.Rngs(0))


def test_merged_is_what_the_adapted_model_says(make_decoder, family):
    graphdef, adapters, frozen = adapted(make_decoder, family, seed=1)
    model = nnx.merge(graphdef, adapters, frozen)
    merged = merge(nnx.to_pure_dict(nnx.state(model)), ADAPTER)
    plain = nnx.merge(nnx.graphdef(make_decoder(family)), merged)
    expected = logits_of(model)
    np.testing.assert_allclose(logits_of(plain), expected, atol=1e-5 * float(jnp.abs(expected).max()))
    q, lora = frozen["layers"]["attention"]["q"]["kernel"], adapters["layers"]["attention"]["q"]["lora"]
    by_hand = np.asarray(q, np.float64) + 2.0 * np.asarray(lora["lora_a"], np.float64) @ np.asarray(lora["lora_b"], np.float64)
    np.testing.assert_allclose(merged["layers"]["attention"]["q"]["kernel"], by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_adapters_are_float32_over_frozen_weights_in_lower_precision(make_decoder, dtype):
    model = add_adapters(make_decoder("llama", param_dtype=dtype), ADAPTER, rngs=nnx.Rngs(0))
    _, adapters, _ = nnx.split(model, nnx.LoRAParam, ...)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {jnp.dtype("float32")}
    assert logits_of(model).dtype == jnp.float32
