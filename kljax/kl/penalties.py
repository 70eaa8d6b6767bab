"""A KL penalty is a pair: what it takes from the reward of each token, and what it adds to the loss at each token.

The first part carries no gradient (the score function does); the second is differentiated. That holds every method in
use. Adding one is a function and a row in `PENALTIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kljax.kl import estimators
from kljax.types import Scores

Term = Callable[[Scores, Bool[Array, "B T"]], Float[Array, "B T"]]


@dataclass(frozen=True)
class Penalty:
    """`from_reward` is taken from each token's return, times beta; `to_loss` is added at each token, times beta.

    `gradient` states the expected on-policy gradient, for reports and the README's table.
    """

    from_reward: Term
    to_loss: Term
    gradient: str


def log_ratio(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """log pi − log rho of each completion token, 0 under padding (selected *before* any arithmetic: no NaN leaks)."""
    return jnp.where(mask, scores.logp, 0.0) - jnp.where(mask, scores.ref_logp, 0.0)


def to_go(values: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Σ over this and all later steps of each row."""
    return jnp.flip(jnp.cumsum(jnp.flip(values, -1), -1), -1)


def zero(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Nothing."""
    return jnp.zeros_like(scores.logp)


def k1_to_go(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """log_ratio of this and all later tokens, which this token's choice has caused."""
    return jax.lax.stop_gradient(to_go(estimators.k1(log_ratio(scores, mask))))


def exact_here(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """KL(pi‖rho) of this state's next-token distributions, differentiable."""
    return jnp.where(mask, scores.reverse_kl, 0.0)


def exact_later(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Exact KL of all *later* states: this state's own KL does not depend on the token chosen in it."""
    here = exact_here(scores, mask)
    return jax.lax.stop_gradient(to_go(here) - here)


def k2_here(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """log_ratio²/2 of this token, differentiable."""
    return estimators.k2(log_ratio(scores, mask))


def k3_here(scores: Scores, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """exp(−u) − 1 + u of this token, u its log_ratio, differentiable."""
    return estimators.k3(log_ratio(scores, mask))


PENALTIES = {
    #                    from the reward           to the loss          expected on-policy gradient
    "exact":     Penalty(from_reward=exact_later, to_loss=exact_here, gradient="∇KL(pi‖rho) of the sequence"),
    "k1_reward": Penalty(from_reward=k1_to_go,    to_loss=zero,       gradient="∇KL(pi‖rho) of the sequence"),
    "k2_loss":   Penalty(from_reward=zero,        to_loss=k2_here,    gradient="token-local part of ∇KL(pi‖rho)"),
    "k3_loss":   Penalty(from_reward=zero,        to_loss=k3_here,    gradient="token-local ∇KL(rho‖pi): forward"),
}  # fmt: skip
