"""Schulman's estimates of KL(pi‖rho) from one sampled token: u = log pi − log rho, the token drawn from pi.

An unbiased value does not mean an unbiased gradient: each docstring says what the expected on-policy gradient is when
the estimate is differentiated as a loss. Source: Schulman, "Approximating KL Divergence" (2020); for the gradients
Liu et al. 2025 (arXiv:2510.01555), Tang & Munos 2025 (arXiv:2506.09477).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def k1(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """u. Unbiased, of either sign. As a loss its expected gradient is *zero*; in the reward it gives ∇KL(pi‖rho)."""
    return log_ratio


def k2(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """u²/2. Biased (third order in u), non-negative. As a loss its expected gradient is the token-local ∇KL(pi‖rho)."""
    return 0.5 * log_ratio**2


def k3(log_ratio: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """exp(−u) − 1 + u. Unbiased and non-negative; its variance is infinite where chi-squared(rho‖pi) is.

    As a loss (GRPO) its expected gradient is that of the *forward* KL(rho‖pi), not of the quantity that it estimates.
    """
    return jnp.expm1(-log_ratio) + log_ratio
