"""Divisors of rewards. Any scale σ but 1 rescales beta: reward/σ − beta·KL has the optimum of reward − (beta·σ)·KL.

So beta·σ is logged as `kl/beta_effective`. The penalty is never divided: beta keeps its unit, scaled reward a nat.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

SMALLEST = 1e-4  # reward units: where rewards do not differ there is nothing to scale

RewardScale = Callable[[Float[Array, "N G"]], Float[Array, "..."]]


def unscaled(reward: Float[Array, "N G"]) -> Float[Array, ""]:
    """1."""
    return jnp.ones((), reward.dtype)


def batch_std(reward: Float[Array, "N G"]) -> Float[Array, ""]:
    """The standard deviation of all rewards of the batch."""
    return jnp.maximum(jnp.std(reward, ddof=1), SMALLEST)


def prompt_std(reward: Float[Array, "N G"]) -> Float[Array, "N 1"]:
    """The standard deviation of each prompt's samples (GRPO): every prompt gets a beta of its own. Needs G >= 2."""
    return jnp.maximum(jnp.std(reward, axis=1, ddof=1, keepdims=True), SMALLEST)


REWARD_SCALES = {"none": unscaled, "batch_std": batch_std, "prompt_std": prompt_std}
