"""Exact divergences: value and gradient against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kljax.kl import divergences

KLS = [divergences.reverse_kl, divergences.forward_kl]
logits = arrays(np.float32, (2, 5), elements=st.floats(-8, 8, width=32))
holes = arrays(np.float32, 4, elements=st.sampled_from([-np.inf, -20.0, -1.0, 0.0, 2.5, 20.0]))


def softmax(x):
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_the_definitions(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 3, 4, 7)).astype(np.float32) * 3
    p, q = softmax(a), softmax(b)
    np.testing.assert_allclose(divergences.reverse_kl(jnp.array(a), jnp.array(b)), kl(p, q), rtol=1e-4)
    np.testing.assert_allclose(divergences.forward_kl(jnp.array(a), jnp.array(b)), kl(q, p), rtol=1e-4)
    np.testing.assert_allclose(divergences.entropy(jnp.array(a)), -np.sum(p * np.log(p), -1), rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_the_docstrings(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 7)).astype(np.float32) * 3
    p, q = softmax(a), softmax(b)
    u, h = np.log(p) - np.log(q), -np.sum(p * np.log(p))
    expected = {
        divergences.reverse_kl: p * (u - kl(p, q)),
        divergences.forward_kl: p - q,
    }
    for function, gradient in expected.items():
        np.testing.assert_allclose(jax.grad(function)(jnp.array(a), jnp.array(b)), gradient, atol=1e-5)
    np.testing.assert_allclose(jax.grad(divergences.entropy)(jnp.array(a)), -p * (np.log(p) + h), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_in_both_arguments_are_those_of_finite_differences(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 5))
    definitions = {
        divergences.reverse_kl: lambda x, y: kl(softmax(x), softmax(y)),
        divergences.forward_kl: lambda x, y: kl(softmax(y), softmax(x)),
    }
    h = 1e-5 * np.eye(5)
    for function, define in definitions.items():
        in_a, in_b = jax.grad(function, argnums=(0, 1))(jnp.array(a), jnp.array(b))
        np.testing.assert_allclose(in_a, [(define(a + d, b) - define(a - d, b)) / 2e-5 for d in h], atol=1e-5)
        np.testing.assert_allclose(in_b, [(define(a, b + d) - define(a, b - d)) / 2e-5 for d in h], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(logits, logits, st.floats(-50, 50, width=32))
def test_kl_is_not_negative_and_sees_no_shift(a, b, shift):
    for function in KLS:
        value = function(jnp.array(a), jnp.array(b))
        assert (value >= -1e-5).all()
        np.testing.assert_allclose(function(jnp.array(a) + shift, jnp.array(b)), value, atol=2e-3, rtol=2e-3)
        np.testing.assert_allclose(function(jnp.array(a), jnp.array(a) + shift), 0.0, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(logits, logits)
def test_kl_is_zero_only_between_equals(a, b):
    """Pinsker: KL >= 2·(total variation)², whatever the direction."""
    distance = 0.5 * np.abs(softmax(a) - softmax(b)).sum(-1)
    for function in KLS:
        assert (np.asarray(function(jnp.array(a), jnp.array(b))) >= 2 * distance**2 - 1e-5).all()


@settings(max_examples=50, deadline=None)
@given(logits, st.floats(-50, 50, width=32))
def test_entropy_lies_between_zero_and_log_v_and_sees_no_shift(a, shift):
    value = divergences.entropy(jnp.array(a))
    assert (value >= -1e-5).all()
    assert (value <= np.log(a.shape[-1]) + 1e-5).all()
    np.testing.assert_allclose(divergences.entropy(jnp.array(a) + shift), value, atol=2e-3, rtol=2e-3)


def test_kl_is_not_symmetric_and_each_direction_is_the_other_with_its_arguments_swapped():
    a, b = jnp.array([4.0, 0.0, -1.0]), jnp.array([0.0, 1.0, 0.0])
    reverse, forward = divergences.reverse_kl(a, b), divergences.forward_kl(a, b)
    assert abs(reverse - forward) > 0.1
    np.testing.assert_allclose(forward, divergences.reverse_kl(b, a), rtol=1e-6)


def test_zero_times_log_zero_is_zero():
    """A token that the first argument's distribution forbids counts nothing."""
    a, b = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([0.0, 0.0, 0.0])
    np.testing.assert_allclose(divergences.reverse_kl(a, b), np.log(1.5), rtol=1e-6)
    np.testing.assert_allclose(divergences.reverse_kl(a, a), 0.0, atol=1e-7)
    np.testing.assert_allclose(divergences.entropy(a), np.log(2), rtol=1e-6)


def test_kl_is_infinite_where_it_truly_is():
    a, b = jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])
    assert divergences.reverse_kl(a, b) == jnp.inf
    assert divergences.forward_kl(b, a) == jnp.inf


@settings(max_examples=100, deadline=None)
@given(holes, holes)
def test_kl_is_never_nan_and_infinite_only_where_support_is_missing(a, b):
    a[0] = b[0] = 0.0  # softmax needs one possible token
    for function, first, second in ((divergences.reverse_kl, a, b), (divergences.forward_kl, b, a)):
        value = float(function(jnp.array(a), jnp.array(b)))
        assert (value == np.inf) == (np.isfinite(first) & ~np.isfinite(second)).any()
        assert value >= -1e-5
    assert float(divergences.entropy(jnp.array(a))) + 1e-5 >= 0


@pytest.mark.parametrize("function", KLS)
def test_a_token_that_both_forbid_might_as_well_not_exist(function):
    a, b = jnp.array([0.5, -jnp.inf, 1.0, 2.0]), jnp.array([1.0, -jnp.inf, 0.0, 0.3])
    without = jnp.array([0, 2, 3])
    value, gradient = jax.value_and_grad(function, argnums=(0, 1))(a, b)
    expected, expected_gradient = jax.value_and_grad(function, argnums=(0, 1))(a[without], b[without])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for g, e in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(g[without], e, atol=1e-6)
        assert g[1] == 0


def test_a_gradient_is_finite_where_the_kl_is():
    some, every = jnp.array([0.0, 1.0, -jnp.inf]), jnp.array([1.0, 0.0, 2.0])
    for function, *arguments in ((divergences.reverse_kl, some, every), (divergences.forward_kl, every, some)):
        value, gradients = jax.value_and_grad(function, argnums=(0, 1))(*arguments)
        assert np.isfinite(value)
        assert np.isfinite(gradients).all()
    assert np.isfinite(jax.grad(divergences.entropy)(some)).all()


def test_a_weight_that_underflows_to_zero_never_makes_nan():
    """exp(−10,000) is 0 in float32, but not in truth: the KL is infinite."""
    nearly, never = jnp.array([0.0, -1e4]), jnp.array([0.0, -jnp.inf])
    assert divergences.reverse_kl(nearly, never) == jnp.inf
    assert divergences.forward_kl(never, nearly) == jnp.inf


@pytest.mark.parametrize("function", KLS)
def test_huge_logits_give_finite_values_and_gradients(function):
    a, b = jnp.array([1e4, 0.0, -1e4]), jnp.array([-1e4, 0.0, 1e4])
    value, gradient = jax.value_and_grad(function)(a, b)
    np.testing.assert_allclose(value, 2e4, rtol=1e-6)  # certain of a token that the other gives exp(−20,000)
    assert np.isfinite(gradient).all()


def test_bfloat16_logits_are_computed_in_float32():
    a, b = (jnp.array(x, jnp.bfloat16) for x in np.random.default_rng(0).normal(size=(2, 64)))
    p, q = softmax(a), softmax(b)
    values = divergences.reverse_kl(a, b), divergences.forward_kl(a, b), divergences.entropy(a)
    for value, expected in zip(values, (kl(p, q), kl(q, p), -np.sum(p * np.log(p))), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_chain_rule_the_kl_of_a_sequence_is_the_expected_sum_over_its_states(seed):
    rng = np.random.default_rng(seed)
    first_a, first_b = rng.normal(size=(2, 3)).astype(np.float32)
    then_a, then_b = rng.normal(size=(2, 3, 4)).astype(np.float32)  # a next-token distribution after each first token
    joint_p, joint_q = (softmax(f)[:, None] * softmax(t) for f, t in ((first_a, then_a), (first_b, then_b)))
    states = divergences.reverse_kl(jnp.array(then_a), jnp.array(then_b))
    total = divergences.reverse_kl(jnp.array(first_a), jnp.array(first_b)) + np.sum(softmax(first_a) * np.asarray(states))
    np.testing.assert_allclose(total, kl(joint_p.ravel(), joint_q.ravel()), rtol=1e-4)
