"""Figures of a task over held-out prompts, each with a bootstrap interval over prompts; by ways of reading the completions.

sampled     mean over all completions, which is the expectation under the policy
greedy      of the likeliest token at each place: one completion a prompt
best_of_n   of the n completions of a prompt the one with the best reward
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from kljax.config import TextTask
from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.rewards.user_code import one_line, raised_at
from kljax.tasks.bootstrap import Interval, bootstrap, bootstrap_means, pass_at_k
from kljax.tasks.measuring import Measure, Measured
from kljax.tasks.rows import PROMPT, TARGET
from kljax.tasks.task import Task, check_name

Values = Float[np.ndarray, "B"]
Groups = Int[np.ndarray, "B"]
PREFIX = "task/"
TRIED = 2  # prompts


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
        names = {*of.measured.metrics}
        for i, sums in enumerate(of.measured.statistics):
            of_corpus = bootstrap(sums, of.groups, value=partial(_value, task, i), **how)
            for name in of_corpus:
                check_name(name)
            if common := names & of_corpus.keys():
                raise UserError(f"task: two of its figures have the name '{min(common)}'; expected a name of its own for each.")
            names |= of_corpus.keys()
            found |= _flat(prefix, of_corpus)
    if "sampled" in read:
        of = read["sampled"]
        found |= _flat(PREFIX, bootstrap_means(passes(task, of.measured, samples), of.groups[::samples], **how))
    return found


def try_out(task: Task, measure: Measure, prompts: PromptRows) -> None:
    """Measure the right answers of a few prompts: what a metric gets wrong is an error before anything compiles."""
    columns = prompts.rows[:TRIED]
    answers = columns.get(TARGET, [])
    if not answers or not all(isinstance(text, str) for text in answers):
        return
    asked, said = columns[PROMPT], answers
    if prompts.conversations is not None:
        asked, said = prompts.conversations[:TRIED], [[{"role": "assistant", "content": text}] for text in answers]
    once = TextTask(kind="text", function="", arguments={}, readings=["sampled"], resamples=1, seed=0)
    figures(task, once, {"sampled": Read(measure(asked, said, columns), np.arange(len(answers)))}, samples=1)


def _value(task: Task, i: int, sums: Float[np.ndarray, "K"]) -> dict[str, float]:
    """The figures of the task's corpus metric `i`, or a `UserError` where it gives none."""
    value = task.corpus[i].value
    try:
        return {name: float(figure) for name, figure in value(sums).items()}
    except UserError as error:
        raise UserError(f"task.corpus.{i}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(
            f"task.corpus.{i}: its value raised {one_line(error)}{raised_at(error, value)}, expected a dictionary of names and "
            "numbers, NaN where one is not defined."
        ) from error


def passes(task: Task, measured: Measured, samples: int) -> dict[str, Values]:
    """pass@k of each prompt, for k of 2, 4, 8, … up to the number of samples: <metric>_pass_<k>.

    NaN of a prompt to some completion of which the metric does not apply.
    """
    ks = sorted({2**i for i in range(1, 8) if 2**i <= samples} | ({samples} if samples > 1 else set()))
    found: dict[str, Values] = {}
    for name in task.passes:
        values = measured.metrics[name].reshape(-1, samples)
        lacking = np.isnan(values).any(axis=1)
        if (other := values[~np.isnan(values) & ~np.isin(values, (0, 1))]).size:
            raise UserError(
                f"task: passes: its metric '{name}' is {other[0]:g} of a completion, expected 0 or 1: pass@k is told of "
                "what is right or wrong. Take it out of passes."
            )
        found |= {f"{name}_pass_{k}": np.where(lacking, np.nan, pass_at_k(values == 1, k)) for k in ks}
    return found


def _flat(prefix: str, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Each figure that is defined, with its error and the ends of its interval, where these are."""
    found: dict[str, float] = {}
    for name, of in intervals.items():
        each = {"": of.value, "_se": of.se, "_low": of.low, "_high": of.high}
        if np.isfinite(of.value):
            found |= {f"{prefix}{name}{end}": float(figure) for end, figure in each.items() if np.isfinite(figure)}
    return found
