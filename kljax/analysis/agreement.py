"""The worth of judgments: win rates with intervals, agreement between judges and with a metric, bias for a side.

Arrays in, numbers out. A score of a pair is 1 where a is preferred, 0 where b is, ½ for a tie. A figure that is not defined,
such as the agreement of one judge, is nan. scikit-learn and krippendorff (in the extra `text`) are imported where they are
needed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from kljax.errors import UserError
from kljax.runs.intervals import LEVEL

RESAMPLES = 4000
"""Of each bootstrap interval: its ends move by less than a tenth of its width with the seed."""
Level = Literal["nominal", "ordinal"]
WEIGHTS = {"nominal": None, "ordinal": "quadratic"}
"""The weight of a disagreement in Cohen's kappa: 1 whatever it is, or the square of the distance of two ratings."""


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval at `LEVEL`; nan where they are not known."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float | int, count: int, level: float = LEVEL) -> Interval:
    """Wilson's (1927) interval of a share p = successes/n: (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Successes may be halves (ties): scores in [0, 1] vary by p(1 − p) at most, so that the interval is never too narrow for it.
    """
    if not count:
        return NOTHING
    from scipy.special import ndtri

    z2, share = float(ndtri(0.5 + level / 2)) ** 2, successes / count
    middle = share + z2 / (2 * count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2)))
    low, high = ((middle + sign * half) / (1 + z2 / count) for sign in (-1, 1))
    return Interval(share, 0.0 if successes == 0 else low, 1.0 if successes == count else high)


def pairs_needed(half_width: float, level: float = LEVEL) -> int:
    """How many pairs make Wilson's interval of a share of one half reach at most `half_width` to each side: z²/4h² − z²."""
    from scipy.special import ndtri

    z2 = float(ndtri(0.5 + level / 2)) ** 2
    return max(math.ceil(z2 / (4 * half_width**2) - z2 - 1e-9), 1)


def bootstrap(
    statistic: Callable[[Float[np.ndarray, "R G"], Float[np.ndarray, "R G"]], Float[np.ndarray, "R"]],
    sums: Float[np.ndarray, "G"],
    counts: Float[np.ndarray, "G"],
    seed: int,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The percentile interval of a statistic over G groups (prompts), drawn with replacement; nan of one group.

    `statistic` has the sums and the counts of `resamples` draws, a row each.
    """
    if len(sums) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    found = np.sort(statistic(sums[drawn], counts[drawn]))
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return float(low), float(high)


def ratio(sums: Float[np.ndarray, "R G"], counts: Float[np.ndarray, "R G"]) -> Float[np.ndarray, "R"]:
    """The mean over all entries of the groups: Σ sums / Σ counts."""
    return sums.sum(axis=1) / counts.sum(axis=1)


def mean_over_prompts(values: Float[np.ndarray, "N"], groups: Int[np.ndarray, "N"], seed: int) -> Interval:
    """The mean with its bootstrap interval over groups (prompts), which are drawn whole."""
    if not len(values):
        return NOTHING
    sums, counts = np.bincount(groups, values), np.bincount(groups).astype(np.float64)
    used = counts > 0
    return Interval(float(values.mean()), *bootstrap(ratio, sums[used], counts[used], seed))


def corrected_for_side(
    scores: Float[np.ndarray, "N"], a_first: Float[np.ndarray, "N"], groups: Int[np.ndarray, "N"], seed: int
) -> tuple[Interval, Interval]:
    """The win rate of a without a bias for a place, (w₁ + w₂)/2, and the bias, (w₁ − w₂)/2, with bootstrap intervals.

    w₁ is the mean score of pairs that show a first, w₂ of those that show it second. Where a place adds the same δ to every
    probability, w₁ = p + δ and w₂ = p − δ: the two are p and δ, however many pairs each place has. Groups (prompts) are drawn
    whole, with their pairs of both places. The intervals are nan where a place has the pairs of one prompt alone.
    """
    rows = [np.flatnonzero(a_first == place) for place in (1, 0)]
    if not all(len(each) for each in rows):
        return NOTHING, NOTHING
    w1, w2 = (scores[each].mean() for each in rows)
    values = (w1 + w2) / 2, (w1 - w2) / 2
    if any(len(np.unique(groups[each])) < 2 for each in rows):
        return Interval(float(values[0]), math.nan, math.nan), Interval(float(values[1]), math.nan, math.nan)
    count = groups.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    sums, counts = (
        [drawn @ np.bincount(groups[each], weights, minlength=count) for each, weights in zip(rows, of, strict=True)]
        for of in ([scores[each] for each in rows], [None, None])
    )
    there = (counts[0] > 0) & (counts[1] > 0)  # of few pairs a draw may lack those of a place
    m1, m2 = (of_place[there] / many[there] for of_place, many in zip(sums, counts, strict=True))
    ends = [np.quantile(each, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) for each in ((m1 + m2) / 2, (m1 - m2) / 2)]
    rate, bias = (Interval(float(value), *map(float, end)) for value, end in zip(values, ends, strict=True))
    return rate, bias


def share_of_first(first: int, second: int) -> tuple[Interval, float]:
    """How often the completion shown first is preferred, of the pairs that are decided; exact two-sided p of one half.

    Half of the pairs show a first, so that without a bias the share is ½ whatever a is worth; the test is then conservative.
    """
    if not first + second:
        return NOTHING, math.nan
    from scipy.stats import binomtest

    return wilson(first, first + second), float(binomtest(first, first + second, 0.5).pvalue)


def cohen(one: Sequence[int], other: Sequence[int], labels: Sequence[int], level: Level) -> float:
    """Cohen's kappa of two judges on the same items, of ratings with quadratic weights; nan where both say one thing only."""
    if not len(one) or len({*one, *other}) < 2:
        return math.nan
    metrics = _library("sklearn.metrics", "scikit-learn")
    return float(metrics.cohen_kappa_score(list(one), list(other), labels=list(labels), weights=WEIGHTS[level]))


def krippendorff_alpha(judgments: Float[np.ndarray, "judges items"], labels: Sequence[int], level: Level) -> float:
    """Krippendorff's alpha; nan in `judgments`: not judged. nan where no item has two judgments or all are the same."""
    together = judgments[:, (~np.isnan(judgments)).sum(axis=0) > 1]
    if len(np.unique(together[~np.isnan(together)])) < 2:
        return math.nan
    library = _library("krippendorff", "krippendorff")
    return float(library.alpha(reliability_data=together, value_domain=list(labels), level_of_measurement=level))


def _library(module: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UserError(
            f"score: the agreement of several judges needs the package {package}; install it with: pip install {package}."
        ) from None


@dataclass(frozen=True)
class Concordance:
    """How a metric's preferences agree with judgments: their share of the pairs that both decide, and what is left out.

    `with_ties` is the share of all pairs, where one of the two alone is undecided a half, where both are 1.
    """

    share: Interval
    decided: int
    metric_ties: int
    judges_tie: int
    both_tie: int
    with_ties: float


def concordance(scores: Float[np.ndarray, "N"], differences: Float[np.ndarray, "N"]) -> Concordance:
    """The agreement of scores (above ½: a) with a metric's differences a − b (above 0: a), pair by pair."""
    judged, metric = np.sign(scores - 0.5), np.sign(differences)
    both = (judged != 0) & (metric != 0)
    agree = int((judged == metric)[both].sum())
    neither = int(((judged == 0) & (metric == 0)).sum())
    judges_tie, metric_ties = int((judged == 0).sum()) - neither, int((metric == 0).sum()) - neither
    credit = agree + neither + 0.5 * (judges_tie + metric_ties)
    whole = credit / len(scores) if len(scores) else math.nan
    return Concordance(wilson(agree, int(both.sum())), int(both.sum()), metric_ties, judges_tie, neither, whole)


def rank_correlation(
    one: Float[np.ndarray, "N"], other: Float[np.ndarray, "N"], groups: Int[np.ndarray, "N"], seed: int
) -> Interval:
    """Spearman's correlation with its bootstrap interval over groups (prompts); nan where one of the two is constant."""
    value = _spearman(one, other)
    if math.isnan(value) or groups.max() < 1:
        return Interval(value, math.nan, math.nan)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    random, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // 4):
        rows = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        found.append(_spearman(one[rows], other[rows]))
    known = [x for x in found if not math.isnan(x)]
    low, high = np.quantile(known, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) if known else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def _spearman(one: Float[np.ndarray, "N"], other: Float[np.ndarray, "N"]) -> float:
    from scipy.stats import rankdata

    if len(one) < 2 or (one == one[0]).all() or (other == other[0]).all():
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


@dataclass(frozen=True)
class Consistency:
    """The choices of a judge for pairs that were shown twice, the second time with their places exchanged.

    `same`: the same of both times; `place`: the same place both times, so the other completion; the rest once undecided.
    """

    pairs: int
    same: int
    place: int


def consistency(scores: Sequence[tuple[float, float]]) -> Consistency:
    """Of each repeated pair its two scores of a."""
    same = sum(one == other for one, other in scores)
    return Consistency(len(scores), same, sum(abs(one - other) == 1 for one, other in scores))
