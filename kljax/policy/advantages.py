"""Baselines: what is taken from a token's return to lower the variance of the policy gradient, never its mean.

A baseline of one sample's token may depend on the other samples of the prompt and on the prompt, not on the sample
itself; then E[baseline · ∇log pi] = 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def no_baseline(returns: Float[Array, "N G T"]) -> Float[Array, "N G T"]:
    """Zero: plain REINFORCE (Williams 1992)."""
    return jnp.zeros_like(returns)


def leave_one_out(returns: Float[Array, "N G T"]) -> Float[Array, "N G T"]:
    """Mean return of the prompt's other samples at the same time step (RLOO; Kool et al. 2019, Ahmadian et al. 2024).

    A sample that has ended has, at later steps, its reward and no more penalty to come. Needs G >= 2.
    """
    samples = returns.shape[1]
    if samples < 2:
        raise ValueError(f"returns: leave_one_out needs at least 2 samples a prompt, got G = {samples}")
    return (returns.sum(axis=1, keepdims=True) - returns) / (samples - 1)
