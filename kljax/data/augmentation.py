"""Noise on the tokens of texts that a model reads: swaps, masks, deletions (Wei & Zou 2019, on tokens).

A pure function of (seed, step, row of the batch), so a resumed run sees the noise that it would have seen.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from kljax.config import Augmentation
from kljax.data.labelled import Texts
from kljax.errors import UserError
from kljax.types import Tokenizer

STREAM = 1  # of the random numbers of (seed, step): 0 and none are others'


def is_off(config: Augmentation) -> bool:
    """Whether nothing is changed."""
    return config.delete == config.swap == config.mask == 0


def mask_token(config: Augmentation, tokenizer: Tokenizer) -> int:
    """The token that takes the place of masked ones: the mask token, or else the unknown one."""
    found: Any = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    if found is None and config.mask > 0:
        raise UserError(
            f"pretrain.augmentation.mask: got {config.mask}, but the tokenizer has neither a mask token nor an unknown one; "
            "expected 0, or another tokenizer (tokenizer=pretrained)."
        )
    return -1 if found is None else found


def augment(texts: Texts, config: Augmentation, mask_id: int, seed: int, step: int) -> Texts:
    """The texts with noise, in arrays of the same shape; the first and the last token of each text stay.

    From left to right each token changes places with the token after it, then each is masked, then each is deleted, all with
    the config's probabilities and independently. A text of which nothing would be left loses none.
    """
    if is_off(config):
        return texts
    shape = texts.tokens.shape
    tokens, mask = texts.tokens.reshape(-1, shape[-1]), texts.mask.reshape(-1, shape[-1])
    chance = np.random.default_rng((seed, step, STREAM)).random((3, *tokens.shape))
    inner = _inner(mask)
    tokens = _swapped(tokens, (chance[0] < config.swap) & inner & _next(inner))
    tokens = np.where((chance[1] < config.mask) & inner, np.int32(mask_id), tokens)
    deleted = (chance[2] < config.delete) & inner
    deleted &= (deleted != inner).any(axis=1, keepdims=True)
    tokens, mask = _without(tokens, mask, deleted)
    return Texts(tokens.reshape(shape), mask.reshape(shape))


def _inner(mask: Bool[np.ndarray, "B L"]) -> Bool[np.ndarray, "B L"]:
    """All real tokens but the first and the last of each row; padding is on the right."""
    place, length = np.arange(mask.shape[1]), mask.sum(axis=1, keepdims=True)
    return (place > 0) & (place < length - 1)


def _next(chosen: Bool[np.ndarray, "B L"]) -> Bool[np.ndarray, "B L"]:
    """The value at the place after each; of the last, nothing."""
    return np.pad(chosen[:, 1:], ((0, 0), (0, 1)))


def _swapped(tokens: Int[np.ndarray, "B L"], swap: Bool[np.ndarray, "B L"]) -> Int[np.ndarray, "B L"]:
    """Each token that `swap` marks changes places with the next, from left to right: a run of marks carries one token along."""
    place = np.arange(tokens.shape[1])
    run_start = np.maximum.accumulate(np.where(swap, 0, place + 1), axis=1)  # after the last place without a mark
    before = np.pad(swap[:, :-1], ((0, 0), (1, 0)))
    carried = np.pad(run_start[:, :-1], ((0, 0), (1, 0)))
    source = np.where(swap, place + 1, np.where(before, carried, place))
    return np.take_along_axis(tokens, source, axis=1)


def _without(
    tokens: Int[np.ndarray, "B L"], mask: Bool[np.ndarray, "B L"], deleted: Bool[np.ndarray, "B L"]
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """The rows without these tokens, moved together, padding on the right."""
    order = np.argsort(deleted | ~mask, axis=1, kind="stable")
    left = (mask & ~deleted).sum(axis=1, keepdims=True)
    return np.take_along_axis(tokens, order, axis=1), np.arange(mask.shape[1]) < left
