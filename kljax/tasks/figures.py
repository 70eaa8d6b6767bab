"""Figures of a task over held-out prompts, each with a bootstrap interval over prompts; by ways of reading the completions.

sampled     mean over all completions, which is the expectation under the policy
greedy      of the likeliest token at each place: one completion a prompt
best_of_n   of the n completions of a prompt the one with the best reward
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kljax.config import TextTask
from kljax.tasks.bootstrap import Interval, bootstrap, bootstrap_means, pass_at_k
from kljax.tasks.measuring import Measured
from kljax.tasks.task import Task

Values = Float[np.ndarray, "B"]
Groups = Int[np.ndarray, "B"]
PREFIX = "task/"


@dataclass(frozen=True)
class Read:
    """Completions as they were read, and the prompt that each is of, as a number."""

    measured: Measured
    groups: Groups


def best_of(measured: Measured, reward: Values, samples: int, groups: Groups) -> Read:
    """Of each prompt's `samples` adjacent completions the one with the best reward, the first of several such."""
    rows = np.arange(0, len(reward), samples) + reward.reshape(-1, samples).argmax(axis=1)
    taken = Measured(
        {name: values[rows] for name, values in measured.metrics.items()}, tuple(sums[rows] for sums in measured.statistics)
    )
    return Read(taken, groups[rows])


def figures(task: Task, config: TextTask, read: Mapping[str, Read], samples: int) -> dict[str, float]:
    """task/<name> of samples, task/greedy_<name>, task/best_of_4_<name>; with _se, _low and _high (a 95 % interval).

    A figure that is not defined (no completion to which a metric applies) is left out.
    """
    found: dict[str, float] = {}
    how: dict[str, int] = {"resamples": config.resamples, "seed": config.seed}
    for reading, of in read.items():
        prefix = PREFIX + {"sampled": "", "best_of_n": f"best_of_{samples}_"}.get(reading, f"{reading}_")
        found |= _flat(prefix, bootstrap_means(of.measured.metrics, of.groups, **how))
        for metric, sums in zip(task.corpus, of.measured.statistics, strict=True):
            found |= _flat(prefix, bootstrap(sums, of.groups, value=metric.value, **how))
    if "sampled" in read:
        of = read["sampled"]
        found |= _flat(PREFIX, bootstrap_means(passes(task, of.measured, samples), of.groups[::samples], **how))
    return found


def passes(task: Task, measured: Measured, samples: int) -> dict[str, Values]:
    """pass@k of each prompt, for k of 2, 4, 8, … up to the number of samples: <metric>_pass_<k>."""
    ks = sorted({2**i for i in range(1, 8) if 2**i <= samples} | ({samples} if samples > 1 else set()))
    return {
        f"{name}_pass_{k}": pass_at_k(measured.metrics[name].reshape(-1, samples) == 1, k) for name in task.passes for k in ks
    }


def _flat(prefix: str, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Each figure that is defined, with its error and the ends of its interval, where these are."""
    found: dict[str, float] = {}
    for name, of in intervals.items():
        each = {"": of.value, "_se": of.se, "_low": of.low, "_high": of.high}
        if np.isfinite(of.value):
            found |= {f"{prefix}{name}{end}": float(figure) for end, figure in each.items() if np.isfinite(figure)}
    return found
