"""Means with standard errors that know which samples share a prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_with_se(
    values: Float[Array, "B"], weights: Float[Array, "B"], samples: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Σ values / Σ weights and its standard error (delta method), clustered by prompt.

    With weights 1 it is the plain mean per sequence; with weights = lengths and values = sums, the mean per token.
    `samples` adjacent sequences share a prompt and are not independent: the error is that of N = B / samples prompts.
    NaN where N is 1.
    """
    mean = jnp.sum(values) / jnp.sum(weights)
    residual = (values - mean * weights).reshape(-1, samples).mean(axis=1)
    n = residual.shape[0]
    variance = jnp.sum(residual**2) / (n - 1) if n > 1 else jnp.full((), jnp.nan, values.dtype)
    return mean, jnp.sqrt(variance / n) / jnp.mean(weights)
