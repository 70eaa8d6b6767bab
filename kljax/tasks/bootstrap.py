"""Percentile bootstrap over groups of samples, such as the completions of one prompt, and pass@k.

Whole groups are drawn, as many as there are: samples of one prompt depend on one another (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from kljax.errors import UserError

DRAWN_AT_ONCE = 4_000_000  # counts: resamples × groups


@dataclass(frozen=True)
class Interval:
    """A figure, its standard error, and its interval from `low` to `high`; NaN where they are not known."""

    value: float
    se: float
    low: float
    high: float


def bootstrap(
    statistics: Float[np.ndarray, "B K"],
    groups: Int[np.ndarray, "B"],
    *,
    value: Callable[[Float[np.ndarray, "K"]], dict[str, float]],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Each figure of `value`, a function of the sum of all samples' statistics, with its interval over `groups`.

    The interval is that of the resampled figures' quantiles, the error their standard deviation. Both are NaN where there are
    fewer than two groups, or where more than 1 − level of the resamples have no such figure (NaN): they are those of the figure
    given that it exists. Of few groups such an interval is too narrow: of 10 by nearly a fifth (√0.9 · 1.96 in the place of
    Student's 2.26).
    """
    figures = value(statistics.sum(axis=0))
    sums = _sums(statistics, groups)
    drawn = [value(row) for rows in _resampled(sums, resamples, seed) for row in rows] if len(sums) > 1 else []
    return {
        name: _interval(figure, np.array([one.get(name, np.nan) for one in drawn], float), level)
        for name, figure in figures.items()
    }


def bootstrap_means(
    values: Mapping[str, Float[np.ndarray, "B"]],
    groups: Int[np.ndarray, "B"],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """The mean of each metric over the samples that it applies to (not NaN), as a ratio of sums, with its interval likewise."""
    if not values:
        return {}
    table = np.stack(list(values.values()), axis=1)
    applies = ~np.isnan(table)
    statistics = np.concatenate([np.where(applies, table, 0.0), applies], axis=1)
    sums = _sums(statistics, groups)
    blocks = [_ratio(rows) for rows in _resampled(sums, resamples, seed)] if len(sums) > 1 else []
    drawn = np.concatenate(blocks) if blocks else np.zeros((0, len(values)))
    means = _ratio(statistics.sum(axis=0, keepdims=True))[0]
    return {name: _interval(float(means[i]), drawn[:, i], level) for i, name in enumerate(values)}


def pass_at_k(successes: Bool[np.ndarray, "G S"], k: int) -> Float[np.ndarray, "G"]:
    """Of each prompt the chance that of k samples one at least is right: 1 − C(n−c, k)/C(n, k), of n with c right.

    Unbiased (Chen et al. 2021). Its mean over prompts is pass@k; `bootstrap_means` has that with an interval.
    """
    count = successes.shape[1]
    if not 1 <= k <= count:
        raise UserError(f"pass@{k}: expected k from 1 to the number of samples of a prompt, which is {count}.")
    wrong = count - successes.sum(axis=1)
    # C(w, k)/C(n, k) is a product, whose factors are 0 from the one on where there are too few wrong ones.
    factors = np.maximum(wrong[:, None] - np.arange(k), 0) / (count - np.arange(k))
    return 1.0 - factors.prod(axis=1)


def _sums(statistics: Float[np.ndarray, "B K"], groups: Int[np.ndarray, "B"]) -> Float[np.ndarray, "G K"]:
    """The sum of each group."""
    names, of = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), statistics.shape[1]))
    np.add.at(sums, of, statistics)
    return sums


def _resampled(sums: Float[np.ndarray, "G K"], resamples: int, seed: int) -> Iterator[Float[np.ndarray, "R K"]]:
    """Sums of resamples, in blocks: each draws as many groups as there are, with replacement."""
    count = len(sums)
    random = np.random.default_rng(seed)
    block = max(DRAWN_AT_ONCE // count, 1)
    for begin in range(0, resamples, block):
        size = min(block, resamples - begin)
        yield random.multinomial(count, np.full(count, 1 / count), size=size) @ sums


def _ratio(rows: Float[np.ndarray, "R K2"]) -> Float[np.ndarray, "R K"]:
    total, count = np.split(rows, 2, axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _interval(value: float, drawn: Float[np.ndarray, "R"], level: float) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2 or len(known) < level * len(drawn) or not np.isfinite(value):
        return Interval(value, np.nan, np.nan, np.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(known.std(ddof=1)), float(low), float(high))
