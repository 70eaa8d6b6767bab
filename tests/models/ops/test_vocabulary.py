"""Figures in chunks against whole logits; the fused comparison against the divergences one by one and float64.

Gradients are held against autodiff of the plain forms.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kljax.kl import divergences
from kljax.models.ops.vocabulary import Comparison, Head, compare, comparisons, log_prob, map_whole_logits
from kljax.models.ops.vocabulary.chunks import map_logits, of_whole_logits
from kljax.models.ops.vocabulary.figures import COMPARISON, comparison

B, T, D, V = 3, 7, 4, 11
VOCAB = 6
LOGITS = arrays(np.float32, (3, VOCAB), elements=st.floats(-20, 20, width=32))
TOKENS = arrays(np.int32, 3, elements=st.integers(0, VOCAB - 1))


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
        return comparisons(heads, tokens, temperature=1.0, chunk=chunk, block=block)

    ours, theirs = (jax.jit(jax.value_and_grad(lambda h, f=f: mixed(f, h)))(heads) for f in (chunked, whole))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_a_table_in_float32_projects_bfloat16_states(tokens):
    rng = np.random.default_rng(0)
    head = Head(jnp.array(rng.normal(size=(B, T, D)), jnp.bfloat16), jnp.array(rng.normal(size=(V, D)), jnp.float32))

    def total(head):
        return comparisons((head, head), tokens, temperature=1.0, chunk=2, block=None).logp.sum()

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
            heads = Head(states, table), Head(ref_states, ref_table)
            found = comparisons(heads, tokens, temperature=1.0, chunk=chunk, block=block)
            return (found.logp + found.reverse_kl).sum()

        compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*floats, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 2 * batch * length * vocab * 4
    assert temporaries(4) < 0.15 * logits
    assert temporaries(length, block=vocab // 32) < 0.15 * logits
    assert temporaries(length) > logits


def test_figures_of_whole_logits_are_the_same_and_refuse_blocks(heads, tokens):
    theirs = comparisons(heads, tokens, temperature=1.0, chunk=3, block=None)
    for a, b in zip(map_whole_logits(figures, heads, tokens, chunk=3), theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="whole vocabulary at once; give block=None"):
        map_logits(of_whole_logits(figures), 3, 4, heads, tokens)


def one_by_one(logits, ref_logits, tokens):
    return Comparison(
        logp=plain_log_prob(logits, tokens),
        ref_logp=plain_log_prob(ref_logits, tokens),
        reverse_kl=divergences.reverse_kl(logits, ref_logits),
        forward_kl=divergences.forward_kl(logits, ref_logits),
        entropy=divergences.entropy(logits),
    )


def plain_log_prob(logits, tokens):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]


@settings(max_examples=60, deadline=None)
@given(LOGITS, LOGITS, TOKENS)
def test_each_figure_is_the_one_of_its_own_function(logits, ref_logits, tokens):
    given_arrays = [jnp.asarray(x) for x in (logits, ref_logits, tokens)]
    ours, theirs = compare(*given_arrays), one_by_one(*given_arrays)
    for name in Comparison._fields:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=2e-5, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, TOKENS, arrays(np.float32, (len(Comparison._fields), 3), elements=st.floats(-2, 2, width=32)))
def test_gradients_are_those_of_autodiff(logits, ref_logits, tokens, cotangents):
    """Of any mixture of the figures, in both logits."""

    def mixture(function, logits, ref_logits):
        return sum(
            jnp.vdot(c, figure) for c, figure in zip(cotangents, function(logits, ref_logits, jnp.asarray(tokens)), strict=True)
        )

    ours, theirs = (
        jax.grad(mixture, argnums=(1, 2))(function, jnp.asarray(logits), jnp.asarray(ref_logits))
        for function in (compare, one_by_one)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # KLs are up to 40 nats


def _in_blocks(logits, ref_logits, tokens, first):
    sums = COMPARISON.begin(tokens)
    for part, begins in ((slice(None, first), 0), (slice(first, None), first)):
        sums = COMPARISON.add(sums, [logits[:, part], ref_logits[:, part]], tokens, begins)
    return sums


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, TOKENS, st.integers(1, VOCAB - 1))
def test_two_blocks_are_the_whole_vocabulary(logits, ref_logits, tokens, first):
    """Whichever holds the largest logit, whichever the token; in value and gradient."""
    logits, ref_logits, tokens = (jnp.asarray(x) for x in (logits, ref_logits, tokens))
    blocks = [([logits[:, :first], ref_logits[:, :first]], 0), ([logits[:, first:], ref_logits[:, first:]], first)]
    found, kept = COMPARISON.finish(_in_blocks(logits, ref_logits, tokens, first))
    whole, pull = jax.vjp(lambda z, z_q: compare(z, z_q, tokens), logits, ref_logits)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    nearly, _ = COMPARISON.finish(_in_blocks(logits, logits + 1e-3 * jnp.sin(ref_logits), tokens, first))
    whole_too = compare(logits, logits + 1e-3 * jnp.sin(ref_logits), tokens)
    np.testing.assert_allclose(nearly.reverse_kl, whole_too.reverse_kl, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(nearly.forward_kl, whole_too.forward_kl, rtol=1e-4, atol=1e-12)
    cotangent = Comparison(*(jnp.array([1.0, -0.5, 2.0]) * (i + 1) for i in range(len(Comparison._fields))))
    parts = zip(*(COMPARISON.gradient(block, tokens, begins, kept, cotangent) for block, begins in blocks), strict=True)
    for part, expected in zip(parts, pull(cotangent), strict=True):
        np.testing.assert_allclose(jnp.concatenate(part, axis=-1), expected, atol=1e-3)  # KLs are up to 40 nats, times 5


@pytest.mark.parametrize("nearness", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("compared", [compare, one_by_one])
def test_near_the_reference_all_digits_are_kept_in_value_and_gradient(compared, nearness):
    """Against float64, of KLs down to 4e-9 nats: relative errors, with logits that are shifted as a whole, too."""
    rng = np.random.default_rng(0)
    ref_logits = np.float32(rng.normal(size=(50, 1000)) * 3)
    logits = np.float32(ref_logits + nearness * rng.normal(size=ref_logits.shape) + 0.3)
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (np.float64(logits), np.float64(ref_logits)))
    u = log_p - log_q
    reverse = (np.exp(log_p) * (np.expm1(-u) + u)).sum(-1, keepdims=True)
    forward = (np.exp(log_q) * (np.expm1(u) - u)).sum(-1, keepdims=True)
    expected = {
        "reverse_kl": (reverse[:, 0], np.exp(log_p) * (u - reverse), np.exp(log_q) - np.exp(log_p)),
        "forward_kl": (forward[:, 0], np.exp(log_p) - np.exp(log_q), -np.exp(log_q) * (u + forward)),
    }
    for name, (value, *gradients) in expected.items():

        def figure(z, z_q, name=name):
            return getattr(compared(z, z_q, jnp.zeros(50, jnp.int32)), name)

        found, pull = jax.vjp(figure, jnp.asarray(logits), jnp.asarray(ref_logits))
        np.testing.assert_allclose(found, value, rtol=3e-5, err_msg=name)
        for ours, theirs in zip(pull(jnp.ones(50)), gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max(), err_msg=name)


def test_equal_logits_have_exactly_no_divergence():
    logits = np.float32(np.random.default_rng(0).normal(size=(20, 500)) * 10)
    found = compare(jnp.asarray(logits), jnp.asarray(logits), jnp.zeros(20, jnp.int32))
    assert (found.reverse_kl == 0).all()
    assert (found.forward_kl == 0).all()


@settings(max_examples=40, deadline=None)
@given(LOGITS, TOKENS)
def test_log_prob_is_that_of_log_softmax_in_value_and_gradient(logits, tokens):
    weights = jnp.array([1.0, -2.0, 0.5])
    ours, theirs = (
        jax.value_and_grad(lambda z, f=f: jnp.vdot(weights, f(z, jnp.asarray(tokens))))(jnp.asarray(logits))
        for f in (log_prob, plain_log_prob)
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_at_another_temperature_all_digits_are_kept_too(temperature):
    """Logits that are divided one by one would be rounded before their difference is taken: 1e-2 wrong at 2e-8 nats."""
    rng = np.random.default_rng(0)
    ref_logits = np.float32(rng.normal(size=(50, 1000)) * 3)
    logits = np.float32(ref_logits + 1e-4 * rng.normal(size=ref_logits.shape))
    scaled = [np.float64(x) / temperature for x in (logits, ref_logits)]
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in scaled)
    u = log_p - log_q
    kl = (np.exp(log_p) * (np.expm1(-u) + u)).sum(-1, keepdims=True)
    online, both, tokens = comparison(temperature), [jnp.asarray(logits), jnp.asarray(ref_logits)], jnp.zeros(50, jnp.int32)
    found, kept = online.finish(online.add(online.begin(tokens), both, tokens, 0))
    np.testing.assert_allclose(found.reverse_kl, kl[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.logp, log_p[:, 0], atol=1e-5)
    zeros = jnp.zeros(50)
    cotangent = Comparison(zeros, zeros, jnp.ones(50), zeros, zeros)
    gradient, _ = online.gradient(both, tokens, 0, kept, cotangent)
    expected = np.exp(log_p) * (u - kl) / temperature
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
