"""The contract of a task. A metric is a reward function, called by keyword as TRL calls them (kljax/rewards/functions.py)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kljax.errors import UserError, did_you_mean
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

    Raises:
        UserError: where a part is not of its type, or a name says something else of a figure (`check_name`).
    """

    row: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    corpus: tuple[CorpusMetric, ...] = ()
    reward: Metric | None = None
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.row):
            raise UserError(f"task: its row is {type(self.row).__name__}, expected a function of a row of the data.")
        if not isinstance(self.metrics, Mapping):
            raise UserError(f"task: its metrics are {type(self.metrics).__name__}, expected a dictionary: names and functions.")
        for name, metric in self.metrics.items():
            check_name(name)
            if not callable(metric):
                raise UserError(
                    f"task: its metric '{name}' is {type(metric).__name__}, expected a function of prompts and completions."
                )
        if not isinstance(self.corpus, tuple | list) or not all(isinstance(one, CorpusMetric) for one in self.corpus):
            raise UserError("task: its corpus is no tuple of kljax.tasks.corpus.CorpusMetric; of one it is (metric,).")
        if self.reward is not None and not callable(self.reward):
            raise UserError(f"task: its reward is {type(self.reward).__name__}, expected a function, as a metric is.")
        unknown = [self.passes] if isinstance(self.passes, str) else [name for name in self.passes if name not in self.metrics]
        if unknown:
            got = unknown[0]
            known = ", ".join(self.metrics) or "none"
            raise UserError(
                f"task: passes: got {got!r}, expected a tuple of names of its metrics: {known}."
                f"{did_you_mean(str(got), self.metrics)}"
            )


TAKEN = re.compile(r"(greedy|best_of_\d+|reference|base)_.*|.*_(se|low|high|pass_\d+)", re.DOTALL)
"""Names that figures of other readings, of other models and of errors have."""


def check_name(name: Any) -> None:
    """Refuse a figure's name that is none, or that another figure could have."""
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not name:
        raise UserError(f"task: a figure has the name {name!r}, expected a text of characters that can be seen.")
    if TAKEN.fullmatch(name):
        raise UserError(
            f"task: a figure has the name '{name}', which begins or ends as the names of other readings, models and errors do "
            "(greedy_, best_of_N_, reference_, base_; _se, _low, _high, _pass_N); expected another."
        )
