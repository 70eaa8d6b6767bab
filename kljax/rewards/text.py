"""Rewards as Python functions of texts: `reward(prompts, completions, **columns) -> list[float]`, as in TRL.

`columns` are the data set's columns, one entry a completion, and the config's arguments.
"""

import re
from functools import lru_cache
from typing import Any

from kljax.errors import UserError
from kljax.rewards import model


@lru_cache(maxsize=1)
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("needs the package vaderSentiment; install it with: pip install 'kljax[text]'.") from None
    return SentimentIntensityAnalyzer()


def vader(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """VADER's compound sentiment of the completion, −1 to 1 (Hutto & Gilbert 2014)."""
    return [_vader().polarity_scores(completion)["compound"] for completion in completions]


def regex(prompts: list[str], completions: list[str], *, pattern: str, **columns: Any) -> list[float]:
    """1 where the regular expression is found in the completion, else 0."""
    return [float(re.search(pattern, completion) is not None) for completion in completions]


TEXT_REWARDS = {"vader": vader, "regex": regex, "model": model.on_text}

PREPARATIONS = {"vader": _vader, "model": model.prepare}
"""What is to be there before anything compiles: called with the config's arguments."""
