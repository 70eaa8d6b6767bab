"""Policy-gradient losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kljax.kl.sequences import masked_sum


def score_function(logp: Float[Array, "B T"], advantage: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, ""]:
    """−mean over sequences of Σ_t advantage_t · log pi(y_t): its gradient is −E[Σ_t advantage_t ∇log pi(y_t)].

    The advantage carries no gradient. Summed over tokens, not averaged: the objective is a sequence's.
    """
    return -jnp.mean(masked_sum(jax.lax.stop_gradient(advantage) * jnp.where(mask, logp, 0.0), mask))
