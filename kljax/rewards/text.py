"""Rewards as Python functions of texts, called as TRL calls them (kljax/rewards/functions.py).

A completion of a conversation is a list of messages; these read its content.
"""

import re
from functools import lru_cache
from typing import Any

from kljax.data.conversations import Message, said
from kljax.errors import UserError
from kljax.rewards import answers, model, overlap


@lru_cache(maxsize=1)
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("needs the package vaderSentiment; install it with: pip install vaderSentiment.") from None
    return SentimentIntensityAnalyzer()


def vader(prompts: list[Any], completions: list[str] | list[list[Message]]) -> list[float]:
    """VADER's compound sentiment of the completion, −1 to 1 (Hutto & Gilbert 2014)."""
    return [_vader().polarity_scores(said(completion))["compound"] for completion in completions]


def regex(prompts: list[Any], completions: list[str] | list[list[Message]], *, pattern: str) -> list[float]:
    """1 where the regular expression is found in the completion, else 0."""
    return [float(re.search(pattern, said(completion)) is not None) for completion in completions]


def _compiles(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"arguments.pattern: got {pattern!r}, expected a regular expression ({error}).") from None


def _nothing() -> None:
    pass


TEXT_REWARDS = {
    "vader": vader,
    "regex": regex,
    "model": model.on_text,
    "rouge_1": overlap.rouge_1,
    "rouge_2": overlap.rouge_2,
    "rouge_l": overlap.rouge_l,
    "chrf": overlap.chrf,
    "bleu": overlap.bleu,
    "compression": overlap.compression,
    "novelty": overlap.novelty,
    "exact_number": answers.exact_number,
    "number_format": answers.has_number_format,
    "exact_text": answers.exact_text,
    "token_f1": answers.token_f1,
    "label": answers.label,
}
"""By name. What a function takes by position, beside prompts and completions, are columns of the data."""

PREPARATIONS = {
    "vader": _vader,
    "regex": _compiles,
    "model": model.prepare,
    **dict.fromkeys(("rouge_1", "rouge_2", "rouge_l"), overlap.prepare_rouge),
    "chrf": overlap.prepare_chrf,
    "bleu": overlap.prepare_bleu,
    "novelty": overlap.prepare_novelty,
    "exact_number": answers.prepare_number,
    **dict.fromkeys(("compression", "number_format", "exact_text", "token_f1", "label"), _nothing),
}
"""Preparations before anything compiles: called with the config's arguments, without those that name columns."""
