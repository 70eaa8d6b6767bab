"""Masked-language-model training: which tokens the model has to find, what stands in their places, what it says of them.

Devlin et al. 2019: of the tokens that are chosen 80 % become the mask token, 10 % any other token, 10 % stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.errors import UserError
from kljax.kl.sequences import masked_sum
from kljax.models.encoder import MaskedLm
from kljax.models.ops.vocabulary import log_prob, map_whole_logits
from kljax.types import Tokenizer, struct

MASKED, REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stay


@dataclass(frozen=True)
class Recipe:
    """How tokens are chosen: each with a probability, special ones never; only `words` stand in for others."""

    probability: float
    mask_id: int
    words: Int[np.ndarray, "W"]  # all tokens that are not special
    is_word: Bool[np.ndarray, "V"]


@struct
class Masked:
    """Rows with tokens to find: what is read, what is real, what stood there, and where it is asked for."""

    tokens: Int[Array | np.ndarray, "B L"]
    mask: Bool[Array | np.ndarray, "B L"]
    target: Int[Array | np.ndarray, "B L"]
    chosen: Bool[Array | np.ndarray, "B L"]


def recipe(tokenizer: Tokenizer, probability: float) -> Recipe:
    """The recipe of a tokenizer, which needs a mask token."""
    mask_id: Any = tokenizer.mask_token_id
    if mask_id is None:
        raise UserError(
            "pretrain/objective=masked_token: the tokenizer has no mask token; expected one that has, such as an encoder's "
            "(tokenizer=pretrained tokenizer.path=…)."
        )
    known: Any = list(tokenizer.get_vocab().values())
    is_word = np.zeros(max(known) + 1, bool)
    is_word[known] = True
    is_word[tokenizer.all_special_ids] = False
    return Recipe(probability, mask_id, np.flatnonzero(is_word).astype(np.int32), is_word)


def hide(key: Key[Array, ""], tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], recipe: Recipe) -> Masked:
    """Choose tokens and put others in their places: a pure function of the key and the rows."""
    choose, fate, other = jax.random.split(key, 3)
    chosen = (jax.random.uniform(choose, tokens.shape) < recipe.probability) & mask & jnp.asarray(recipe.is_word)[tokens]
    place = jax.random.uniform(fate, tokens.shape)
    replacement = jnp.asarray(recipe.words)[jax.random.randint(other, tokens.shape, 0, len(recipe.words))]
    hidden = jnp.where(place < MASKED, recipe.mask_id, jnp.where(place < MASKED + REPLACED, replacement, tokens))
    return Masked(jnp.where(chosen, hidden, tokens), mask, tokens, chosen)


def target_logp(model: MaskedLm, rows: Masked, dropout_key: Key[Array, ""] | None = None) -> Float[Array, "B L"]:
    """log p(the token that stood there), nats, at every place."""
    return _at_places(model, rows, dropout_key, log_prob)


def found(model: MaskedLm, rows: Masked) -> Float[Array, "B 3"]:
    """Of each row's chosen tokens: Σ −log p of what stood there, how many the model has right, how many there are."""
    nats, right = _at_places(model, rows, None, lambda logits, target: (-log_prob(logits, target), logits.argmax(-1) == target))
    chosen = rows.chosen
    return jnp.stack([masked_sum(nats, chosen), (right & chosen).sum(-1), chosen.sum(-1)], axis=-1)  # pyright: ignore


def _at_places(model: MaskedLm, rows: Masked, key: Any, function: Callable[[Array, Array], Any]) -> Any:
    head = model.over_vocabulary(model.body(rows.tokens, rows.mask, key))  # pyright: ignore
    chunk = model.config.logit_chunk
    return map_whole_logits(lambda logits, target: function(logits[0], target), (head,), rows.target, chunk=chunk)
