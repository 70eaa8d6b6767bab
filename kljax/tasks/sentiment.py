"""Sentiment, or any other class of a text, said in words: accuracy, precision, recall and F1 of what is written."""

from collections.abc import Sequence
from typing import Any

from kljax.errors import UserError
from kljax.rewards.answers import label as says_label
from kljax.tasks import corpus
from kljax.tasks.prompts import check_prompt, filled, text_of
from kljax.tasks.task import Task


def sentiment(*, text: str, label: str, names: Sequence[str], threshold: float | None, prompt: str) -> Task:
    """Columns: `text`, and `label`, a class's name or its place among `names`; with a `threshold`, a number above it or not."""
    check_prompt(prompt)
    if len(set(names)) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"arguments.names: got {names!r}, expected two classes or more.")
    if threshold is not None and len(names) != 2:
        raise UserError(f"arguments.threshold: got {threshold}, which divides two classes; there are {len(names)} names.")

    def row(of):
        given, target = text_of(of, text), _class(of[label], label, names, threshold)
        return {"prompt": filled(prompt, given), "target": target} if given and target else None

    return Task(row=row, metrics={"right": says_label}, corpus=(corpus.classification(names),), reward=says_label)


def _class(value: Any, column: str, names: Sequence[str], threshold: float | None) -> str | None:
    """The name of a row's class; None where it has none."""
    if value is None:
        return None
    if threshold is not None and isinstance(value, int | float):
        return names[int(value > threshold)]
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    raise UserError(
        f"task.arguments: column '{column}' holds {value!r}, expected one of {', '.join(names)}, or its place from 0; of "
        "numbers give task.arguments.threshold."
    )
