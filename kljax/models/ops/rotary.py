"""Rotary positions (Su et al. 2021, arXiv:2104.09864) in the two-halves layout of Hugging Face: pairs are (x_i, x_{i+K/2}).

A model that was made to read more than it was first trained on scales them (`RopeScaling`): what `transformers` calls the rope
types default (no scaling), linear, llama3 and yarn. Their formulas are those of its modeling_rope_utils, in float32.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kljax.config import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

Frequencies = Any
"""NumPy float32 [K_half]: radians a position, one of each pair."""


class Rotation(NamedTuple):
    """Cosine and sine of each token's angles."""

    cos: Float[Array, "B 1 T K_half"]
    sin: Float[Array, "B 1 T K_half"]


def rotation(
    positions: Int[Array, "B T"], length: int, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Rotation:
    """The angles position·frequency of positions below `length`, in float32 as transformers has them.

    From a table: written as cos(angle), XLA computes it once for each head of each layer, in sampling at every step.
    """
    tables = _tables(length, head_dim, theta, scaling)
    return Rotation(*(jnp.take(table, positions, axis=0, mode="clip")[:, None] for table in tables))


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Frequencies:
    """Of pair i: theta^(−2i/K), scaled."""
    half = head_dim // 2
    plain = np.float32(theta) ** (-np.arange(half, dtype=np.float32) / half)
    match scaling:
        case None:
            return plain
        case LinearScaling():
            return plain / np.float32(scaling.factor)
        case Llama3Scaling():
            return _llama3(plain, scaling)
        case YarnScaling():
            return _yarn(plain, head_dim, theta, scaling)


def rotate(x: Float[Array, "B heads T K"], by: Rotation) -> Float[Array, "B heads T K"]:
    """Each pair of x turned by its token's angle; computed in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * by.cos - second * by.sin, second * by.cos + first * by.sin], axis=-1).astype(x.dtype)


def turned(by: Rotation, turns: Bool[Array, ""]) -> Rotation:
    """`by` where the layer has positions; where it has none, no turn at all."""
    return Rotation(jnp.where(turns, by.cos, 1.0), jnp.where(turns, by.sin, 0.0))


@lru_cache(maxsize=8)  # one array however often a program needs it: of a long context it has many megabytes
def _tables(length: int, head_dim: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(length, dtype=np.float32)[:, None] * frequencies(head_dim, theta, scaling)
    size = np.float32(scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0)
    return np.cos(angle) * size, np.sin(angle) * size


def _llama3(plain: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    """Pairs that turn often within the original context as they are, slow ones divided, in between by the number of turns."""
    turns = scaling.original_context * plain / np.float32(2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    fast = np.clip((turns - np.float32(scaling.low_freq_factor)) / np.float32(span), 0, 1)
    return (1 - fast) * plain / np.float32(scaling.factor) + fast * plain


def _yarn(plain: Frequencies, head_dim: int, theta: float, scaling: YarnScaling) -> Frequencies:
    """The same by the pair's number: linearly between the pairs that turn beta_fast and beta_slow times."""

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    last += 0.001 if first == last else 0  # as transformers avoids a division by zero
    slow = np.clip((np.arange(head_dim // 2, dtype=np.float32) - np.float32(first)) / np.float32(last - first), 0, 1)
    return plain / np.float32(scaling.factor) * slow + plain * (1 - slow)
