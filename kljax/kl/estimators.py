"""Estimates of KL(pi‖rho) from sampled tokens: u = log pi − log rho, the token drawn from pi.

An unbiased value does not mean an unbiased gradient: each docstring says what the expected on-policy gradient is when
the estimate is differentiated as a loss. χ² is that of rho‖pi: Σ rho²/pi − 1 = Var[rho/pi]. Sources: Schulman,
"Approximating KL Divergence" (2020); for the gradients Liu et al. 2025 (arXiv:2510.01555), Tang & Munos 2025
(arXiv:2506.09477); for the sums over states Amini et al. 2025 (arXiv:2504.10637).

`log_ratio` is the logarithm u, not the ratio pi/rho. A ratio cannot be told from a logarithm by its looks;
`sequences.log_ratio` makes u of log-probs, and refuses what cannot be one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kljax.kl.sequences import masked_sum


def k1(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """u. Unbiased, of either sign; variance Var[log pi/rho].

    As a loss its expected gradient is *zero* (E[∇ log pi] = 0); taken from the reward it gives ∇KL(pi‖rho).

    >>> print(k1(jnp.array([0.5, -0.5])))
    [ 0.5 -0.5]
    """
    return log_ratio


def k2(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """u²/2. Expectation ½E[u²], which is KL(pi‖rho) to second order in u; non-negative.

    As a loss its expected gradient is the token-local ∇KL(pi‖rho); in the reward it may push the wrong way.

    >>> print(k2(jnp.array([0.5, -0.5])))
    [0.125 0.125]
    """
    return 0.5 * log_ratio**2


def k3(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """exp(−u) − 1 + u. Unbiased and non-negative; variance Var[u] + χ² + 2·Cov[u, rho/pi], infinite where χ² is.

    As a loss (GRPO) its expected gradient is that of the *forward* KL(rho‖pi), not of the quantity that it estimates. Where
    exp(−u) is too large for its type, value and gradient are ±inf, never NaN.

    >>> print(f"{k3(jnp.log(2.0)):.5f}")  # ½ − 1 + log 2
    0.19315
    """
    return jnp.expm1(-log_ratio) + log_ratio


def k_lambda(log_ratio: Float[Array, "*dims"], weight: float | Float[Array, ""]) -> Float[Array, "*dims"]:
    """k1 + λ(r − 1), r = exp(−u) = rho/pi: k1 with a control variate of mean 0. Unbiased for every λ; λ = 1 is k3.

    Variance Var[u] + 2λ·Cov[u, r] + λ²·χ², least at `optimal_lambda`. As a loss its expected gradient is λ∇KL(rho‖pi).

    >>> u = jnp.array([0.5, -0.5])
    >>> print(bool(jnp.all(k_lambda(u, 0.0) == k1(u))), bool(jnp.allclose(k_lambda(u, 1.0), k3(u))))
    True True
    """
    return log_ratio + weight * jnp.expm1(-log_ratio)


def optimal_lambda(log_ratio: Float[Array, "n"], probability: Float[Array, "n"] | None = None) -> Float[Array, ""]:
    """−Cov[u, r]/Var[r], r = exp(−u): the λ at which k_λ varies least; 0 where r does not vary.

    `probability` weighs the entries (all outcomes with their pi make it exact); without, they are samples, and using the λ of
    the very samples that are averaged costs a bias of order 1/n.

    >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
    >>> print(f"{optimal_lambda(jnp.log(p / q), probability=p):.5f}")  # log 3: of two outcomes, with it no variance is left
    1.09861
    """
    weight = jnp.full_like(log_ratio, 1 / log_ratio.size) if probability is None else probability
    control = jnp.expm1(-log_ratio)
    control = control - jnp.sum(weight * control)
    variance = jnp.sum(weight * control**2)
    covariance = jnp.sum(weight * control * log_ratio)
    return jnp.where(variance > 0, -covariance / jnp.where(variance > 0, variance, 1.0), 0.0)


def weighted_k1(log_ratio: Float[Array, "*dims"], log_weight: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """w·u for a token drawn from mu, w = exp(log_weight) = pi/mu. Unbiased off-policy.

    As a loss, differentiated through w too, its expected gradient is the token-local ∇KL(pi‖rho).

    >>> print(f"{weighted_k1(jnp.array(0.5), jnp.log(2.0)):.5f}")
    1.00000
    """
    return jnp.exp(log_weight) * log_ratio


def weighted_k2(log_ratio: Float[Array, "*dims"], log_weight: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """w·u²/2 for a token drawn from mu. Expectation that of k2; as a loss, through w too, the gradient of ½E[u²], not of KL.

    >>> print(f"{weighted_k2(jnp.array(0.5), jnp.log(2.0)):.5f}")
    0.25000
    """
    return jnp.exp(log_weight) * k2(log_ratio)


def weighted_k3(log_ratio: Float[Array, "*dims"], log_weight: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """w·(exp(−u) − 1 + u) for a token drawn from mu. Unbiased off-policy and non-negative.

    As a loss, through w too, its expected gradient is the token-local ∇KL(pi‖rho); with w = pi/stop(pi) each sample's
    gradient is u∇log pi, that of k2. For u < −1 w·exp(−u) = rho/mu is one exponential: w may underflow where exp(−u) overflows.

    >>> print(f"{weighted_k3(jnp.log(2.0), jnp.log(2.0)):.5f}")  # 2·(½ − 1 + log 2)
    0.38629
    """
    far = log_ratio < -1
    near_u, far_u = jnp.where(far, 0.0, log_ratio), jnp.where(far, log_ratio, -1.0)
    near = jnp.exp(log_weight) * k3(near_u)
    one_exponential = jnp.exp(jnp.where(far, log_weight, 0.0) - far_u) * (1 + jnp.exp(far_u) * (far_u - 1))
    return jnp.where(far, one_exponential, near)


def rao_blackwell_sum(
    state_kl: Float[Array, "B T"], mask: Bool[Array, "B T"], state_weight: Float[Array, "B T"] | None = None
) -> Float[Array, "B"]:
    """Σ_t KL(pi‖rho) of the state before token t: each u_t replaced by its expectation in that state.

    Unbiased for the sequence's KL, nats per sequence. Each term varies less than its sample, but not always their sum: the
    terms that it averages out may have balanced one another (claim 5 of experiments/studies/claims/). As a loss its expected
    gradient is the token-local ∇KL(pi‖rho). Off-policy `state_weight` is pi/mu of all tokens *before* t: the one at t is
    averaged over.

    >>> state_kl, mask = jnp.array([[0.25, 0.5, 9.0]]), jnp.array([[True, True, False]])
    >>> print(rao_blackwell_sum(state_kl, mask))
    [0.75]
    """
    weight = jnp.ones_like(state_kl) if state_weight is None else jnp.where(mask, state_weight, 0.0)
    return masked_sum(weight * jnp.where(mask, state_kl, 0.0), mask)
