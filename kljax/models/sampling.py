"""Sampling with a key/value cache: prefill once per distinct prompt, then one token a step until every row has ended."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.models.decoder import Decoder, causal_mask, empty_cache, positions_of
from kljax.types import Params, Prompts, Rollout, struct


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn. Static: one compiled program for each.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 are off; where both are on, top-k cuts first.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    eos_id: int
    pad_id: int

    @property
    def scoring_temperature(self) -> float:
        """The temperature at which samples are scored: greedy ones at 1."""
        return self.temperature or 1.0


@struct
class _Progress:
    step: Int[Array, ""]
    logits: Float[Array, "B V"]
    cache: Any
    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]
    logp: Float[Array, "B T"]
    running: Bool[Array, "B"]


def sample(model: Decoder, prompts: Prompts, key: Key[Array, ""], sampler: Sampler) -> Rollout:
    """`sampler.samples` completions of each prompt, samples of one prompt adjacent.

    A row ends with its first end-of-sequence token or at `max_new_tokens`; the loop ends when every row has.
    """
    length = sampler.max_new_tokens
    prompts_in = jax.tree.map(lambda x: jnp.repeat(x, sampler.samples, axis=0), prompts)
    logits, cache = _prefill(model, prompts, sampler)
    batch = logits.shape[0]
    start = _Progress(
        step=jnp.zeros((), jnp.int32),
        logits=logits,
        cache=cache,
        tokens=jnp.full((batch, length), sampler.pad_id, jnp.int32),
        mask=jnp.zeros((batch, length), bool),
        logp=jnp.zeros((batch, length), jnp.float32),
        running=jnp.ones((batch,), bool),
    )

    def unfinished(at: _Progress):
        return (at.step < length) & at.running.any()

    def draw_one(at: _Progress) -> _Progress:
        logits = at.logits / sampler.scoring_temperature
        token = draw(logits, jax.random.fold_in(key, at.step), sampler)
        logp = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        token = jnp.where(at.running, token, sampler.pad_id)
        mask = at.mask.at[:, at.step].set(at.running)
        next_logits, cache = _decode(model, token, prompts_in.mask, mask, at.cache, at.step)
        return _Progress(
            step=at.step + 1,
            logits=next_logits,
            cache=cache,
            tokens=at.tokens.at[:, at.step].set(token),
            mask=mask,
            logp=at.logp.at[:, at.step].set(jnp.where(at.running, logp, 0.0)),
            running=at.running & (token != sampler.eos_id),
        )

    end = jax.lax.while_loop(unfinished, draw_one, start)
    return Rollout(
        tokens=jnp.concatenate([prompts_in.tokens, end.tokens], axis=1),
        prompt_mask=prompts_in.mask,
        mask=end.mask,
        behaviour_logp=end.logp,
    )


@partial(jax.jit, static_argnames=("graphdef", "sampler"))
def sample_jit(graphdef: nnx.GraphDef, params: Params, prompts: Prompts, key: Key[Array, ""], sampler: Sampler) -> Rollout:
    """`sample` for standalone use, compiled."""
    return sample(nnx.merge(graphdef, params), prompts, key, sampler)


def draw(logits: Float[Array, "B V"], key: Key[Array, ""], sampler: Sampler) -> Int[Array, "B"]:
    """One token a row from softmax(logits), cut by top-k and top-p; the most likely one where temperature is 0.

    By inversion of the cumulative distribution, with one uniform number a row: on a CPU, Gumbel noise for every token of
    the vocabulary costs more than the output projection.
    """
    if sampler.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    cumulative = jnp.cumsum(jax.nn.softmax(truncate(logits, sampler.top_k, sampler.top_p), axis=-1), axis=-1)
    uniform = jax.random.uniform(key, logits.shape[:1])
    # 1 − u lies in (0, 1]: a token of probability 0 is never the first whose cumulative reaches it.
    threshold = (1.0 - uniform) * cumulative[:, -1]
    return jnp.sum(cumulative < threshold[:, None], axis=-1)


def truncate(logits: Float[Array, "B V"], top_k: int, top_p: float) -> Float[Array, "B V"]:
    """−inf for all but the `top_k` likeliest tokens (0: off), then for those outside the smallest set of mass `top_p`.

    Ties with the last token kept are kept. The likeliest token always is.
    """
    if 0 < top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    if top_p < 1:
        descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probability = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        smallest = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    return logits


def _prefill(model: Decoder, prompts: Prompts, sampler: Sampler):
    """Logits after the last prompt token and a cache with room for the completion, repeated for each sample.

    Prompts repeat G times, but their keys and values do not differ: prefill the distinct ones, then repeat the cache.
    """
    hidden, used = model(prompts.tokens, positions_of(prompts.mask), causal_mask(prompts.mask))
    n, width = prompts.tokens.shape
    room = empty_cache(model.config, n, width + sampler.max_new_tokens)
    cache = [
        tuple(jnp.repeat(empty.at[:, :width].set(filled), sampler.samples, axis=0) for empty, filled in zip(*pair, strict=True))
        for pair in zip(room, used, strict=True)
    ]
    return jnp.repeat(model.logits(hidden[:, -1]), sampler.samples, axis=0), cache


def _decode(model: Decoder, token, prompt_mask, mask, cache, step):
    """Logits after one more token, which goes into slot `width + step` of the cache."""
    position = prompt_mask.sum(axis=1) + step
    visible = jnp.concatenate([prompt_mask, mask], axis=1)
    hidden, cache = model(token[:, None], position[:, None], visible[:, None, :], cache, prompt_mask.shape[1] + step)
    return model.logits(hidden[:, 0]), cache
