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
from kljax.data.text import whole_column
from kljax.data.tokenizers import encode
from kljax.errors import UserError
from kljax.types import Prompts, Tokenizer


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
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    windows = []
    for tokens in encode(tokenizer, texts):
        row = [bos, *tokens, eos]
        windows += [row[start : start + length] for start in range(0, len(row) - 1, length - 1)]
    mask = np.arange(length) < np.array([len(w) for w in windows])[:, None]
    padded = np.full(mask.shape, pad, np.int32)
    padded[mask] = np.concatenate([np.asarray(w, np.int32) for w in windows])
    return TokenRows(padded, mask)


@dataclass(frozen=True)
class PromptRows:
    """Tokenised prompts with the columns of their rows, which Python rewards receive."""

    tokens: Int[np.ndarray, "rows P"]
    mask: Bool[np.ndarray, "rows P"]
    rows: datasets.Dataset

    def select(self, rows: Int[np.ndarray, "N"], sharding: Sharding | None = None) -> Prompts:
        """The prompts of these rows, straight from the host's memory to where `sharding` says."""
        return Prompts(*jax.device_put((self.tokens[rows], self.mask[rows]), sharding))

    def columns(self, rows: Int[np.ndarray, "N"], samples: int) -> dict[str, list[Any]]:
        """Every column of these rows, each entry `samples` times, as a list."""
        chosen = self.rows.select(np.repeat(rows, samples))
        return {name: whole_column(chosen, name) for name in chosen.column_names}


def prompt_rows(
    tokenizer: Tokenizer, rows: datasets.Dataset, config: PrefixPrompt | WholePrompt | ChatPrompt, seed: int
) -> PromptRows:
    """Prompts of all rows, each with a beginning token (a chat template has its own), padded on the left to max_tokens + 1.

    A prefix is never the whole of its text, where that has more than one token.
    """
    if isinstance(config, ChatPrompt):
        prompts = _chats(tokenizer, whole_column(rows), config)
    else:
        texts = encode(tokenizer, whole_column(rows))
        if isinstance(config, PrefixPrompt):
            lengths = np.random.default_rng(seed).integers(config.min_tokens, config.max_tokens, len(texts), endpoint=True)
            texts = [text[: min(n, max(len(text) - 1, 0))] for text, n in zip(texts, lengths, strict=True)]
        prompts = [[tokenizer.bos_token_id, *text] for text in texts]
    width = config.max_tokens + 1
    shorter = "data.prompt.words" if config.kind == "chat" else "data.prompt.kind=prefix"
    for i, prompt in enumerate(prompts):
        if len(prompt) > width:
            raise UserError(
                f"data.prompt.max_tokens: prompt {i} ({rows['text'][i][:40]!r}…) has {len(prompt) - 1} tokens, expected at "
                f"most {config.max_tokens}. Raise data.prompt.max_tokens, or cut prompts with {shorter}."
            )
    mask = np.arange(width) >= width - np.array([len(p) for p in prompts])[:, None]
    tokens = np.full(mask.shape, tokenizer.pad_token_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(p, np.int32) for p in prompts])
    return PromptRows(tokens, mask, rows)


def _chats(tokenizer: Tokenizer, texts: list[str], config: ChatPrompt) -> list[list[int]]:
    """Each text in the message, in the tokenizer's chat template, up to where the assistant's answer begins."""
    if not tokenizer.chat_template:
        raise UserError(
            "data.prompt.kind: got chat, but the tokenizer has no chat template; expected one in tokenizer_config.json or "
            "chat_template.jinja, or data/prompt=prefix or whole."
        )
    rows = []
    for text in texts:
        if special := next((token for token in tokenizer.all_special_tokens if token in text), None):
            raise UserError(f"tokenizer: the text {text[:60]!r} holds {special}, which would end or begin a turn of the chat.")
        begun = text if config.words is None else " ".join(text.split()[: config.words])
        system = [] if config.system is None else [{"role": "system", "content": config.system}]
        messages = [*system, {"role": "user", "content": config.message.replace("{text}", begun)}]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        rows.append(encoded["input_ids"])  # pyright: ignore
    return rows
