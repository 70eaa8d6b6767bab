"""Rewards as JAX functions: part of the one compiled step.

Each entry of `DEVICE_REWARDS` is a factory: given the tokenizer and the config's arguments it makes a function from a
`Rollout` to one number a sequence, or a `ModelReward`. A dotted path in the config names a factory of your own.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kljax.data.grammar import MODIFIER, VALENCE
from kljax.errors import UserError
from kljax.rewards import model
from kljax.types import Rollout, Tokenizer

DeviceReward = Callable[[Rollout], Float[Array, "B"]]


def sentiment(tokenizer: Tokenizer) -> DeviceReward:
    """The review grammar's sentiment: Σ valence(word) · modifier(word before) over the completion's words."""
    vocabulary = tokenizer.get_vocab()
    missing = sorted((VALENCE.keys() | MODIFIER.keys()) - vocabulary.keys())
    if missing:
        raise UserError(
            f"the tokenizer has no token for {len(missing)} of the grammar's words ('{missing[0]}', …). It "
            "is for the built-in task with tokenizer.kind=words; for other text use reward=vader."
        )
    valence, modifier = np.zeros(len(vocabulary), np.float32), np.ones(len(vocabulary), np.float32)
    for table, words in ((valence, VALENCE), (modifier, MODIFIER)):
        for word, value in words.items():
            table[vocabulary[word]] = value

    def reward(rollout: Rollout) -> Float[Array, "B"]:
        before = rollout.tokens[:, rollout.prompt_mask.shape[1] - 1 : -1]
        felt = jnp.asarray(valence)[rollout.completion] * jnp.asarray(modifier)[before]
        return jnp.sum(jnp.where(rollout.mask, felt, 0.0), axis=-1)

    return reward


def length(tokenizer: Tokenizer) -> DeviceReward:
    """Tokens of the completion, its end-of-sequence token included."""
    return lambda rollout: rollout.mask.sum(axis=-1).astype(jnp.float32)


def even_tokens(tokenizer: Tokenizer) -> DeviceReward:
    """Tokens of the completion whose id is even: a reward that costs next to nothing, for measuring speed (make benchmark)."""
    return lambda rollout: (rollout.mask & (rollout.completion % 2 == 0)).sum(axis=-1).astype(jnp.float32)


def repetition(tokenizer: Tokenizer) -> DeviceReward:
    """The share of the completion's bigrams that occurred in it before: 0 for none. Give it a negative weight."""

    def reward(rollout: Rollout) -> Float[Array, "B"]:
        first, second = rollout.completion[:, :-1], rollout.completion[:, 1:]
        real = rollout.mask[:, 1:]
        same = (first[:, :, None] == first[:, None, :]) & (second[:, :, None] == second[:, None, :])
        earlier = jnp.tril(jnp.ones(same.shape[1:], bool), k=-1) & real[:, None, :]
        repeated = jnp.any(same & earlier, axis=-1) & real
        return (repeated.sum(-1) / jnp.maximum(real.sum(-1), 1)).astype(jnp.float32)

    return reward


def pairs(tokenizer: Tokenizer, seed: int) -> DeviceReward:
    """Σ over the completion of a value for each token after the one before it, normal numbers drawn by `seed`.

    For vocabularies of a few tokens: the values are a table V × V.
    """
    size = len(tokenizer)
    values = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)

    def reward(rollout: Rollout) -> Float[Array, "B"]:
        before = rollout.tokens[:, rollout.prompt_mask.shape[1] - 1 : -1]
        felt = jnp.asarray(values)[before, rollout.completion]
        return jnp.sum(jnp.where(rollout.mask, felt, 0.0), axis=-1)

    return reward


DEVICE_REWARDS = {
    "sentiment": sentiment,
    "length": length,
    "even_tokens": even_tokens,
    "repetition": repetition,
    "pairs": pairs,
    "model": model.on_tokens,
}
