"""What a training step asks of two next-token distributions, together, with its gradient in closed form.

The same numbers as `divergences` gives one by one, for logits that are finite (a model's are): a few sums over the vocabulary
in place of a log-softmax for each, and a backward pass of one expression in place of what autodiff strings together. The sums
can be taken block by block, so that not even one state's logits need to be there at once (Milakov & Gimelshein 2018,
arXiv:1805.02867): `COMPARISON` and `LOG_PROB`; `compare` and `log_prob` are the same with the vocabulary in one block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

NOTHING = -1e30  # the largest logit of none: finite, so that nothing times it is nothing


@dataclass(frozen=True)
class Online:
    """Figures of next-token distributions by one look at each block of the vocabulary, and their gradient by another.

    A block is a list of logits [*dims v], one entry a distribution; `first` is where it begins, `tokens` [*dims] count from the
    vocabulary's beginning. `begin(tokens)` → sums of nothing; `add(sums, logits, tokens, first)` → sums; `finish(sums)` →
    (figures, kept), each a tree of [*dims]; `gradient(logits, tokens, first, kept, cotangent)` → a list like `logits`.
    """

    begin: Callable[[Any], Any]
    add: Callable[[Any, list[Array], Any, Any], Any]
    finish: Callable[[Any], tuple[Any, Any]]
    gradient: Callable[[list[Array], Any, Any, Any, Any], list[Array]]


class Comparison(NamedTuple):
    """Of the policy's p and the reference's q, nats: log p and log q of a token, KL(p‖q), KL(q‖p) and H(p)."""

    logp: Float[Array, "*dims"]
    ref_logp: Float[Array, "*dims"]
    reverse_kl: Float[Array, "*dims"]
    forward_kl: Float[Array, "*dims"]
    entropy: Float[Array, "*dims"]


def log_prob(logits: Float[Array, "*dims V"], tokens: Int[Array, "*dims"]) -> Float[Array, "*dims"]:
    """log p(token), nats. Gradient in the logits: onehot(token) − p."""
    return _in_one_block(LOG_PROB, [logits], tokens)


def compare(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], tokens: Int[Array, "*dims"]) -> Comparison:
    """All that `Comparison` names, from finite logits.

    KL(p‖q) = Σ p (z − z_q) − (log Z − log Z_q) with logits z: the difference is taken of what is alike, so that a policy near
    its reference keeps its digits, and one equal to it has 0. Gradients: `divergences` states them.
    """
    return _in_one_block(COMPARISON, [logits, ref_logits], tokens)


def at_temperature(online: Online, temperature: float) -> Online:
    """The figures of softmax(logits / temperature)."""

    def add(sums, logits, tokens, first):
        return online.add(sums, [each / temperature for each in logits], tokens, first)

    def gradient(logits, tokens, first, kept, cotangent):
        found = online.gradient([each / temperature for each in logits], tokens, first, kept, cotangent)
        return [each / temperature for each in found]

    return online if temperature == 1 else Online(online.begin, add, online.finish, gradient)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_one_block(online, logits, tokens):
    return _look(online, logits, tokens)[0]


def _look(online, logits, tokens):
    found, kept = online.finish(online.add(online.begin(tokens), logits, tokens, 0))
    return found, (logits, tokens, kept)


def _look_again(online, saved, cotangent):
    logits, tokens, kept = saved
    return online.gradient(logits, tokens, 0, kept, cotangent), None


_in_one_block.defvjp(_look, _look_again)


class _Running(NamedTuple):
    """Of one distribution: the largest logit, the sum of the weights e^(logit − largest), and the logit of the token."""

    largest: Array
    total: Array
    at: Array

    @property
    def log_total(self) -> Array:
        return self.largest + jnp.log(self.total)

    @property
    def logp(self) -> Array:
        return self.at - self.log_total


def _nothing(tokens: Array) -> _Running:
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return _Running(zeros + NOTHING, zeros, zeros)


def _advance(run: _Running, logits: Array, tokens: Array, first: Any) -> tuple[_Running, Array, Array]:
    """With a block more; its weights, and the factor by which those before it shrink under a new largest logit."""
    largest = jnp.maximum(run.largest, logits.max(axis=-1))
    weights, shrunk = jnp.exp(logits - largest[..., None]), jnp.exp(run.largest - largest)
    return _Running(largest, shrunk * run.total + weights.sum(axis=-1), run.at + _at(logits, tokens - first)), weights, shrunk


def _log_prob_gradient(logits, tokens, first, log_total, cotangent):
    (logits,) = logits
    p = jnp.exp(logits - log_total[..., None])
    return [_onehot(cotangent, tokens - first, logits) - cotangent[..., None] * p]


LOG_PROB = Online(
    begin=_nothing,
    add=lambda run, logits, tokens, first: _advance(run, logits[0], tokens, first)[0],
    finish=lambda run: (run.logp, run.log_total),
    gradient=_log_prob_gradient,
)


class _Pair(NamedTuple):
    """Both distributions; Σ w (z − z_q), Σ w_q (z − z_q) and Σ w (z − largest), w and w_q their weights."""

    ours: _Running
    theirs: _Running
    reverse: Array
    forward: Array
    spread: Array


def _compare_begin(tokens):
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return _Pair(_nothing(tokens), _nothing(tokens), zeros, zeros, zeros)


def _compare_add(sums: _Pair, logits, tokens, first):
    ours, weights, shrunk = _advance(sums.ours, logits[0], tokens, first)
    theirs, ref_weights, ref_shrunk = _advance(sums.theirs, logits[1], tokens, first)
    difference = logits[0] - logits[1]
    before = sums.spread + sums.ours.total * (sums.ours.largest - ours.largest)
    return _Pair(
        ours,
        theirs,
        reverse=shrunk * sums.reverse + jnp.sum(weights * difference, axis=-1),
        forward=ref_shrunk * sums.forward + jnp.sum(ref_weights * difference, axis=-1),
        spread=shrunk * before + jnp.sum(weights * (logits[0] - ours.largest[..., None]), axis=-1),
    )


def _compare_finish(sums: _Pair):
    ours, theirs = sums.ours, sums.theirs
    between = (ours.largest - theirs.largest) + jnp.log(ours.total / theirs.total)  # log Z − log Z_q
    found = Comparison(
        logp=ours.logp,
        ref_logp=theirs.logp,
        reverse_kl=sums.reverse / ours.total - between,
        forward_kl=between - sums.forward / theirs.total,
        entropy=jnp.log(ours.total) - sums.spread / ours.total,
    )
    return found, (ours.log_total, theirs.log_total, between, found)


def _compare_gradient(logits, tokens, first, kept, cotangent: Comparison):
    (logits, ref_logits), (log_total, ref_log_total, between, found) = logits, kept
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
    return [
        d_logits + _onehot(cotangent.logp, tokens - first, logits),
        d_ref_logits + _onehot(cotangent.ref_logp, tokens - first, ref_logits),
    ]


COMPARISON = Online(_compare_begin, _compare_add, _compare_finish, _compare_gradient)


def _at(logits, index):
    """The logit at `index`, 0 where the block does not have it."""
    here = (index >= 0) & (index < logits.shape[-1])
    return jnp.where(here, jnp.take_along_axis(logits, jnp.where(here, index, 0)[..., None], axis=-1)[..., 0], 0.0)


def _onehot(values, index, like):
    """`values` at `index`, 0 elsewhere."""
    vocabulary = jax.lax.broadcasted_iota(index.dtype, like.shape, like.ndim - 1)
    return jnp.where(vocabulary == index[..., None], values[..., None], 0.0)
