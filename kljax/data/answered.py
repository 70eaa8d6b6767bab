"""Prompts with their answers as tokens: what is learned by maximum likelihood, and what a policy is measured on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from kljax.data.batches import PromptRows
from kljax.data.conversations import Message
from kljax.data.tokenizers import chat_tokens, encode
from kljax.errors import UserError
from kljax.types import Tokenizer, struct


@struct
class Answered:
    """Prompts with their answers, padded on the right; `answer` is true at the answer's tokens and at its end token."""

    tokens: Int[np.ndarray, "rows L"]
    mask: Bool[np.ndarray, "rows L"]
    answer: Bool[np.ndarray, "rows L"]


def answered(
    tokenizer: Tokenizer, prompts: PromptRows, answers: Sequence[str | None], end: int, length: int
) -> tuple[Answered, Int[np.ndarray, "rows"]]:
    """Each prompt that has an answer, with it and the `end` token, at most `length` tokens in all; and which these are."""
    there = [i for i, text in enumerate(answers) if text is not None and text.strip()]
    asked = [prompts.tokens[i][prompts.mask[i]].tolist() for i in there]
    given = [[*tokens, end] for tokens in encode(tokenizer, [str(answers[i]) for i in there])] if there else []
    kept = [i for i, pair in enumerate(zip(asked, given, strict=True)) if sum(map(len, pair)) <= length]
    rows = _padded([asked[i] for i in kept], [given[i] for i in kept], length, tokenizer.pad_token_id)  # pyright: ignore
    return rows, np.array([there[i] for i in kept], np.int64)


def end_of_answer(tokenizer: Tokenizer, ends: Sequence[int], *, in_template: bool) -> int:
    """The token that an answer ends with, of `ends`, which end a completion.

    In a chat template the one that it closes an answer with (Llama 3's own end token ends a text, and <|eot_id|> an answer); or
    else the tokenizer's own, where it is among them.
    """
    own = tokenizer.eos_token_id
    plain = int(own) if own in ends else ends[0]  # pyright: ignore
    if not (in_template and tokenizer.chat_template):
        return plain
    asked: list[Message] = [{"role": "user", "content": "a"}]
    try:
        before = chat_tokens(tokenizer, asked, begin_answer=True)
        whole = chat_tokens(tokenizer, [*asked, {"role": "assistant", "content": "a"}], begin_answer=False)
    except UserError:  # a template that wants other messages
        return plain
    return next((token for token in whole[len(before) :] if token in ends), plain)


def _padded(asked: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], length: int, pad: int) -> Answered:
    places = np.arange(length)
    begins = np.array([len(prompt) for prompt in asked], np.int64)[:, None]
    ends = begins + np.array([len(answer) for answer in answers], np.int64)[:, None]
    mask = places < ends
    tokens = np.full(mask.shape, pad, np.int32)
    whole = [np.asarray([*prompt, *answer], np.int32) for prompt, answer in zip(asked, answers, strict=True)]
    tokens[mask] = np.concatenate(whole) if whole else []
    return Answered(tokens, mask, mask & (places >= begins))
