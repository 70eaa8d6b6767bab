"""A KL penalty is a pair: what it takes from the reward of each token, and what it adds to the loss at each token.

The first part carries no gradient (the score function does); the second is differentiated. That holds every method in
use. Adding one is a function, a row in `PENALTIES` and its name in kljax/config/kl.py.

Each term carries the importance weights of its prefix (`sequences.Weights`), 1 on-policy: a part that is taken from the
reward of token t and is due to token s >= t weighs with all tokens up to s, so that every row has the same expected
gradient off-policy, without bias. With `exact` and `exact_token` the KL of a state may be any divergence
(`Scores.divergence`); the sampled ones estimate KL(pi‖rho).

>>> mask, one = jnp.array([[True, True]]), jnp.zeros((1, 2))
>>> logp, ref_logp = jnp.log(jnp.array([[[0.5, 0.5]], [[0.25, 0.75]]]))
>>> scores = Scores(logp, ref_logp, reverse_kl=one, forward_kl=one, divergence=jnp.array([[0.2, 0.3]]), entropy=one)
>>> weights = Weights(jnp.zeros((1, 2)), jnp.zeros((1, 2)))  # on-policy: each weighs 1
>>> for name in ("exact", "k1_reward", "k3_loss"):
...     parts = PENALTIES[name].from_reward, PENALTIES[name].to_loss
...     print(name, *([round(float(x), 3) for x in part(scores, mask, weights)[0]] for part in parts))
exact [0.3, 0.0] [0.2, 0.3]
k1_reward [0.288, -0.405] [0.0, 0.0]
k3_loss [0.0, 0.0] [0.193, 0.095]
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kljax.kl import estimators
from kljax.kl.sequences import Weights, log_ratio, to_go
from kljax.types import Scores

Term = Callable[[Scores, Bool[Array, "B T"], Weights], Float[Array, "B T"]]


@dataclass(frozen=True)
class Penalty:
    """`from_reward` is taken from each token's return, times beta; `to_loss` is added at each token, times beta.

    `gradient` states the expected gradient, for reports and the README's table. `takes_divergence`: it penalises
    `Scores.divergence`, whichever that is. `ablation`: why it does not regularise as its name suggests; empty for the others.
    """

    from_reward: Term
    to_loss: Term
    gradient: str
    takes_divergence: bool = False
    ablation: str = ""


def zero(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """Nothing."""
    return jnp.zeros_like(scores.logp)


def exact_here(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """The divergence of this state's two next-token distributions, differentiable."""
    return jnp.where(mask, weights.state * jnp.where(mask, scores.divergence, 0.0), 0.0)


def exact_later(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """The divergence of all *later* states: that of this state does not depend on the token chosen in it."""
    after = to_go(exact_here(scores, mask, weights))[
        :, 1:
    ]  # cut, not subtracted: a large divergence here would take its digits
    return jax.lax.stop_gradient(jnp.pad(after, ((0, 0), (0, 1))))


def k1_here(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """u of this token, differentiable."""
    return _sampled(estimators.weighted_k1, scores, mask, weights.log_token)


def k2_here(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """u²/2 of this token, differentiable."""
    return _sampled(estimators.weighted_k2, scores, mask, weights.log_token)


def k3_here(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """exp(−u) − 1 + u of this token, differentiable."""
    return _sampled(estimators.weighted_k3, scores, mask, weights.log_token)


def weighted_k3_here(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """w·k3 of this token, w = pi/stop(pi): 1 in value, but differentiated."""
    logp = jnp.where(mask, scores.logp, 0.0)
    return _sampled(estimators.weighted_k3, scores, mask, weights.log_token + logp - jax.lax.stop_gradient(logp))


def k1_to_go(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """u of this and all later tokens, which this token's choice has caused."""
    return jax.lax.stop_gradient(to_go(k1_here(scores, mask, weights)))


def k2_to_go(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """u²/2 of this and all later tokens."""
    return jax.lax.stop_gradient(to_go(k2_here(scores, mask, weights)))


def k3_to_go(scores: Scores, mask: Bool[Array, "B T"], weights: Weights) -> Float[Array, "B T"]:
    """exp(−u) − 1 + u of this and all later tokens."""
    return jax.lax.stop_gradient(to_go(k3_here(scores, mask, weights)))


PENALTIES = {
    "exact": Penalty(exact_later, exact_here, "∇KL(pi‖rho) of the sequence", takes_divergence=True),
    "k1_reward": Penalty(k1_to_go, zero, "∇KL(pi‖rho) of the sequence"),
    "exact_token": Penalty(zero, exact_here, "token-local part of ∇KL(pi‖rho)", takes_divergence=True),
    "k2_loss": Penalty(zero, k2_here, "token-local part of ∇KL(pi‖rho)"),
    "weighted_k3_loss": Penalty(zero, weighted_k3_here, "token-local part of ∇KL(pi‖rho)"),
    "k3_loss": Penalty(zero, k3_here, "token-local ∇KL(rho‖pi): forward"),
    "k1_loss": Penalty(
        zero, k1_here, "zero",
        ablation="its expected gradient is zero, so that beta does nothing but add noise",
    ),
    "k3_reward": Penalty(
        k3_to_go, zero, "∇KL(pi‖rho) of the sequence − token-local ∇KL(rho‖pi)",
        ablation="its expected gradient lacks how each k3 changes and may push away from the reference",
    ),
    "k2_reward": Penalty(
        k2_to_go, zero, "∇E[Σ u²/2] − token-local part of ∇KL(pi‖rho)",
        ablation="its expected gradient lacks how each k2 changes and may push away from the reference",
    ),
}  # fmt: skip
"""By the name that kl.penalty has."""


def _sampled(weighted_estimator, scores: Scores, mask: Bool[Array, "B T"], log_weight: Float[Array, "B T"]):
    """w·estimate of each token, 0 under padding, whatever weight stands there."""
    ratio = log_ratio(scores.logp, scores.ref_logp, mask)
    return jnp.where(mask, weighted_estimator(ratio, jnp.where(mask, log_weight, 0.0)), 0.0)
