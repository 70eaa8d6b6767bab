"""Means with standard errors that know which samples share a prompt."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def mean_with_se(
    values: Float[Array, "B"], weights: Float[Array, "B"], same: Bool[Array, "N N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Σ values / Σ weights and its standard error (delta method), clustered by prompt.

    With weights 1 it is the plain mean per sequence; with weights = lengths and values = sums, the mean per token.
    B / N adjacent sequences share a prompt and are not independent, nor are those of rows whose prompts are the `same`: with
    residuals r of the rows, V = G/(G − 1) · Σ_g (Σ_{n in g} r_n)² / N² over the G distinct prompts. NaN where G is 1.
    """
    mean = jnp.sum(values) / jnp.sum(weights)
    residual = (values - mean * weights).reshape(len(same), -1).mean(axis=1)
    groups = distinct(same)
    variance = groups / (groups - 1) * jnp.maximum(residual @ (same @ residual), 0.0) / len(same) ** 2
    return mean, jnp.sqrt(jnp.where(groups > 1.5, variance, jnp.nan)) / jnp.mean(weights)


def same_prompts(tokens: Int[Array, "N P"], mask: Bool[Array, "N P"]) -> Bool[Array, "N N"]:
    """Which rows have the same prompt: by two digests of 32 bits each, as N² comparisons of whole prompts would be slow."""
    factors = np.random.default_rng(0).integers(2**32, size=(2, tokens.shape[1]), dtype=np.uint32) | 1
    digests = jnp.sum(jnp.where(mask, tokens.astype(jnp.uint32) + 1, 0)[None] * factors[:, None], axis=-1, dtype=jnp.uint32)
    return jnp.all(digests[:, :, None] == digests[:, None, :], axis=0)


def distinct(same: Bool[Array, "N N"]) -> Float[Array, ""]:
    """The number of distinct prompts."""
    return jnp.round(jnp.sum(1.0 / same.sum(axis=1)))
