"""Rewards as Python functions of texts, called as TRL calls them (kljax/rewards/functions.py).

A completion of a conversation is a list of messages; these read its content.
"""

import re
from functools import lru_cache
from typing import Any

from kljax.data.conversations import Message, said
from kljax.errors import UserError
from kljax.rewards import model


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


TEXT_REWARDS = {"vader": vader, "regex": regex, "model": model.on_text}

PREPARATIONS = {"vader": _vader, "regex": _compiles, "model": model.prepare}
"""Preparations before anything compiles: called with the config's arguments."""
