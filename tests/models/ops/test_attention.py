"""Attention against JAX's own, value and gradient, and what it does not keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.models.decoder import causal_mask
from kljax.models.ops.attention import ALIGNED, attend, attention, join_heads, split_heads

B, T, S, K = 2, 5, 7, 4


@pytest.fixture
def inputs():
    return inputs_of(T)


def inputs_of(length):
    """Four heads that read two key/value heads; S − T keys lie before the queries, some of them padding."""
    rng, slots = np.random.default_rng(0), length + S - T
    shapes = (B, 4, length, K), (B, 2, slots, K), (B, 2, slots, K)
    q, k, v = (jnp.array(rng.normal(size=shape), jnp.float32) for shape in shapes)
    real = jnp.arange(slots) >= jnp.array([[0], [2]])
    return q, k, v, causal_mask(real)[:, S - T :]


def jax_own(q, k, v, mask):
    return jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (q, k, v)), mask=mask[:, None]).swapaxes(1, 2)


@pytest.mark.parametrize("masked", [slice(None), slice(-1, None)], ids=["a mask for each query", "one for all"])
@pytest.mark.parametrize("length", [T, ALIGNED - 1, ALIGNED, ALIGNED + 1])
def test_value_and_gradient_are_those_of_jax(length, masked):
    *qkv, mask = inputs_of(length)
    mask = mask[:, masked]
    weights = jnp.array(np.random.default_rng(1).normal(size=qkv[0].shape), jnp.float32)

    def total(function, *qkv):
        return jnp.vdot(weights, function(*qkv, mask))

    (value, gradients), (expected, expected_gradients) = (
        jax.value_and_grad(total, argnums=(1, 2, 3))(function, *qkv) for function in (attend, jax_own)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_one_mask_for_all_queries_is_that_mask_for_each(inputs):
    q, k, v, mask = inputs
    last = mask[:, -1:]
    np.testing.assert_array_equal(attend(q, k, v, last), attend(q, k, v, jnp.repeat(last, T, axis=1)))


def test_a_row_that_sees_nothing_has_finite_values_and_no_gradient(inputs):
    q, k, v, mask = inputs
    hidden = mask.at[0, 2].set(False)
    value, gradients = jax.value_and_grad(lambda *qkv: attend(*qkv, hidden)[0, :, 2].sum(), argnums=(0, 1, 2))(q, k, v)
    assert np.isfinite(value)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_the_backward_pass_is_kept_no_weights(inputs):
    *qkv, mask = inputs
    kept = jax.vjp(lambda *qkv: attend(*qkv, mask), *qkv)[1]
    sizes = [leaf.size for leaf in jax.tree.leaves(kept) if leaf.dtype != bool]
    assert max(sizes) < B * 4 * T * S


def test_what_is_known_is_not_computed_and_has_the_same_gradient(inputs):
    *qkv, mask = inputs
    found = attention(*qkv, mask)
    weights = jnp.array(np.random.default_rng(1).normal(size=qkv[0].shape), jnp.float32)
    gradients, expected = (
        jax.grad(lambda *qkv, known=known: jnp.vdot(weights, attention(*qkv, mask, known).out), argnums=(0, 1, 2))(*qkv)
        for known in (found, None)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), gradients, expected)
    assert "dot_general" not in str(jax.make_jaxpr(lambda *qkv: attention(*qkv, mask, found))(*qkv))


def test_heads_are_split_and_joined():
    x = jnp.arange(B * T * 6.0).reshape(B, T, 6)
    heads = split_heads(x, 3)
    np.testing.assert_array_equal(heads[:, 1], x[..., 3:])
    np.testing.assert_array_equal(join_heads(heads), x)
