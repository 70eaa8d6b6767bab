"""Batches as a pure function of (seed, step): a resumed run needs to remember nothing but its step."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import datasets
import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Bool, Int

from kljax.config import ChatPrompt, PrefixPrompt, WholePrompt
from kljax.data.chats import PASSED_ON, Encoded, chats, is_too_long
from kljax.data.conversations import Message, messages
from kljax.data.plain_files import Say
from kljax.data.text import TEXT, is_conversation, silent, whole_column
from kljax.data.tokenizers import chat_tokens, completion_texts, encode
from kljax.errors import UserError
from kljax.types import Prompts, Rollout, Tokenizer


def rows_at(seed: int, step: int, batch: int, total: int) -> Int[np.ndarray, "batch"]:
    """The rows of batch `step`: every row once an epoch, each epoch in an order of its own."""
    places = np.arange(step * batch, (step + 1) * batch)
    return np.array([_order(seed, int(epoch), total)[i] for epoch, i in zip(*divmod(places, total), strict=True)])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, total: int) -> Int[np.ndarray, "total"]:
    return np.random.default_rng((seed, epoch)).permutation(total)


@dataclass(frozen=True)
class TokenRows:
    """Sequences for maximum likelihood, padded on the right: every token of the text is predicted exactly once."""

    tokens: Int[np.ndarray, "rows L"]
    mask: Bool[np.ndarray, "rows L"]

    def batch(self, seed: int, step: int, size: int) -> tuple[Int[np.ndarray, "size L"], Bool[np.ndarray, "size L"]]:
        """Batch `step` of the epochs that `seed` shuffles."""
        rows = rows_at(seed, step, size, len(self.tokens))
        return self.tokens[rows], self.mask[rows]


def token_rows(tokenizer: Tokenizer, texts: list[str], length: int) -> TokenRows:
    """Beginning token, text, end token, in windows of `length` that overlap by the one token from which the next follows."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return windows_of(tokenizer, [[bos, *tokens, eos] for tokens in encode(tokenizer, texts)], length)  # pyright: ignore


def conversation_rows(tokenizer: Tokenizer, conversations: list[Any], length: int) -> TokenRows:
    """Conversations in the tokenizer's chat template, in such windows; the template has its own beginning and ends."""
    return windows_of(tokenizer, [chat_tokens(tokenizer, messages(c), begin_answer=False) for c in conversations], length)


def windows_of(tokenizer: Tokenizer, rows: list[list[int]], length: int) -> TokenRows:
    """Rows of tokens in windows of `length` that overlap by one token."""
    pad = tokenizer.pad_token_id
    windows = [row[start : start + length] for row in rows for start in range(0, len(row) - 1, length - 1)]
    mask = np.arange(length) < np.array([len(w) for w in windows])[:, None]
    padded = np.full(mask.shape, pad, np.int32)
    padded[mask] = np.concatenate([np.asarray(w, np.int32) for w in windows])
    return TokenRows(padded, mask)


@dataclass(frozen=True)
class PromptRows:
    """Tokenised prompts with the columns of their rows, which Python rewards receive.

    `conversations` are the messages of each prompt, where the data are conversations; `targets` the answers that those had.
    """

    tokens: Int[np.ndarray, "rows P"]
    mask: Bool[np.ndarray, "rows P"]
    rows: datasets.Dataset
    conversations: list[list[Message]] | None = None
    targets: list[str | None] | None = None

    def select(self, rows: Int[np.ndarray, "N"], sharding: Sharding | None = None) -> Prompts:
        """The prompts of these rows, straight from the host's memory to where `sharding` says."""
        return Prompts(*jax.device_put((self.tokens[rows], self.mask[rows]), sharding))

    def columns(self, rows: Int[np.ndarray, "N"], samples: int) -> dict[str, list[Any]]:
        """Every column of these rows, each entry `samples` times, as a list."""
        chosen = self.rows.select(np.repeat(rows, samples))
        return {name: whole_column(chosen, name) for name in chosen.column_names}

    def texts(self, tokenizer: Tokenizer, rows: Int[np.ndarray, "N"], rollout: Rollout) -> tuple[list[Any], list[Any]]:
        """Prompts and completions of these rows as rewards get them: texts, or lists of messages of conversations.

        An answer that is gone on with is no part of the prompt then, but the beginning of the completion.
        """
        prompts, completions = completion_texts(tokenizer, rollout)
        if self.conversations is None:
            return prompts, completions
        given = [self.conversations[row] for row in np.repeat(rows, len(completions) // len(rows))]
        begun = [conversation[-1]["content"] if conversation[-1]["role"] == "assistant" else "" for conversation in given]
        asked = [conversation[:-1] if begin else conversation for conversation, begin in zip(given, begun, strict=True)]
        answers = [begin + text for begin, text in zip(begun, completions, strict=True)]
        return asked, [[{"role": "assistant", "content": answer}] for answer in answers]


def prompt_rows(
    tokenizer: Tokenizer,
    rows: datasets.Dataset,
    config: PrefixPrompt | WholePrompt | ChatPrompt,
    seed: int,
    column: str = TEXT,
    say: Say = silent,
    part: str = "prompts",
) -> PromptRows:
    """Prompts of all rows, each with a beginning token (a chat template has its own), padded on the left to max_tokens + 1.

    A prefix is never the whole of its text, where that has more than one token. Rows whose prompt is too long are refused, left
    out or cut, as the config says; `say` gets how many, `part` being the word for these rows.
    """
    values = whole_column(rows, column)
    if isinstance(config, ChatPrompt):
        made = chats(
            tokenizer, values, config, {name: whole_column(rows, name) for name in PASSED_ON if name in rows.column_names}
        )
    else:
        made = _texts(tokenizer, values, config, seed)
    width = config.max_tokens + 1
    if too_long := [i for i, prompt in enumerate(made.prompts) if len(prompt) > width]:
        if isinstance(config, PrefixPrompt) or config.too_long == "refuse":
            raise is_too_long(too_long[0], values[too_long[0]], len(made.prompts[too_long[0]]), config)
        kept = "cut" if config.too_long == "cut" else "left out"
        more = f"more than {config.max_tokens} tokens"
        say(f"data.prompt.too_long: {len(too_long)} of {len(values)} {part} have {more} and are {kept}.")
    keep = np.arange(len(values))
    if too_long and config.kind != "prefix" and config.too_long == "drop":
        keep = np.delete(keep, too_long)
    if not len(keep):
        raise UserError(f"data.prompt.max_tokens: no prompt has at most {config.max_tokens} tokens; raise it.")
    prompts = [made.shortened(i, width) if len(made.prompts[i]) > width else made.prompts[i] for i in keep.tolist()]
    mask = np.arange(width) >= width - np.array([len(p) for p in prompts])[:, None]
    tokens = np.full(mask.shape, tokenizer.pad_token_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(p, np.int32) for p in prompts])
    conversations = None if made.conversations is None else [made.conversations[i] for i in keep]
    targets = None if made.targets is None else [made.targets[i] for i in keep]
    return PromptRows(tokens, mask, rows if len(keep) == len(values) else rows.select(keep), conversations, targets)


def _texts(tokenizer: Tokenizer, values: list[Any], config: PrefixPrompt | WholePrompt, seed: int) -> Encoded:
    if values and is_conversation(values[0]):
        raise UserError(
            f"data.prompt.kind: got {config.kind} for conversations, expected chat (data/prompt=chat), which puts them into "
            "the tokenizer's chat template."
        )
    texts = encode(tokenizer, values)
    if isinstance(config, PrefixPrompt):
        lengths = np.random.default_rng(seed).integers(config.min_tokens, config.max_tokens, len(texts), endpoint=True)
        texts = [text[: min(n, max(len(text) - 1, 0))] for text, n in zip(texts, lengths, strict=True)]
    bos: Any = tokenizer.bos_token_id
    return Encoded([[bos, *text] for text in texts], shortened=lambda i, width: [bos, *texts[i]][:width])
