"""The axis legend and the structs that travel between the rooms.

Axes, everywhere in this project:

    B sequences            G samples of one prompt      N distinct prompts (B = N·G, samples of one prompt adjacent)
    P prompt, padded left  T completion, padded right   S prompt and completion, or a cache (S = P + T)
    V vocabulary           D model   F MLP   H heads    K head dimension

Log-probs, KLs and entropies are float32, in nats, whatever the model's dtype.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

Params = Any
"""A nested dict of arrays: a model's parameters without the model."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """Distinct prompts, padded on the left to one width, so that every row's last column is its last token."""

    tokens: Int[Array, "N P"]
    mask: Bool[Array, "N P"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rollout:
    """Prompts with their sampled completions.

    A completion ends with its first end-of-sequence token, which belongs to it (`mask` is true there); all after it is
    padding. `behaviour_logp` is the log-prob of each token under the *untruncated* policy at the sampling temperature:
    the same number that scoring gives, also where top-k or top-p cut the distribution that was drawn from.
    """

    tokens: Int[Array, "B S"]
    prompt_mask: Bool[Array, "B P"]
    mask: Bool[Array, "B T"]
    behaviour_logp: Float[Array, "B T"]

    @property
    def completion(self) -> Int[Array, "B T"]:
        """The tokens after the prompt."""
        return self.tokens[:, self.prompt_mask.shape[1] :]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scores:
    """What policy (pi) and reference (rho) say of each completion token and of the state before it, nats.

    `reverse_kl` is KL(pi‖rho) and `forward_kl` is KL(rho‖pi) between the two *whole* next-token distributions of the
    state in which the token was sampled; `entropy` is that of pi there. Values under padding are arbitrary.
    """

    logp: Float[Array, "B T"]
    ref_logp: Float[Array, "B T"]
    reverse_kl: Float[Array, "B T"]
    forward_kl: Float[Array, "B T"]
    entropy: Float[Array, "B T"]
