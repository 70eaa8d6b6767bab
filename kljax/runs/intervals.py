"""Means with standard errors and intervals: prompts that repeat are one, seeds share prompts, few groups have wide intervals.

Ratios Σ values / Σ weights throughout, by the delta method: with weights 1 (or counts) the mean per sequence, with lengths the
mean per token. With residuals r = values − mean·weights and W = Σ weights, an error is √V, V a sum of squares of r over W².
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
"""Of every interval that is shown."""
OF_FIT = "_interval"
"""Ends the name of [low, high], which a fitted model has of its figure of that name."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error `se`, and the half-width of its interval at `LEVEL`; NaN where they are not known."""

    mean: float
    se: float
    half_width: float

    def __float__(self) -> float:
        return self.mean


def numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, "B"]:
    """The group of each entry, counted from 0 in the order in which they appear: equal keys are one group."""
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """How many standard errors an interval of this level reaches to each side; 12.7 for one degree of freedom at 95 %."""
    if degrees < 1:
        return float("nan")
    from scipy.special import stdtrit  # slow to import, and needed at the end of a run only

    return float(stdtrit(degrees, 0.5 + level / 2))


def clustered(
    values: Float[np.ndarray, "B"], weights: Float[np.ndarray, "B"], groups: Int[np.ndarray, "B"], level: float = LEVEL
) -> Estimate:
    """V = G/(G − 1) · Σ_g (Σ_{i in g} r_i)² / W² over G groups, whose entries may depend on one another; t of G − 1."""
    mean = values.sum() / weights.sum()
    sums = np.bincount(groups, values - mean * weights)
    se = np.sqrt(_spread(sums)) / weights.sum()
    return Estimate(float(mean), float(se), t_quantile(len(sums) - 1, level) * float(se))


def crossed(values: Float[np.ndarray, "S G"], weights: Float[np.ndarray, "S G"], level: float = LEVEL) -> Estimate:
    """The mean over S seeds that were evaluated on the same G prompts, which is what their errors share.

    V = max(V_s + V_g − V_sg, V_s, V_g), clustered by seed, by prompt, and what both count, that of the interaction (two-way
    clustering, Cameron, Gelbach & Miller 2011, doi:10.1198/jbes.2010.07136; the maximum keeps it from being too small or
    negative). The interval's half-width is √(t²_{S−1}·V_s + t²_{G−1}·V_g): at least the level, whatever part of the error is
    of the seeds (Banerjee 1960, Sankhyā 22). Two seeds have one degree of freedom: 12.7 standard errors.
    """
    total, (seeds, prompts) = weights.sum(), values.shape
    mean = values.sum() / total
    residual = values - mean * weights
    if seeds == 1 or prompts == 1:
        kind = residual.sum(axis=0) if seeds == 1 else residual.sum(axis=1)
        se = np.sqrt(_spread(kind)) / total
        return Estimate(float(mean), float(se), t_quantile(len(kind) - 1, level) * float(se))
    by_seed, by_prompt = _spread(residual.sum(axis=1)), _spread(residual.sum(axis=0))
    interaction = residual - residual.mean(axis=0) - residual.mean(axis=1, keepdims=True) + residual.mean()
    both = residual.size * np.sum(interaction**2) / ((seeds - 1) * (prompts - 1))
    se = np.sqrt(max(by_seed + by_prompt - both, by_seed, by_prompt)) / total
    wide = t_quantile(seeds - 1, level) ** 2 * by_seed + t_quantile(prompts - 1, level) ** 2 * by_prompt
    return Estimate(float(mean), float(se), float(np.sqrt(wide) / total))


def _spread(sums: Float[np.ndarray, "G"]) -> float:
    """G/(G − 1) · Σ sums², which is NaN of one group."""
    count = len(sums)
    return float("nan") if count == 1 else count / (count - 1) * float(np.sum(sums**2))
