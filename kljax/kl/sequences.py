"""Sums over the tokens of a completion, and the importance weights of its prefixes.

Every masked sum selects before it computes: padding may hold inf or NaN and nothing leaks, value or gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from kljax.kl.given import refuse_positive
from kljax.types import struct


def masked_sum(values: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B"]:
    """Σ over the tokens of each sequence.

    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> values = jnp.array([[1.0, 2.0, 4.0], [1.0, jnp.nan, jnp.inf]])
    >>> print(masked_sum(values, mask))
    [7. 1.]
    """
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)


def to_go(values: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Σ over this and all later steps of each row.

    >>> print(to_go(jnp.array([[1.0, 2.0, 4.0]])))
    [[7. 6. 4.]]
    """
    return jnp.flip(jnp.cumsum(jnp.flip(values, -1), -1), -1)


def log_ratio(logp: Float[Array, "B T"], ref_logp: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """log pi − log rho of each completion token, 0 under padding.

    Raises:
        ValueError: outside jit, where it is not finite at a real token (a reference that forbids what the policy samples), or a
            log-prob is above 0 (a probability?).

    >>> logp, ref_logp = jnp.log(jnp.array([[[0.5, 0.9]], [[0.25, 0.9]]]))
    >>> print(log_ratio(logp, ref_logp, jnp.array([[True, False]])))  # log 2, and padding
    [[0.6931472 0.       ]]
    """
    refuse_positive(mask, logp=logp, ref_logp=ref_logp)
    ratio = jnp.where(mask, logp, 0.0) - jnp.where(mask, ref_logp, 0.0)
    if not isinstance(ratio, Tracer) and not (finite := np.isfinite(ratio)).all():
        row, step = np.argwhere(~finite)[0]
        raise ValueError(
            f"log_ratio: got {ratio[row, step]} at sequence {row}, token {step}, expected a finite number where the mask is on."
        )
    return ratio


@struct
class Weights:
    """log pi/mu of the prefixes of completions that mu sampled: 0 where mu is pi. They carry no gradient.

    `log_state` is of the tokens before a token, `log_token` of the token too; their exponentials are `state` and `token`. So
    E_mu[token · f(prefix)] = E_pi[f(prefix)], without bias, at a variance that grows with the length.
    """

    log_state: Float[Array, "B T"]
    log_token: Float[Array, "B T"]

    @property
    def state(self) -> Float[Array, "B T"]:
        """pi/mu of all tokens before this one."""
        return jnp.exp(self.log_state)

    @property
    def token(self) -> Float[Array, "B T"]:
        """pi/mu of all tokens up to this one."""
        return jnp.exp(self.log_token)

    @property
    def sequence(self) -> Float[Array, "B"]:
        """pi/mu of the whole completion (padding adds nothing)."""
        return jnp.exp(self.log_token[:, -1])


def on_policy(mask: Bool[Array, "B T"]) -> Weights:
    """All 1: the policy that is scored is the one that sampled.

    >>> print(on_policy(jnp.array([[True, False]])).token)
    [[1. 1.]]
    """
    zeros = jnp.zeros(mask.shape, jnp.float32)
    return Weights(zeros, zeros)


def importance_weights(logp: Float[Array, "B T"], old_logp: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Weights:
    """Σ log pi(y_s)/mu(y_s) over s < t (`log_state`) and s <= t (`log_token`), mu the policy that sampled (`old_logp`).

    Raises:
        ValueError: outside jit, where a log-prob is above 0 at a real token.

    >>> logp, old_logp = jnp.log(jnp.array([[[0.5, 0.5]], [[0.25, 0.5]]]))
    >>> weights = importance_weights(logp, old_logp, jnp.array([[True, True]]))
    >>> print(weights.state, weights.token, weights.sequence)
    [[1. 2.]] [[2. 2.]] [2.]
    """
    refuse_positive(mask, logp=logp, old_logp=old_logp)
    each = jax.lax.stop_gradient(jnp.where(mask, logp, 0.0) - jnp.where(mask, old_logp, 0.0))
    upto = jnp.cumsum(each, axis=-1)
    return Weights(log_state=upto - each, log_token=upto)


def effective_fraction(weight: Float[Array, "B"]) -> Float[Array, ""]:
    """(Σw)²/(B·Σw²): the share of the samples that the weighted ones are worth; 1 where all weigh alike (Kish 1965).

    >>> print(effective_fraction(jnp.array([1.0, 1.0, 1.0, 1.0])), effective_fraction(jnp.array([4.0, 0.0, 0.0, 0.0])))
    1.0 0.25
    """
    share = weight / jnp.max(weight)  # the square of a product of many ratios may overflow
    return jnp.sum(share) ** 2 / (share.size * jnp.sum(share**2))
