"""Sums over tokens and importance weights against loops; what lies under the padding stays there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.kl.sequences import effective_fraction, importance_weights, log_ratio, masked_sum, on_policy, to_go

B, T = 4, 5
LENGTHS = [5, 1, 3, 4]
MASK = np.arange(T) < np.array(LENGTHS)[:, None]


def draw(seed, junk=np.nan):
    """Log-probs, which are not above 0, at real tokens, junk under the padding."""
    return np.where(MASK, -np.abs(np.random.default_rng(seed).normal(size=(B, T))), junk).astype(np.float32)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_a_masked_sum_is_that_of_the_real_tokens_value_and_gradient(junk):
    values = draw(0, junk)
    expected = [sum(values[b, t] for t in range(LENGTHS[b])) for b in range(B)]
    np.testing.assert_allclose(masked_sum(jnp.array(values), jnp.array(MASK)), expected, rtol=1e-5)

    gradient = jax.grad(lambda values: masked_sum(values, jnp.array(MASK)).sum())(jnp.array(values))
    np.testing.assert_array_equal(gradient, MASK)


def test_to_go_sums_this_and_all_later_steps():
    values = draw(1, junk=0.0)
    expected = [[sum(values[b, s] for s in range(t, T)) for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(to_go(jnp.array(values)), expected, rtol=1e-5, atol=1e-6)


def test_the_log_ratio_is_a_difference_at_real_tokens_and_zero_under_the_padding():
    logp, ref_logp = draw(2), draw(3, junk=-np.inf)
    expected = np.where(MASK, logp - ref_logp, 0.0)
    np.testing.assert_allclose(log_ratio(jnp.array(logp), jnp.array(ref_logp), jnp.array(MASK)), expected, rtol=1e-6)

    def total(logp, ref_logp):
        return log_ratio(logp, ref_logp, jnp.array(MASK)).sum()

    in_logp, in_ref_logp = jax.grad(total, argnums=(0, 1))(jnp.array(logp), jnp.array(ref_logp))
    np.testing.assert_array_equal(in_logp, MASK)
    np.testing.assert_array_equal(in_ref_logp, -MASK.astype(float))


@pytest.mark.parametrize(
    ("logp", "ref_logp", "shown"), [(-1.0, -np.inf, "inf"), (-np.inf, -1.0, "-inf"), (np.nan, -1.0, "nan")]
)
def test_a_log_ratio_that_is_not_finite_names_its_sequence_and_token(logp, ref_logp, shown):
    policy, reference = draw(2), draw(3)
    policy[2, 1], reference[2, 1] = logp, ref_logp
    policy[3, 2] = np.nan  # a later one, and one under the padding, are not the first
    policy[1, 4] = np.nan
    arguments = jnp.array(policy), jnp.array(reference), jnp.array(MASK)
    with pytest.raises(ValueError, match=f"log_ratio: got {shown} at sequence 2, token 1, expected a finite number"):
        log_ratio(*arguments)
    compiled = np.asarray(jax.jit(log_ratio)(*arguments))  # inside, it has no number to look at
    assert not np.isfinite(compiled[[2, 3], [1, 2]]).any()
    assert compiled[1, 4] == 0


def test_importance_weights_are_products_over_prefixes():
    logp, behaviour = draw(4), draw(5, junk=np.inf)
    weights = importance_weights(jnp.array(logp), jnp.array(behaviour), jnp.array(MASK))
    for b in range(B):
        product = 1.0
        for t in range(T):
            np.testing.assert_allclose(weights.state[b, t], product, rtol=1e-5)
            if t < LENGTHS[b]:
                product *= np.exp(logp[b, t] - behaviour[b, t])
            np.testing.assert_allclose(weights.token[b, t], product, rtol=1e-5)
        np.testing.assert_allclose(weights.sequence[b], product, rtol=1e-5)


def test_importance_weights_carry_no_gradient():
    def total(logp, behaviour):
        weights = importance_weights(logp, behaviour, jnp.array(MASK))
        return weights.state.sum() + weights.token.sum()

    for gradient in jax.grad(total, argnums=(0, 1))(jnp.array(draw(4)), jnp.array(draw(5))):
        assert not np.asarray(gradient).any()


def test_on_policy_every_weight_is_one():
    logp, mask = jnp.array(draw(4)), jnp.array(MASK)
    for weights in (on_policy(mask), importance_weights(logp, logp, mask)):
        np.testing.assert_array_equal(weights.state, np.ones((B, T)))
        np.testing.assert_array_equal(weights.token, np.ones((B, T)))
        np.testing.assert_array_equal(weights.sequence, np.ones(B))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [([2, 2, 2, 2], 1.0), ([7, 0, 0, 0], 0.25), ([1, 1, 0, 0], 0.5), ([1, 2, 3, 4], 100 / (4 * 30)), ([1e20, 1e20, 0, 0], 0.5)],
)
def test_the_effective_fraction_is_kishs(weight, expected):
    """However large the weights: those of long sequences are products of many."""
    np.testing.assert_allclose(effective_fraction(jnp.array(weight, jnp.float32)), expected, rtol=1e-6)
