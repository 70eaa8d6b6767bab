"""k1, k2, k3: what they estimate, and what their gradient is, which is not the same question (claims 1 and 4)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.kl.estimators import k1, k2, k3

P, Q = 0.8, 0.5  # pi(A), rho(A): one state, two actions
TRUTH = np.log(4)  # d KL(pi‖rho) / d pi(A)


def two_actions(p):
    return jnp.stack([p, 1 - p])


def expected_loss_gradient(estimator):
    """d/dp of Σ_a stop(pi(a))·estimator(log pi(a) − log rho(a)): what back-propagating a sampled KL gives on average."""

    def loss(p):
        pi = two_actions(p)
        return jnp.sum(jax.lax.stop_gradient(pi) * estimator(jnp.log(pi) - jnp.log(two_actions(Q))))

    return jax.grad(loss)(jnp.float32(P))


def test_k1_as_a_loss_has_no_gradient():
    np.testing.assert_allclose(expected_loss_gradient(k1), 0.0, atol=1e-6)


def test_k2_as_a_loss_has_the_gradient_of_reverse_kl():
    np.testing.assert_allclose(expected_loss_gradient(k2), TRUTH, rtol=1e-5)


def test_k3_as_a_loss_has_the_gradient_of_forward_kl():
    forward = -Q / P + (1 - Q) / (1 - P)  # d KL(rho‖pi) / d pi(A)
    np.testing.assert_allclose(expected_loss_gradient(k3), forward, rtol=1e-5)
    assert forward == pytest.approx(1.875)


def expected_reward_gradient(estimator):
    """Σ_a pi(a)·estimator(u_a)·d log pi(a)/dp: what the score function makes of a penalty taken from the reward."""
    pi = two_actions(jnp.float32(P))
    penalty = estimator(jnp.log(pi) - jnp.log(two_actions(Q)))
    return jax.grad(lambda p: jnp.sum(pi * penalty * jnp.log(two_actions(p))))(jnp.float32(P))


@pytest.mark.parametrize(("estimator", "expected"), [(k1, TRUTH), (k2, -0.309343), (k3, -0.488706)])
def test_in_the_reward_only_k1_has_the_gradient_of_reverse_kl(estimator, expected):
    np.testing.assert_allclose(expected_reward_gradient(estimator), expected, rtol=1e-5)


@pytest.mark.parametrize("u", [-3.0, -0.5, 0.0, 0.7, 4.0])
def test_values_are_schulmans(u):
    for estimator, expected in ((k1, u), (k2, u**2 / 2), (k3, np.exp(-u) - 1 + u)):
        np.testing.assert_allclose(estimator(jnp.float32(u)), expected, rtol=1e-6)


def random_pair(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(5), size=2)


@pytest.mark.parametrize("seed", range(5))
def test_k1_and_k3_are_unbiased_and_k2_is_not(seed):
    p, q = random_pair(seed)
    u, kl = np.log(p / q), np.sum(p * np.log(p / q))
    np.testing.assert_allclose(np.sum(p * k1(jnp.array(u))), kl, rtol=1e-4)
    np.testing.assert_allclose(np.sum(p * k3(jnp.array(u))), kl, rtol=1e-4)
    np.testing.assert_allclose(np.sum(p * k2(jnp.array(u))), np.sum(p * u**2) / 2, rtol=1e-4)
    assert abs(np.sum(p * k2(jnp.array(u))) - kl) > 1e-3


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_standard_deviations_are_schulmans(mu):
    """Samples of pi = N(0, 1), rho = N(μ, 1), by quadrature: u = μ²/2 − μx."""
    x = np.linspace(-12, 12, 200_001)
    weight = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    u = mu**2 / 2 - mu * x
    exact = {k1: mu**2, k2: mu**4 / 2 + mu**6 / 4, k3: np.exp(mu**2) - 1 - mu**2}
    with jax.enable_x64(True):
        for estimator, variance in exact.items():
            values = np.asarray(estimator(jnp.asarray(u, jnp.float64)))
            mean = np.sum(weight * values)
            np.testing.assert_allclose(np.sum(weight * (values - mean) ** 2), variance, rtol=1e-6)


def test_k3_keeps_its_digits_near_zero():
    """exp(−u) − 1 + u written out loses all of them in float32: the value is u²/2."""
    u = jnp.float32(1e-4)
    np.testing.assert_allclose(k3(u), 0.5e-8, rtol=0.05)
    assert k3(jnp.float32(0.0)) == 0.0
