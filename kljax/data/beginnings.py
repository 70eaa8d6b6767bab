"""Tokens that a tokenizer puts before a text when others call it, beside the beginning token that every prompt of a run has."""

import copy
import tempfile
from dataclasses import dataclass
from typing import Any

from tokenizers import processors

from kljax.data import tokenizers
from kljax.data.tokenizer_files import from_files
from kljax.types import Tokenizer


@dataclass(frozen=True)
class Beginning:
    """A tokenizer to write beside a model, and how a plain call of it, such as a pipeline's, begins a text.

    `sentence` is what whoever exports must be told, None where the tokenizer is as it was and begins a text as a prompt of the
    run begins; `token` is that beginning, `by_itself` whether the plain call gives it.
    """

    tokenizer: Tokenizer
    token: str
    by_itself: bool
    sentence: str | None


def as_trained(tokenizer: Tokenizer) -> Beginning:
    """A tokenizer whose plain call gives the prompts of training, [beginning token, *text]: this one, or a changed copy.

    Changed is what surrounds a text, in the files that are written beside the exported model alone. Chat templates, which are
    called without it, and kljax, which never asks for it, are not touched. A tokenizer whose class would undo the change when
    it is loaded stays as it is, and the sentence says so.
    """
    token = str(tokenizer.bos_token)
    if _is_plain_prompt(tokenizer):
        return Beginning(tokenizer, token, True, None)
    made = copy.deepcopy(tokenizer)
    if _by_template(made) and _is_plain_prompt(_loaded_again(made)):
        said = f"The exported tokenizer puts {token} before a text by itself, as all prompts began; the run's own does not."
        return Beginning(made, token, True, said)
    said = f"The exported tokenizer does not begin a text with {token} by itself, as all prompts began: put it before the text."
    return Beginning(tokenizer, token, False, said)


def _is_plain_prompt(tokenizer: Tokenizer) -> bool:
    return tokenizers.own_ends(tokenizer) == ([tokenizer.bos_token_id], [])


def _by_template(tokenizer: Any) -> bool:
    """Begin a text by the processor that ends in tokenizer.json, if it has one."""
    if (inside := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return False
    token, id = str(tokenizer.bos_token), tokenizer.bos_token_id
    template = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, id)]
    )
    before = inside.post_processor
    trims = isinstance(before, processors.ByteLevel)  # offsets, which have nothing to do with tokens
    inside.post_processor = processors.Sequence([before, template]) if trims else template
    return True


def _loaded_again(tokenizer: Tokenizer) -> Tokenizer:
    """As whoever gets the files has it."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return from_files(folder, "tokenizer", None)
