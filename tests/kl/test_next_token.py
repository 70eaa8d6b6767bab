"""The fused comparison against the divergences one by one and float64; gradients against autodiff of the plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kljax.kl import divergences
from kljax.kl.next_token import COMPARISON, Comparison, compare, log_prob

VOCAB = 6
LOGITS = arrays(np.float32, (3, VOCAB), elements=st.floats(-20, 20, width=32))
TOKENS = arrays(np.int32, 3, elements=st.integers(0, VOCAB - 1))


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


@settings(max_examples=40, deadline=None)
@given(LOGITS, LOGITS, TOKENS, st.integers(1, VOCAB - 1))
def test_two_blocks_are_the_whole_vocabulary(logits, ref_logits, tokens, first):
    """Whichever holds the largest logit, whichever the token; in value and gradient."""
    logits, ref_logits, tokens = (jnp.asarray(x) for x in (logits, ref_logits, tokens))
    blocks = [([logits[:, :first], ref_logits[:, :first]], 0), ([logits[:, first:], ref_logits[:, first:]], first)]
    sums = COMPARISON.begin(tokens)
    for block, begins in blocks:
        sums = COMPARISON.add(sums, block, tokens, begins)
    found, kept = COMPARISON.finish(sums)
    whole, pull = jax.vjp(lambda z, z_q: compare(z, z_q, tokens), logits, ref_logits)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    cotangent = Comparison(*(jnp.array([1.0, -0.5, 2.0]) * (i + 1) for i in range(len(Comparison._fields))))
    parts = zip(*(COMPARISON.gradient(block, tokens, begins, kept, cotangent) for block, begins in blocks), strict=True)
    for part, expected in zip(parts, pull(cotangent), strict=True):
        np.testing.assert_allclose(jnp.concatenate(part, axis=-1), expected, atol=1e-3)  # KLs are up to 40 nats, times 5


@pytest.mark.parametrize("nearness", [1e-2, 1e-3, 0.0])
def test_near_the_reference_it_is_as_exact_as_float32_allows(nearness):
    """Against float64: nearer than the last digit of a log-partition of 8 to 16, 1e-6, which log-softmaxes would lose."""
    rng = np.random.default_rng(0)
    ref_logits = np.float32(rng.normal(size=(50, 1000)) * 3)
    logits = np.float32(ref_logits + nearness * rng.normal(size=ref_logits.shape))
    found = compare(jnp.asarray(logits), jnp.asarray(ref_logits), jnp.zeros(50, jnp.int32))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (np.float64(logits), np.float64(ref_logits)))
    np.testing.assert_allclose(found.reverse_kl, (np.exp(log_p) * (log_p - log_q)).sum(-1), atol=5e-7)
    np.testing.assert_allclose(found.forward_kl, (np.exp(log_q) * (log_q - log_p)).sum(-1), atol=5e-7)


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
