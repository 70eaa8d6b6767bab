"""Exact divergences between next-token distributions, given as logits over the last axis.

With p = softmax(logits) of the policy and q = softmax(ref_logits) of the reference, always in this order of arguments.
KL is not symmetric: each function names its direction. All are in nats and computed in float32 or wider.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _log_softmax(logits: Float[Array, "*dims V"]) -> Float[Array, "*dims V"]:
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    return jax.nn.log_softmax(logits.astype(wide), axis=-1)


def _expected_difference(log_p: Float[Array, "*dims V"], log_q: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """Σ p (log p − log q): a token that p forbids counts 0, one that only q forbids makes it +inf, never NaN."""
    possible = log_p > -jnp.inf
    forbidden = possible & (log_q == -jnp.inf)  # said apart, since exp(log_p) may have underflowed, and 0 · inf is NaN
    counted = possible & ~forbidden
    difference = jnp.where(counted, log_p, 0.0) - jnp.where(counted, log_q, 0.0)
    total = jnp.sum(jnp.where(counted, jnp.exp(log_p), 0.0) * difference, axis=-1)
    return jnp.where(forbidden.any(axis=-1), jnp.inf, total)


def reverse_kl(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """KL(p‖q) = Σ p (log p − log q), the KL that the RLHF objective penalises. Mode-seeking.

    +inf where p allows a token that q forbids. Gradient in the logits: p · (log p − log q − KL).
    """
    log_p, log_q = _log_softmax(logits), _log_softmax(ref_logits)
    return _expected_difference(log_p, log_q)


def forward_kl(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """KL(q‖p) = Σ q (log q − log p), what maximum likelihood *minimises*. Mode-covering.

    +inf where q allows a token that p forbids. Gradient in the logits: p − q.
    """
    log_p, log_q = _log_softmax(logits), _log_softmax(ref_logits)
    return _expected_difference(log_q, log_p)


def entropy(logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """H(p) = −Σ p log p, nats. Gradient in the logits: −p · (log p + H)."""
    log_p = _log_softmax(logits)
    return -_expected_difference(log_p, jnp.zeros_like(log_p))
