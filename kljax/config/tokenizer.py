"""What turns text into tokens."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import strict


@strict
class WordTokenizer:
    """One token a word, split at white space: for small closed vocabularies such as the grammar's."""

    kind: Literal["words"]


@strict
class BpeTokenizer:
    """A byte-level BPE trained on the task's text."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=259, strict=True)]  # 256 bytes and three special tokens at least


@strict
class PretrainedTokenizer:
    """A Hugging Face tokenizer: a directory or a hub name."""

    kind: Literal["pretrained"]
    path: str
    revision: str | None = None  # branch, tag or commit of a hub name; null: its default
