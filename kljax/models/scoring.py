"""Tokens to log-probs, exact KLs and entropy, in time chunks: `[B, T, V]` never exists, not even in the backward pass."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from kljax.kl import divergences
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.types import Rollout, Scores


def completion_states(model: Decoder, rollout: Rollout) -> Float[Array, "B T D"]:
    """The hidden state before each completion token: the one from which it was sampled. No dropout."""
    prompt = rollout.prompt_mask.shape[1]
    mask = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    hidden, _ = model(rollout.tokens, positions_of(mask), causal_mask(mask))
    return hidden[:, prompt - 1 : -1]


def score(
    policy: Decoder,
    reference: Decoder,
    rollout: Rollout,
    temperature: float,
    divergence: divergences.Divergence = divergences.reverse_kl,
) -> Scores:
    """Log-probs, both exact KLs, `divergence` and the entropy of every completion state, at the temperature of sampling.

    The temperature divides the logits of policy and reference alike. Differentiable in the policy and in the reference.
    """

    def chunk_scores(chunk):
        states, ref_states, tokens = chunk
        logits = policy.logits(states) / temperature
        ref_logits = reference.logits(ref_states) / temperature
        return Scores(
            logp=_logp(logits, tokens),
            ref_logp=_logp(ref_logits, tokens),
            reverse_kl=divergences.reverse_kl(logits, ref_logits),
            forward_kl=divergences.forward_kl(logits, ref_logits),
            divergence=divergence(logits, ref_logits),
            entropy=divergences.entropy(logits),
        )

    inputs = completion_states(policy, rollout), completion_states(reference, rollout), rollout.completion
    return map_time_chunks(chunk_scores, inputs, policy.config.logit_chunk)


def token_logp(
    model: Decoder, tokens: Int[Array, "B S"], mask, dropout_key: Key[Array, ""] | None = None
) -> Float[Array, "B S-1"]:
    """log p(token | all before it) of every token but the first, nats; padding (right or left) gives arbitrary values."""
    hidden, _ = model(tokens, positions_of(mask), causal_mask(mask), dropout_key=dropout_key)
    inputs = hidden[:, :-1], tokens[:, 1:]
    return map_time_chunks(lambda chunk: _logp(model.logits(chunk[0]), chunk[1]), inputs, model.config.logit_chunk)


def _logp(logits: Float[Array, "B T V"], tokens: Int[Array, "B T"]) -> Float[Array, "B T"]:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def map_time_chunks(function, inputs, size: int):
    """function over chunks of `size` steps of axis 1, one after another, its logits recomputed in the backward pass."""
    length = jax.tree.leaves(inputs)[0].shape[1]
    size = min(size, length)
    chunks = -(-length // size)

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], chunks * size)[:, :length]

    return jax.tree.map(join, jax.lax.map(jax.checkpoint(function), jax.tree.map(split, inputs)))
