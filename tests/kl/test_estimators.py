"""k1, k2, k3: what they estimate, and what their gradient is, which is not the same question (claims 1, 4 and 5)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.kl import oracle
from kljax.kl.estimators import (
    k1,
    k2,
    k3,
    k_lambda,
    optimal_lambda,
    rao_blackwell_sum,
    weighted_k1,
    weighted_k2,
    weighted_k3,
)
from kljax.kl.sequences import importance_weights, masked_sum

P, Q = 0.8, 0.5  # pi(A), rho(A): one state, two actions
TRUTH = np.log(4)  # d KL(pi‖rho) / d pi(A)
FORWARD = -Q / P + (1 - Q) / (1 - P)  # d KL(rho‖pi) / d pi(A), 1.875
LAMBDA = 0.37  # neither k1 nor k3
SEEDS = range(5)


def two_actions(p):
    return jnp.stack([p, 1 - p])


def through_weight(estimator):
    """The estimator of (u, log w) with w = pi/stop(pi): 1 in value."""
    return lambda u, log_pi: estimator(u, log_pi - jax.lax.stop_gradient(log_pi))


def plain(estimator):
    return lambda u, log_pi: estimator(u)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (plain(k1), 0.0),
        (plain(k2), TRUTH),
        (plain(k3), FORWARD),
        (plain(partial(k_lambda, weight=LAMBDA)), LAMBDA * FORWARD),
        (through_weight(weighted_k1), TRUTH),
        (through_weight(weighted_k2), 1.076952),
        (through_weight(weighted_k3), TRUTH),
    ],
    ids=["k1", "k2", "k3", "k_lambda", "weighted_k1", "weighted_k2", "weighted_k3"],
)
def test_as_a_loss_each_has_the_gradient_of_claim_1(estimator, expected):
    """d/dp of Σ_a stop(pi(a))·estimator: what back-propagating a sampled KL gives on average."""

    def loss(p):
        log_pi = jnp.log(two_actions(p))
        each = estimator(log_pi - jnp.log(two_actions(Q)), log_pi)
        return jnp.sum(jax.lax.stop_gradient(two_actions(p)) * each)

    np.testing.assert_allclose(jax.grad(loss)(jnp.float32(P)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("estimator", "expected"), [(k1, TRUTH), (k2, -0.309343), (k3, -0.488706)])
def test_in_the_reward_only_k1_has_the_gradient_of_reverse_kl(estimator, expected):
    """Σ_a pi(a)·estimator(u_a)·d log pi(a)/dp: what the score function makes of a penalty taken from the reward."""
    pi = two_actions(jnp.float32(P))
    penalty = estimator(jnp.log(pi) - jnp.log(two_actions(Q)))
    gradient = jax.grad(lambda p: jnp.sum(pi * penalty * jnp.log(two_actions(p))))(jnp.float32(P))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("u", [-3.0, -0.5, 0.0, 0.7, 4.0])
def test_values_are_schulmans(u):
    for estimator, expected in ((k1, u), (k2, u**2 / 2), (k3, np.exp(-u) - 1 + u)):
        np.testing.assert_allclose(estimator(jnp.float32(u)), expected, rtol=1e-6)


def test_k_lambda_joins_k1_and_k3():
    u = jnp.linspace(-4, 4, 9)
    np.testing.assert_array_equal(k_lambda(u, 0.0), k1(u))
    np.testing.assert_allclose(k_lambda(u, 1.0), k3(u), rtol=1e-6)


# One state of five tokens, all of them enumerated ----------------------------------------------------------------------


def three_policies(seed):
    """Log-probs of pi, rho and mu, and u."""
    log_pi, log_rho, log_mu = np.log(np.random.default_rng(seed).dirichlet(np.ones(5), size=3))
    return log_pi, log_rho, log_mu, log_pi - log_rho


def mean(p, values):
    return np.sum(p * np.asarray(values))


def variance(p, values):
    return mean(p, (np.asarray(values) - mean(p, values)) ** 2)


def covariance(p, a, b):
    return mean(p, (a - mean(p, a)) * (b - mean(p, b)))


@pytest.mark.parametrize("seed", SEEDS)
def test_k1_k3_and_all_between_are_unbiased_and_k2_is_not(seed, x64):
    log_pi, log_rho, _, u = three_policies(seed)
    p, kl = np.exp(log_pi), oracle.kl(log_pi, log_rho)
    for estimator in (k1, k3, partial(k_lambda, weight=LAMBDA), partial(k_lambda, weight=-2.0)):
        np.testing.assert_allclose(mean(p, estimator(jnp.array(u))), kl, rtol=1e-12)
    np.testing.assert_allclose(mean(p, k2(jnp.array(u))), mean(p, u**2) / 2, rtol=1e-12)
    assert abs(mean(p, k2(jnp.array(u))) - kl) > 1e-2 * kl


@pytest.mark.parametrize("seed", SEEDS)
def test_variances_are_those_of_the_docstrings(seed, x64):
    log_pi, log_rho, _, u = three_policies(seed)
    p, r = np.exp(log_pi), np.exp(-u)
    chi_squared = np.sum(np.exp(2 * log_rho - log_pi)) - 1
    np.testing.assert_allclose(variance(p, r), chi_squared, rtol=1e-10)
    for weight in (1.0, LAMBDA, -1.3):
        stated = variance(p, u) + 2 * weight * covariance(p, u, r) + weight**2 * chi_squared
        np.testing.assert_allclose(variance(p, k_lambda(jnp.array(u), weight)), stated, rtol=1e-10)
    np.testing.assert_allclose(variance(p, k1(jnp.array(u))), variance(p, u), rtol=1e-12)
    stated = variance(p, u) + chi_squared + 2 * covariance(p, u, r)
    np.testing.assert_allclose(variance(p, k3(jnp.array(u))), stated, rtol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_optimal_lambda_varies_least_of_a_grid_around_it(seed, x64):
    log_pi, _, _, u = three_policies(seed)
    p, best = np.exp(log_pi), float(optimal_lambda(jnp.array(u), jnp.exp(log_pi)))
    grid = best + np.linspace(-1, 1, 201)  # the middle is best
    variances = [variance(p, k_lambda(jnp.array(u), weight)) for weight in grid]
    assert np.argmin(variances) == 100


def test_optimal_lambda_of_samples_is_that_of_their_frequencies(x64):
    """Of a regression of u on r: −slope, as NumPy fits it."""
    u = np.random.default_rng(0).normal(size=50)
    slope = np.polyfit(np.exp(-u), u, 1)[0]
    np.testing.assert_allclose(optimal_lambda(jnp.array(u)), -slope, rtol=1e-9)


def test_optimal_lambda_is_zero_where_nothing_varies():
    for u in (jnp.zeros(4), jnp.full(4, -0.7), jnp.array([1.0, -1e4])):  # the last: r overflows, its weight tends to 0
        assert optimal_lambda(u) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_estimators_have_off_policy_the_means_of_the_plain_ones_on_policy(seed, x64):
    log_pi, _, log_mu, u = three_policies(seed)
    p, m, log_weight = np.exp(log_pi), np.exp(log_mu), jnp.array(log_pi - log_mu)
    for weighted, estimator in ((weighted_k1, k1), (weighted_k2, k2), (weighted_k3, k3)):
        actual = mean(m, weighted(jnp.array(u), log_weight))
        np.testing.assert_allclose(actual, mean(p, estimator(jnp.array(u))), rtol=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_as_a_loss_each_has_the_gradient_that_its_docstring_states(seed, x64):
    """In the logits of pi; the weighted ones off-policy, differentiated through the weight too."""
    log_pi, log_rho, log_mu, u = three_policies(seed)
    p, q, kl = np.exp(log_pi), np.exp(log_rho), oracle.kl(log_pi, log_rho)
    reverse, forward = p * (u - kl), p - q

    @jax.jit
    def gradients(logits):
        def expected(estimator, weights, logits):
            new = jax.nn.log_softmax(logits)
            return jnp.sum(weights * estimator(new - log_rho, new - log_mu))

        plain_ones = [plain(k1), plain(k2), plain(k3), plain(partial(k_lambda, weight=LAMBDA))]
        on_policy = [jax.grad(partial(expected, estimator, p))(logits) for estimator in plain_ones]
        weighted_ones = [weighted_k1, weighted_k2, weighted_k3]
        return on_policy + [jax.grad(partial(expected, estimator, np.exp(log_mu)))(logits) for estimator in weighted_ones]

    of_squares = p * (u**2 / 2 + u - mean(p, u**2 / 2 + u))  # of ½E[u²] = ½ Σ p u²: in p it is u²/2 + u
    stated = [np.zeros(5), reverse, forward, LAMBDA * forward, reverse, of_squares, reverse]
    np.testing.assert_allclose(gradients(jnp.array(log_pi)), stated, atol=1e-12)


def test_each_samples_gradient_of_weighted_k3_is_that_of_k2(x64):
    """With w = pi/stop(pi): u·∇log pi."""
    logp, ref_logp = jnp.array([-0.3, -2.0, -1.1]), jnp.array([-1.3, -0.2, -1.1])
    of_k3 = jax.grad(lambda x: jnp.sum(weighted_k3(x - ref_logp, x - jax.lax.stop_gradient(x))))(logp)
    of_k2 = jax.grad(lambda x: jnp.sum(k2(x - ref_logp)))(logp)
    np.testing.assert_allclose(of_k3, of_k2, rtol=1e-12, atol=1e-15)


# Continuous distributions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "bias_of_k2", "deviations"), [(0.1, 0.0025, (20.0, 1.41774, 1.41657)), (1.0, 0.25, (2.0, 1.73205, 1.69503))]
)
def test_biases_and_standard_deviations_are_schulmans(mu, bias_of_k2, deviations, x64):
    """Samples of pi = N(0, 1), rho = N(μ, 1), by quadrature: u = μ²/2 − μx; relative to the KL, μ²/2."""
    x = np.linspace(-12, 12, 200_001)
    weight = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    u, kl = jnp.asarray(mu**2 / 2 - mu * x), mu**2 / 2
    exact = mu**2, mu**4 / 2 + mu**6 / 4, np.exp(mu**2) - 1 - mu**2
    for estimator, of_mean, of_variance, deviation in zip((k1, k2, k3), (0.0, bias_of_k2, 0.0), exact, deviations, strict=True):
        values = estimator(u)
        assert mean(weight, values) / kl - 1 == pytest.approx(of_mean, abs=1e-6)
        np.testing.assert_allclose(variance(weight, values), of_variance, rtol=1e-6)
        assert np.sqrt(variance(weight, values)) / kl == pytest.approx(deviation, rel=1e-5)


# Digits and overflow ---------------------------------------------------------------------------------------------------


def test_k3_keeps_its_digits_near_zero():
    """exp(−u) − 1 + u written out loses all of them in float32: the value is u²/2."""
    u = jnp.float32(1e-4)
    np.testing.assert_allclose(k3(u), 0.5e-8, rtol=0.05)
    assert k3(jnp.float32(0.0)) == 0.0


@pytest.mark.parametrize("u", [-1e4, -88.0, 88.0, 1e4])
def test_k3_of_a_huge_log_ratio_is_never_nan(u):
    value, gradient = jax.value_and_grad(k3)(jnp.float32(u))
    expected, slope = (np.inf, -np.inf) if u == -1e4 else (np.expm1(-u) + u, -np.expm1(-u))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def weighted_k3_and_gradients(u, log_weight):
    return jax.value_and_grad(weighted_k3, argnums=(0, 1))(jnp.float32(u), jnp.float32(log_weight))


def test_weighted_k3_is_finite_where_the_weight_underflows_and_the_ratio_overflows():
    """w·exp(−u) = 1."""
    value, gradients = weighted_k3_and_gradients(-110.0, -110.0)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    np.testing.assert_allclose(gradients, (-1.0, 1.0), rtol=1e-6)


@pytest.mark.parametrize("u", [-1e-2, -1e-3, 1e-3, 1e-2])
def test_weighted_k3_keeps_its_digits_and_its_sign_under_a_large_weight(u):
    """w·u²/2, although the exponentials that it is a difference of are about w."""
    weight = 200.0
    value, (in_u, in_log_weight) = weighted_k3_and_gradients(u, np.log(weight))
    np.testing.assert_allclose(value, weight * (np.expm1(-u) + u), rtol=1e-3)
    np.testing.assert_allclose(in_log_weight, weight * (np.expm1(-u) + u), rtol=1e-3)
    np.testing.assert_allclose(in_u, -weight * np.expm1(-u), rtol=1e-3)


@pytest.mark.parametrize("u", [-50.0, -1.0, 1.0, 50.0])
def test_weighted_k3_of_a_weight_that_overflows_is_infinite_and_not_nan(u):
    assert weighted_k3(jnp.float32(u), jnp.float32(100.0)) == np.inf


# Sums over the states of a sequence (claim 5) --------------------------------------------------------------------------


def state_kls(problem):
    """KL(pi‖rho) of the state before each token of each sequence, NaN under the padding."""
    tables = oracle.log_softmax(problem.logits), oracle.log_softmax(problem.ref_logits)
    return np.where(problem.tree.mask, oracle.kl(*tables)[problem.tree.rows], np.nan)


def token_logp(tree, logits):
    return oracle.log_softmax(logits)[tree.rows, tree.tokens]


@pytest.mark.parametrize("seed", SEEDS)
def test_rao_blackwellised_sums_are_unbiased_on_and_off_policy(seed, x64):
    problem = oracle.random_tree(seed, vocab=3, depth=3)
    tree, mask = problem.tree, jnp.array(problem.tree.mask)
    behaviour = problem.logits + np.random.default_rng([seed, 1]).normal(size=problem.logits.shape)
    logp, ref_logp, behaviour_logp = (oracle.sequence_logp(tree, x) for x in (problem.logits, problem.ref_logits, behaviour))
    kl = oracle.kl(logp, ref_logp)
    on_policy = rao_blackwell_sum(jnp.array(state_kls(problem)), mask)
    np.testing.assert_allclose(np.exp(logp) @ np.asarray(on_policy), kl, rtol=1e-12)
    weights = importance_weights(jnp.array(token_logp(tree, problem.logits)), jnp.array(token_logp(tree, behaviour)), mask)
    off_policy = rao_blackwell_sum(jnp.array(state_kls(problem)), mask, weights.state)
    np.testing.assert_allclose(np.exp(behaviour_logp) @ np.asarray(off_policy), kl, rtol=1e-12)


def test_rao_blackwellised_sums_keep_the_mean_and_can_have_more_variance(x64):
    """The example of claim 2: token 1, which both allow, leads where they differ widely."""
    tree = oracle.Tree(vocab=2, depth=2, ends=())
    policy = np.log([[0.5, 0.5], [0.5, 0.5], [0.01, 0.99]])
    reference = np.log([[0.25, 0.75], [0.5, 0.5], [0.99, 0.01]])
    problem, mask = oracle.Problem(tree, policy, reference, np.zeros(4)), jnp.array(tree.mask)
    sampled = masked_sum(k1(jnp.array(token_logp(tree, policy) - token_logp(tree, reference))), mask)
    exact = rao_blackwell_sum(jnp.array(state_kls(problem)), mask)
    p = np.exp(oracle.sequence_logp(tree, policy))
    for values, expected in ((sampled, 3.31591), (exact, 5.06974)):
        assert mean(p, values) == pytest.approx(2.39545, abs=5e-6)
        assert variance(p, values) == pytest.approx(expected, abs=5e-6)


def test_rao_blackwellised_sums_usually_vary_less(x64):
    ratios = []
    for seed in range(20):
        problem = oracle.random_tree(seed, vocab=4, depth=3)
        tree = problem.tree
        ratio = token_logp(tree, problem.logits) - token_logp(tree, problem.ref_logits)
        sampled, exact = (np.where(tree.mask, x, 0.0).sum(-1) for x in (ratio, state_kls(problem)))
        p = np.exp(oracle.sequence_logp(tree, problem.logits))
        ratios.append(variance(p, sampled) / variance(p, exact))
    assert np.median(ratios) > 10  # claim 5: 10- to 100-fold


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_what_lies_under_the_padding_reaches_neither_a_sum_nor_its_gradient(junk):
    mask = jnp.array([[True, True, False]])
    state_kl, weight = jnp.array([[1.0, 2.0, junk]]), jnp.array([[1.0, 0.5, junk]])
    for arguments, expected in (((state_kl,), [[1, 1, 0]]), ((state_kl, weight), [[1, 0.5, 0]])):

        def total(state_kl, *weight):
            return rao_blackwell_sum(state_kl, mask, *weight).sum()

        value, gradient = jax.value_and_grad(total)(*arguments)
        assert value == (3 if len(arguments) == 1 else 2)
        np.testing.assert_array_equal(gradient, expected)
