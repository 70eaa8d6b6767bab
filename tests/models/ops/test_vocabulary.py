"""Figures over the vocabulary in chunks, against whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.kl.next_token import COMPARISON, compare
from kljax.models.ops.vocabulary import Head, map_logits, of_whole_logits

B, T, D, V = 3, 7, 4, 11


@pytest.fixture
def heads():
    """Two, one with a bias."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.array(rng.normal(size=shape), jnp.float32)

    return Head(draw(B, T, D), draw(V, D)), Head(draw(B, T, D), draw(V, D), draw(V))


@pytest.fixture
def tokens():
    return jnp.array(np.random.default_rng(1).integers(0, V, (B, T)))


def figures(logits, tokens):
    return compare(*logits, tokens)


def whole(heads, tokens):
    logits = [head.states @ head.table.T + (0.0 if head.bias is None else head.bias) for head in heads]
    return figures(logits, tokens)


@pytest.mark.parametrize("block", [None, 11, 4, 1])
@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_have_the_values_and_gradients_of_whole_logits(heads, tokens, chunk, block):
    """States, tables and bias, all figures mixed; the last chunk and the last block are not always full."""
    weights = jnp.array(np.random.default_rng(2).normal(size=(5, B, T)), jnp.float32)

    def mixed(function, heads):
        return sum(jnp.vdot(w, figure) for w, figure in zip(weights, function(heads, tokens), strict=True))

    def chunked(heads, tokens):
        return map_logits(COMPARISON, chunk, block, heads, tokens)

    ours, theirs = (jax.jit(jax.value_and_grad(lambda h, f=f: mixed(f, h)))(heads) for f in (chunked, whole))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_a_table_in_float32_projects_bfloat16_states(tokens):
    rng = np.random.default_rng(0)
    head = Head(jnp.array(rng.normal(size=(B, T, D)), jnp.bfloat16), jnp.array(rng.normal(size=(V, D)), jnp.float32))

    def total(head):
        return map_logits(COMPARISON, 2, None, (head, head), tokens).logp.sum()

    value, gradient = jax.value_and_grad(total)(head)
    assert value.dtype == jnp.float32
    assert (gradient.states.dtype, gradient.table.dtype) == (jnp.bfloat16, jnp.float32)
    expected = jax.grad(lambda h: whole((h, h), tokens).logp.sum())(Head(head.states.astype(jnp.float32), head.table))
    np.testing.assert_allclose(gradient.table, expected.table, atol=0.1)  # bfloat16 has three digits


def test_memory_is_a_fraction_of_what_the_logits_of_both_models_would_take():
    """Forward and backward, as compiled; with all of them in one chunk it is not, so the measure can see them."""
    batch, length, vocab = 2, 256, 2048
    shapes = ((batch, length, D), (vocab, D)) * 2
    floats = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def temporaries(chunk, block=None):
        def total(states, table, ref_states, ref_table, tokens):
            found = map_logits(COMPARISON, chunk, block, (Head(states, table), Head(ref_states, ref_table)), tokens)
            return (found.logp + found.reverse_kl).sum()

        compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*floats, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 2 * batch * length * vocab * 4
    assert temporaries(4) < 0.15 * logits
    assert temporaries(length, block=vocab // 32) < 0.15 * logits
    assert temporaries(length) > logits


def test_figures_of_whole_logits_are_the_same_and_refuse_blocks(heads, tokens):
    function = of_whole_logits(lambda logits, tokens: compare(*logits, tokens))
    for a, b in zip(map_logits(function, 3, None, heads, tokens), map_logits(COMPARISON, 3, None, heads, tokens), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="whole vocabulary at once; give block=None"):
        map_logits(function, 3, 4, heads, tokens)
