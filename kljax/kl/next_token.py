"""What a training step asks of two next-token distributions, together, with its gradient in closed form.

The same numbers as `divergences` gives one by one, for logits that are finite (a model's are): a few sums over the vocabulary
in place of a log-softmax for each, and a backward pass of one expression in place of what autodiff strings together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Comparison(NamedTuple):
    """Of the policy's p and the reference's q, nats: log p and log q of a token, KL(p‖q), KL(q‖p) and H(p)."""

    logp: Float[Array, "*dims"]
    ref_logp: Float[Array, "*dims"]
    reverse_kl: Float[Array, "*dims"]
    forward_kl: Float[Array, "*dims"]
    entropy: Float[Array, "*dims"]


@jax.custom_vjp
def log_prob(logits: Float[Array, "*dims V"], tokens: Int[Array, "*dims"]) -> Float[Array, "*dims"]:
    """log p(token), nats. Gradient in the logits: onehot(token) − p."""
    return _log_prob(logits, tokens)[0]


def _log_prob(logits, tokens):
    largest, weights = _weights(logits)
    log_total = largest + jnp.log(weights.sum(axis=-1))
    return _at(logits, tokens) - log_total, (logits, tokens, log_total)


def _log_prob_gradient(saved, cotangent):
    logits, tokens, log_total = saved
    p = jnp.exp(logits - log_total[..., None])
    return _onehot(cotangent, tokens, logits) - cotangent[..., None] * p, None


log_prob.defvjp(_log_prob, _log_prob_gradient)


@jax.custom_vjp
def compare(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], tokens: Int[Array, "*dims"]) -> Comparison:
    """All that `Comparison` names, from finite logits.

    KL(p‖q) = Σ p (z − z_q) − (log Z − log Z_q) with logits z: the difference is taken of what is alike, so that a policy near
    its reference keeps its digits, and one equal to it has 0. Gradients: `divergences` states them.
    """
    return _compare(logits, ref_logits, tokens)[0]


def _compare(logits, ref_logits, tokens):
    largest, weights = _weights(logits)
    ref_largest, ref_weights = _weights(ref_logits)
    total, ref_total = weights.sum(axis=-1), ref_weights.sum(axis=-1)
    log_total, ref_log_total = largest + jnp.log(total), ref_largest + jnp.log(ref_total)
    between = (largest - ref_largest) + jnp.log(total / ref_total)  # log Z − log Z_q
    difference = logits - ref_logits
    found = Comparison(
        logp=_at(logits, tokens) - log_total,
        ref_logp=_at(ref_logits, tokens) - ref_log_total,
        reverse_kl=jnp.sum(weights * difference, axis=-1) / total - between,
        forward_kl=between - jnp.sum(ref_weights * difference, axis=-1) / ref_total,
        entropy=jnp.log(total) - jnp.sum(weights * (logits - largest[..., None]), axis=-1) / total,
    )
    return found, (logits, ref_logits, tokens, log_total, ref_log_total, between, found)


def _compare_gradient(saved, cotangent: Comparison):
    logits, ref_logits, tokens, log_total, ref_log_total, between, found = saved
    log_p, log_q = logits - log_total[..., None], ref_logits - ref_log_total[..., None]
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    log_ratio = (logits - ref_logits) - between[..., None]
    reverse, forward, entropy = (g[..., None] for g in (cotangent.reverse_kl, cotangent.forward_kl, cotangent.entropy))
    # Coefficients of p and of p·log p are gathered before they meet the vocabulary.
    constant = cotangent.forward_kl - cotangent.logp - cotangent.reverse_kl * found.reverse_kl
    constant = (constant - cotangent.entropy * found.entropy)[..., None]
    d_logits = p * (reverse * log_ratio - entropy * log_p + constant) - forward * q
    ref_constant = (cotangent.reverse_kl - cotangent.ref_logp - cotangent.forward_kl * found.forward_kl)[..., None]
    d_ref_logits = q * (ref_constant - forward * log_ratio) - reverse * p
    return (
        d_logits + _onehot(cotangent.logp, tokens, logits),
        d_ref_logits + _onehot(cotangent.ref_logp, tokens, ref_logits),
        None,
    )


compare.defvjp(_compare, _compare_gradient)


def _weights(logits):
    """The largest logit, and e^(logit − largest) of each."""
    largest = logits.max(axis=-1)
    return largest, jnp.exp(logits - largest[..., None])


def _at(logits, tokens):
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]


def _onehot(values, tokens, like):
    """`values` at `tokens`, 0 elsewhere."""
    vocabulary = jax.lax.broadcasted_iota(tokens.dtype, like.shape, like.ndim - 1)
    return jnp.where(vocabulary == tokens[..., None], values[..., None], 0.0)
