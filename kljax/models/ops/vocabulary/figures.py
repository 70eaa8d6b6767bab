"""Figures of two next-token distributions that a training step needs, together, with its gradient in closed form.

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

from kljax.kl.divergences import SERIES, excess_near_zero

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

    KL(p‖q) = Σ p (e^−u − 1 + u), u = log p/q = (z − z_q) − (log Z − log Z_q) with logits z: no term is negative, and the
    difference is taken of what is alike. So a policy near its reference keeps its digits, value and gradient, however small the
    KL is, and one equal to it has 0. Gradients: `divergences` states them.
    """
    return _in_one_block(COMPARISON, [logits, ref_logits], tokens)


def comparison(temperature: float) -> Online:
    """`COMPARISON` of softmax(logits / temperature): logits are divided after their difference is taken, which keeps digits."""
    if temperature == 1:
        return COMPARISON
    return Online(_compare_begin, partial(_compare_add, temperature), _compare_finish, partial(_compare_gradient, temperature))


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
    """Both distributions, and sums over the tokens so far with v = z − z_q − offset, w and w_q their weights.

    `shift` is Σ w v and `excess` Σ w (e^−v − 1 + v), `ref_shift` Σ w_q v and `ref_excess` Σ w_q (e^v − 1 − v), `spread`
    Σ w (z − largest). The offset is the difference of the largest logits of the first block: where p is near q it is near
    log Z/Z_q, and the sums are of what is small, and known before they are taken.
    """

    ours: _Running
    theirs: _Running
    offset: Array
    shift: Array
    excess: Array
    ref_shift: Array
    ref_excess: Array
    spread: Array


FAR = 80.0  # nats: e^80 is within float32


def _compare_begin(tokens):
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return _Pair(_nothing(tokens), _nothing(tokens), *[zeros] * 6)


def _compare_add(temperature: float, sums: _Pair, logits, tokens, first):
    difference = (logits[0] - logits[1]) / temperature
    logits = [each / temperature for each in logits]
    ours, weights, shrunk = _advance(sums.ours, logits[0], tokens, first)
    theirs, ref_weights, ref_shrunk = _advance(sums.theirs, logits[1], tokens, first)
    offset = jnp.where(sums.ours.total == 0, ours.largest - theirs.largest, sums.offset)
    v = difference - offset[..., None]
    small = jnp.abs(v) < SERIES
    # w·e^−v and w_q·e^v are the other's weights on one's own scale: no exponential of v, which may be large.
    scale = jnp.exp(jnp.clip(theirs.largest + offset - ours.largest, -FAR, FAR))[..., None]
    near, ref_near = excess_near_zero(jnp.where(small, -v, 0.0)), excess_near_zero(jnp.where(small, v, 0.0))
    excess = jnp.where(small, weights * near, ref_weights * scale - weights + weights * v)
    ref_excess = jnp.where(small, ref_weights * ref_near, weights / scale - ref_weights - ref_weights * v)
    before = sums.spread + sums.ours.total * (sums.ours.largest - ours.largest)
    return _Pair(
        ours,
        theirs,
        offset,
        shift=shrunk * sums.shift + jnp.sum(weights * v, axis=-1),
        excess=shrunk * sums.excess + jnp.sum(excess, axis=-1),
        ref_shift=ref_shrunk * sums.ref_shift + jnp.sum(ref_weights * v, axis=-1),
        ref_excess=ref_shrunk * sums.ref_excess + jnp.sum(ref_excess, axis=-1),
        spread=shrunk * before + jnp.sum(weights * (logits[0] - ours.largest[..., None]), axis=-1),
    )


def _compare_finish(sums: _Pair):
    ours, theirs = sums.ours, sums.theirs
    shift, ref_shift = sums.shift / ours.total, sums.ref_shift / theirs.total
    excess, ref_excess = sums.excess / ours.total, sums.ref_excess / theirs.total
    miss, ref_miss = excess - shift, ref_excess + ref_shift  # Σ p e^−v − 1 and Σ q e^v − 1: 0 were the offset log Z/Z_q
    between = (ours.largest - theirs.largest) + jnp.log(ours.total / theirs.total)  # log Z/Z_q
    near = (jnp.abs(miss) < SERIES) & (jnp.abs(ref_miss) < SERIES)
    rest, ref_rest = (jnp.log1p(jnp.where(near, x, 0.0)) for x in (miss, ref_miss))  # log1p(x) = y: x − y is e^y − 1 − y
    found = Comparison(
        logp=ours.logp,
        ref_logp=theirs.logp,
        reverse_kl=jnp.where(near, excess - excess_near_zero(rest), shift + sums.offset - between),
        forward_kl=jnp.where(near, ref_excess - excess_near_zero(ref_rest), between - sums.offset - ref_shift),
        entropy=jnp.log(ours.total) - sums.spread / ours.total,
    )
    # log Z/Z_q = between − rest: in one number it would be rounded to its own last digit, not to that of u.
    between = jnp.where(near, sums.offset, between)
    return found, (ours.log_total, theirs.log_total, between, rest, found)


def _compare_gradient(temperature: float, logits, tokens, first, kept, cotangent: Comparison):
    difference = (logits[0] - logits[1]) / temperature
    logits = [each / temperature for each in logits]
    (logits, ref_logits), (log_total, ref_log_total, between, rest, found) = logits, kept
    log_p, log_q = logits - log_total[..., None], ref_logits - ref_log_total[..., None]
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    u = (difference - between[..., None]) + rest[..., None]
    small = jnp.abs(u) < SERIES
    p_less_q = jnp.where(small, p * (u - excess_near_zero(jnp.where(small, -u, 0.0))), p - q)  # p (1 − e^−u) keeps digits
    reverse, forward, entropy = (g[..., None] for g in (cotangent.reverse_kl, cotangent.forward_kl, cotangent.entropy))
    # Coefficients of p and of p·log p are gathered before they meet the vocabulary.
    constant = cotangent.logp + cotangent.reverse_kl * found.reverse_kl + cotangent.entropy * found.entropy
    d_logits = p * (reverse * u - entropy * log_p - constant[..., None]) + forward * p_less_q
    ref_constant = cotangent.ref_logp + cotangent.forward_kl * found.forward_kl
    d_ref_logits = -q * (forward * u + ref_constant[..., None]) - reverse * p_less_q
    return [
        (d_logits + _onehot(cotangent.logp, tokens - first, logits)) / temperature,
        (d_ref_logits + _onehot(cotangent.ref_logp, tokens - first, ref_logits)) / temperature,
    ]


COMPARISON = Online(_compare_begin, partial(_compare_add, 1.0), _compare_finish, partial(_compare_gradient, 1.0))


def _at(logits, index):
    """The logit at `index`, 0 where the block does not have it."""
    here = (index >= 0) & (index < logits.shape[-1])
    return jnp.where(here, jnp.take_along_axis(logits, jnp.where(here, index, 0)[..., None], axis=-1)[..., 0], 0.0)


def _onehot(values, index, like):
    """`values` at `index`, 0 elsewhere."""
    vocabulary = jax.lax.broadcasted_iota(index.dtype, like.shape, like.ndim - 1)
    return jnp.where(vocabulary == index[..., None], values[..., None], 0.0)
