"""The contract of a task. A metric is a reward function, called by keyword as TRL calls them (kljax/rewards/functions.py)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kljax.tasks.corpus import CorpusMetric

Metric = Callable[..., Any]
"""(prompts, completions, any column by its name) → a number a completion, or None where it does not apply."""


@dataclass(frozen=True)
class Task:
    """Rows of data as prompts, and figures of what is written.

    `row` maps a row of the data to new columns: `prompt` (a text, or a list of messages), `target` (the right answer, a text)
    where there is one, and whatever the metrics ask for; or to None, and the row is left out. Every row gets the same columns.

    `metrics` are figures a completion, `corpus` figures of all of them together; `reward` is what reward=task stands for.
    Metrics in `passes` are 1 or 0, and pass@k is told of them: the probability that one of k completions has 1.
    """

    row: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    corpus: tuple[CorpusMetric, ...] = ()
    reward: Metric | None = None
    passes: tuple[str, ...] = ()
