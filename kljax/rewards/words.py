"""Words of a text in any script, and completions beside what a column of the data says of them.

Where a script has no spaces between words (Chinese, Japanese, Thai, …) each character is a word of its own.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import regex

from kljax.data.conversations import Message, said
from kljax.errors import UserError

HAN = r"\p{Han}"
OTHERS = r"\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
UNSPACED = HAN + OTHERS
"""Scripts without spaces between words, as the inside of a set of a regular expression."""

T = TypeVar("T")

LONGEST = 80  # characters of a value that a message shows

_WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+", regex.V1)


def words(text: str) -> list[str]:
    """Runs of letters, digits and marks, in lower case. Of ASCII text they are the words of ROUGE's own tokenizer."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def letters(text: str, of: str = r"\p{L}\p{N}") -> int:
    """The number of letters and digits, or of other characters: `of` is the inside of a set of a regular expression."""
    return len(regex.findall(rf"[{of}]", text))


def each(
    completions: Sequence[str | list[Message]],
    column: Sequence[Any],
    score: Callable[[str, str], T],
    *,
    name: str = "target",
) -> list[T | None]:
    """score(completion, entry of the column) of each completion; None where the row has no entry.

    An entry is a text, or a conversation, of which its contents are taken. `UserError` where it is neither.
    """
    entries = [_text(value, i, name) for i, value in enumerate(column)]
    return [
        None if entry is None else score(said(completion), entry)
        for completion, entry in zip(completions, entries, strict=True)
    ]


def _text(value: Any, sample: int, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and isinstance(one.get("content"), str) for one in value)
    ):
        return said(value)
    raise UserError(f"its {name} of sample {sample} is {shown(value)}, expected one text; choose or make a column of texts.")


def shown(value: Any) -> str:
    """The value in a message, which may be long."""
    written = repr(value)
    return written if len(written) <= LONGEST else f"{written[:LONGEST]}…"
