"""A task's measurements of completions: its metrics of each, and the sums of which its corpus figures are functions."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from kljax.config import RewardTerm
from kljax.errors import UserError
from kljax.rewards.functions import Function, Logged, Samples, bind, call, parameters_of
from kljax.rewards.user_code import one_line, raised_at
from kljax.tasks.task import Task

Values = Float[np.ndarray, "B"]


@dataclass(frozen=True)
class Measured:
    """Of some completions: each metric's values (NaN where it said None), each corpus metric's rows of sums."""

    metrics: dict[str, Values]
    statistics: tuple[Float[np.ndarray, "B _"], ...] = ()  # each with a width of its own

    @staticmethod
    def join(parts: Sequence["Measured"]) -> "Measured":
        """One after another."""
        metrics = {name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics}
        return Measured(metrics, tuple(np.concatenate(each) for each in zip(*(part.statistics for part in parts), strict=True)))


Measure = Callable[[Sequence[Any], Sequence[Any], Mapping[str, list[Any]]], Measured]
"""(prompts, completions, columns) → what the task says of these completions."""


def measure_of(task: Task, columns: Collection[str]) -> Measure:
    """How completions are measured, or a `UserError` where a metric asks for what no column of the data is."""
    metrics = [_bound(f"metrics.{name}", metric, columns) for name, metric in task.metrics.items()]
    sums = [_bound(f"corpus.{i}", metric.statistics, columns) for i, metric in enumerate(task.corpus)]
    return partial(_measured, metrics, sums)


def _bound(name: str, function: Callable[..., Any], columns: Collection[str]) -> Function:
    said = getattr(function, "__qualname__", type(function).__name__)
    term = RewardTerm(kind="python", function=said, weight=1.0, arguments={})
    bound = bind(f"task.{name}", term, columns, {said: function})
    return bound if bound.takes is None else replace(bound, takes=bound.takes - _options(function))


def _options(function: Callable[..., Any]) -> set[str]:
    """Its own options, which no column fills: parameters by keyword alone that have a default."""
    parameters = parameters_of(function)
    return {key for key, each in parameters.items() if each.kind is each.KEYWORD_ONLY and each.default is not each.empty}


def _measured(
    metrics: Sequence[Function],
    sums: Sequence[Function],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, list[Any]],
) -> Measured:
    samples = Samples(prompts, completions, columns)
    found = call(metrics, samples, Logged())
    values = {name.removeprefix("task.metrics."): each.astype(np.float64) for name, each in found.items()}
    return Measured(values, tuple(_statistics(each, samples) for each in sums))


def _statistics(function: Function, samples: Samples) -> Float[np.ndarray, "B K"]:
    given = {**samples.columns, "prompts": samples.prompts, "completions": samples.completions}
    passed = given if function.takes is None else {key: value for key, value in given.items() if key in function.takes}
    try:
        sums = np.asarray(function.call(**copy.deepcopy(passed)), np.float64)  # what it does to its lists others must not see
    except UserError as error:
        raise UserError(f"{function.name}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{function.name}: it raised {one_line(error)}{raised_at(error, function.call)}.") from error
    if sums.ndim != 2 or len(sums) != len(samples.completions) or not np.isfinite(sums).all():
        raise UserError(
            f"{function.name}: its statistics have the shape {sums.shape}, expected finite numbers "
            f"[{len(samples.completions)}, K]: a row a completion."
        )
    return sums
