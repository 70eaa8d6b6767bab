"""Tokens to log-probs, exact KLs and entropy: `[B, T, V]` never exists, not even in the backward pass."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.kl import divergences
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.ops.recall import Known
from kljax.models.ops.vocabulary import compare, comparisons, log_probs, map_whole_logits
from kljax.models.prefill import prefill
from kljax.types import Rollout, Scores


def score(
    policy: Decoder,
    reference: Decoder,
    rollout: Rollout,
    samples: int,
    temperature: float,
    divergence: divergences.Divergence = divergences.reverse_kl,
    known: Known | None = None,
) -> Scores:
    """Log-probs, both exact KLs, `divergence` and the entropy of every completion state, at the temperature of sampling.

    `samples` completions of a prompt lie side by side, and their prompt is read once. The temperature divides the logits of
    policy and reference alike. Differentiable in the policy and in the reference. Where it is `known` with which activations
    the policy sampled, it reads nothing again.
    """
    states = completion_states(policy, rollout, samples, known), completion_states(reference, rollout, samples)
    heads = policy.over_vocabulary(states[0]), reference.over_vocabulary(states[1])
    tokens, chunk, block = rollout.completion, policy.config.logit_chunk, policy.config.vocab_chunk
    if divergence is divergences.reverse_kl:
        found = comparisons(heads, tokens, temperature=temperature, chunk=chunk, block=block)
        return Scores(**found._asdict(), divergence=found.reverse_kl)
    return map_whole_logits(partial(_scores, temperature, divergence), heads, tokens, chunk=chunk)


def _scores(temperature: float, divergence: divergences.Divergence, logits: list[Array], tokens: Array) -> Scores:
    ours, theirs = (each / temperature for each in logits)
    return Scores(**compare(ours, theirs, tokens)._asdict(), divergence=divergence(ours, theirs))


def completion_states(model: Decoder, rollout: Rollout, samples: int, known: Known | None = None) -> Float[Array, "B T D"]:
    """The hidden state before each completion token: the one from which it was sampled. No dropout.

    Prompts are read once for all their samples, and the last token of a completion not at all: nothing follows it.
    """
    width, tokens = rollout.prompt_mask.shape[1], rollout.completion[:, :-1]
    prompts = _distinct(rollout.tokens[:, :width], samples), _distinct(rollout.prompt_mask, samples)
    of_prompts, of_completions = known or (None, None)
    first, cache, _ = prefill(model, *prompts, samples, tokens.shape[1], known=of_prompts)
    if not tokens.shape[1]:
        return first[:, None]
    positions = rollout.prompt_mask.sum(axis=-1, keepdims=True) + jnp.arange(tokens.shape[1])
    visible = _visible(rollout.prompt_mask, rollout.mask[:, :-1])
    hidden, _ = model(tokens, positions, visible, cache, width, known=of_completions)
    return jnp.concatenate([first[:, None], hidden], axis=1)


def _distinct(rows: Array, samples: int) -> Array:
    """Of each prompt's `samples` equal rows, the first."""
    return rows.reshape(-1, samples, *rows.shape[1:])[:, 0]


def _visible(prompt: Bool[Array, "B P"], completion: Bool[Array, "B L"]) -> Bool[Array, "B L S"]:
    """True where a completion's token may look: at its prompt, and at itself and what of the completion lies before it."""
    own = causal_mask(completion)
    return jnp.concatenate([jnp.broadcast_to(prompt[:, None], (*own.shape[:2], prompt.shape[1])), own], axis=-1)


def token_logp(
    model: Decoder, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"], dropout_key: Key[Array, ""] | None = None
) -> Float[Array, "B S-1"]:
    """log p(token | all before it) of every token but the first, nats; padding (right or left) gives arbitrary values."""
    hidden, _ = model(tokens, positions_of(mask), causal_mask(mask), dropout_key=dropout_key)
    head = model.over_vocabulary(hidden[:, :-1])
    return log_probs(head, tokens[:, 1:], chunk=model.config.logit_chunk, block=model.config.vocab_chunk)
