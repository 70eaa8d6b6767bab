"""The tokenizer, which turns text into tokens."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import strict


@strict
class WordTokenizer:
    """One token a word, split at white space: for small closed vocabularies such as the grammar's."""

    kind: Literal["words"]
    """Set by tokenizer=words."""


@strict
class BpeTokenizer:
    """A byte-level BPE trained on the task's text."""

    kind: Literal["bpe"]
    """Set by tokenizer=bpe."""
    vocab_size: Annotated[int, Field(ge=259, strict=True)]
    """Entries of the vocabulary at most: 256 bytes and three special tokens at least."""


@strict
class PretrainedTokenizer:
    """A Hugging Face tokenizer: a directory or a hub name."""

    kind: Literal["pretrained"]
    """Set by tokenizer=pretrained."""
    path: str
    """A directory of tokenizer files, a run, or a hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub name; null: its default."""
