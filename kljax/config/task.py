"""The task: how rows of the data become prompts, and what is measured of the answers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from kljax.config.base import Positive, Seed, strict

Reading = Literal["sampled", "greedy", "best_of_n"]
"""Ways in which a prompt is answered."""


@strict
class NoTask:
    """Rows are texts or conversations, from which data.prompt makes prompts; nothing but the reward is measured."""

    kind: Literal["none"]
    """Set by task=none."""


@strict
class TextTask:
    """A task makes the columns prompt and target of each row, and measures what is written (kljax/tasks/)."""

    kind: Literal["text"]
    """Set by task=summarisation and the others."""
    function: str
    """A built-in task, or a dotted path to your own: a kljax.tasks.Task, or a function that returns one."""
    arguments: dict[str, Any]
    """Keyword arguments for the function, such as the names of the data's columns."""
    readings: Annotated[list[Reading], Field(min_length=1)]
    """Ways of answering that are measured: the evaluation's samples, the likeliest tokens, the samples of the best reward."""
    resamples: Positive
    """Bootstrap samples of the prompts, from which errors and intervals of the task's figures come."""
    seed: Seed
    """Of the bootstrap samples."""
