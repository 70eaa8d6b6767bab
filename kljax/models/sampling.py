"""Sampling with a key/value cache: prompts are read once each, then one token a step until every row has ended."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.models.decoder import Cache, Decoder, write
from kljax.models.ops.recall import Activations, Known, without_slots
from kljax.models.prefill import grown, prefill
from kljax.types import Params, Prompts, Rollout, struct


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn. Static: one compiled program for each.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 are off; where both are on, top-k cuts first. `cache_dtype` is that of
    keys and values, None that of the activations: in bfloat16 what is sampled from is not quite what is scored. Each of
    `eos_ids`, in increasing order, ends a completion; where there is none, all completions have `max_new_tokens`.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    eos_ids: tuple[int, ...]
    pad_id: int
    cache_dtype: str | None = None

    @property
    def scoring_temperature(self) -> float:
        """The temperature at which samples are scored: greedy ones at 1."""
        return self.temperature or 1.0

    def ends(self, tokens: Int[Array, "*dims"]) -> Bool[Array, "*dims"]:
        """Whether each token ends its completion."""
        return jnp.any(tokens[..., None] == jnp.array(self.eos_ids, jnp.int32), axis=-1)


@struct
class _Progress:
    step: Int[Array, ""]
    cache: Cache
    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]
    logp: Float[Array, "B T"]
    running: Bool[Array, "B"]
    kept: Activations | None


def sample(model: Decoder, prompts: Prompts, key: Key[Array, ""], sampler: Sampler) -> Rollout:
    """`sampler.samples` completions of each prompt, samples of one prompt adjacent.

    A row ends with the first of its tokens that ends one, or at `max_new_tokens`; the loops end when every row has.
    """
    return _sample(model, prompts, key, sampler, keep=False)[0]


def sample_with_activations(model: Decoder, prompts: Prompts, key: Key[Array, ""], sampler: Sampler) -> tuple[Rollout, Known]:
    """`sample`, and what each layer computed for the prompts and for all tokens but the last.

    Nothing (zeros) after the end of every row.
    """
    rollout, known = _sample(model, prompts, key, sampler, keep=True)
    assert known is not None
    return rollout, known


def _sample(
    model: Decoder, prompts: Prompts, key: Key[Array, ""], sampler: Sampler, keep: bool
) -> tuple[Rollout, Known | None]:
    length, width = sampler.max_new_tokens, prompts.tokens.shape[1]
    stages = rooms(length - 1)
    hidden, cache, of_prompts = prefill(model, prompts.tokens, prompts.mask, sampler.samples, stages[0], sampler.cache_dtype)
    given = jax.tree.map(lambda x: jnp.repeat(x, sampler.samples, axis=0), prompts)
    prompt_length, batch = given.mask.sum(axis=1), len(given.tokens)
    uniforms = _uniforms(key, length, batch)

    def with_next(at: _Progress, hidden: Float[Array, "B D"]) -> _Progress:
        """A token more, drawn from what the model says after the last one."""
        token, logp = draw(model.logits(hidden) / sampler.scoring_temperature, uniforms[at.step], sampler)
        token = jnp.where(at.running, token, sampler.pad_id)
        return replace(
            at,
            step=at.step + 1,
            tokens=at.tokens.at[:, at.step].set(token),
            mask=at.mask.at[:, at.step].set(at.running),
            logp=at.logp.at[:, at.step].set(jnp.where(at.running, logp, 0.0)),
            running=at.running & ~sampler.ends(token),
        )

    def fill(at: _Progress, room: int) -> _Progress:
        """Tokens until the cache holds `room` of them, or every row has ended."""

        def unfinished(at: _Progress):
            return (at.step <= room) & at.running.any()

        def read_last(at: _Progress) -> tuple[Float[Array, "B 1 D"], Activations]:
            last = at.step - 1
            token = jax.lax.dynamic_index_in_dim(at.tokens, last, axis=1)
            visible = jnp.concatenate([given.mask, at.mask[:, :room]], axis=1)[:, None]
            return model(token, (prompt_length + last)[:, None], visible, at.cache, width + last)

        def one_more(at: _Progress) -> _Progress:
            hidden, found = read_last(at)
            cache = write(at.cache, (found.keys, found.values), width + at.step - 1)
            kept = at.kept and jax.tree.map(partial(_written, at.step - 1), at.kept, without_slots(found))
            return with_next(replace(at, cache=cache, kept=kept), hidden[:, 0])

        more = width + room - jax.tree.leaves(at.cache)[0].shape[-2]
        at = replace(at, cache=jax.tree.map(lambda x: grown(x, more), at.cache))
        if keep and at.kept is None:
            shapes = without_slots(jax.eval_shape(read_last, at)[1])
            at = replace(at, kept=jax.tree.map(partial(_room_for, length - 1), shapes))
        return jax.lax.while_loop(unfinished, one_more, at)

    at = _Progress(
        step=jnp.zeros((), jnp.int32),
        cache=cache,
        tokens=jnp.full((batch, length), sampler.pad_id, jnp.int32),
        mask=jnp.zeros((batch, length), bool),
        logp=jnp.zeros((batch, length), jnp.float32),
        running=jnp.ones((batch,), bool),
        kept=None,
    )
    at = with_next(at, hidden)
    for room in stages:
        at = fill(at, room)
    rollout = Rollout(
        tokens=jnp.concatenate([given.tokens, at.tokens], axis=1),
        prompt_mask=given.mask,
        mask=at.mask,
        behaviour_logp=at.logp,
    )
    if at.kept is None:
        return rollout, None
    return rollout, Known(of_prompts, at.kept._replace(keys=at.cache[0], values=at.cache[1]))


def _room_for(tokens: int, x: jax.ShapeDtypeStruct) -> Float[Array, "*dims tokens width"]:
    """Zeros for so many tokens of what `x` is of one."""
    return jnp.zeros((*x.shape[:-2], max(tokens, 1), x.shape[-1]), x.dtype)


def _written(
    token: Int[Array, ""], kept: Float[Array, "*dims tokens width"], new: Float[Array, "*dims 1 width"]
) -> Float[Array, "*dims tokens width"]:
    """The kept activations with the new ones at their token."""
    return jax.lax.dynamic_update_slice_in_dim(kept, new, token, axis=kept.ndim - 2)


STAGES = 2  # with four, attention would read a tenth less again, and each stage is compiled for itself


def rooms(tokens: int) -> list[int]:
    """The slots that the cache has for sampled tokens, stage by stage: a step reads all slots, filled or not."""
    return sorted({-(-tokens * stage // STAGES) for stage in range(1, STAGES + 1)})


@partial(jax.jit, static_argnames=("graphdef", "sampler"))
def sample_jit(graphdef: nnx.GraphDef, params: Params, prompts: Prompts, key: Key[Array, ""], sampler: Sampler) -> Rollout:
    """`sample` for standalone use, compiled."""
    return sample(nnx.merge(graphdef, params), prompts, key, sampler)


def _uniforms(key: Key[Array, ""], length: int, batch: int) -> Float[Array, "T B"]:
    """The random number of every token, at once: on a CPU, Threefry is a loop of many small programs at each call."""
    return jax.vmap(lambda step: jax.random.uniform(jax.random.fold_in(key, step), (batch,)))(jnp.arange(length))


def draw(
    logits: Float[Array, "B V"], uniform: Float[Array, "B"], sampler: Sampler
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """One token a row from softmax(logits), cut by top-k and top-p, or the likeliest at temperature 0; and its log-prob.

    The log-prob is that under softmax(logits), cut or not. Tokens are drawn by inversion of the cumulative distribution, by
    the row's number in [0, 1): first the block of the vocabulary, then the token in it. On a CPU, Gumbel noise for every
    token costs more than the output projection, and so do cumulative sums over the whole vocabulary.
    """
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    kept = weights
    if sampler.top_k or sampler.top_p < 1:
        kept = jnp.where(truncate(logits, sampler.top_k, sampler.top_p) > -jnp.inf, weights, 0.0)
    blocks = _blocks(kept)
    cumulative = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    token = jnp.argmax(logits, axis=-1) if sampler.temperature == 0 else _invert(blocks, cumulative, uniform)
    total = cumulative[:, -1] if kept is weights else weights.sum(axis=-1)
    return token, jnp.log(_at(weights, token) / total)


BLOCK = 128


def _blocks(weights: Float[Array, "B V"]) -> Float[Array, "B blocks width"]:
    return jnp.pad(weights, ((0, 0), (0, -weights.shape[-1] % BLOCK))).reshape(len(weights), -1, BLOCK)


def _invert(
    blocks: Float[Array, "B blocks width"], cumulative: Float[Array, "B blocks"], uniform: Float[Array, "B"]
) -> Int[Array, "B"]:
    """The first token whose cumulative weight reaches (1 − u) of the total.

    1 − u lies in (0, 1], so that a token of weight 0 is never the first. Within the block the part is cut to what the block
    holds: sums of the same weights in another order may differ in the last digit.
    """
    part = (1.0 - uniform) * cumulative[:, -1]
    block = jnp.sum(cumulative < part[:, None], axis=-1)
    before = jnp.where(block > 0, _at(cumulative, jnp.maximum(block - 1, 0)), 0.0)
    within = jnp.cumsum(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], axis=-1)
    part = jnp.minimum(part - before, within[:, -1])
    return block * BLOCK + jnp.sum((within < part[:, None]) | (within <= 0), axis=-1)


def _at(rows: Float[Array, "B n"], index: Int[Array, "B"]) -> Float[Array, "B"]:
    return jnp.take_along_axis(rows, index[:, None], axis=-1)[:, 0]


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
