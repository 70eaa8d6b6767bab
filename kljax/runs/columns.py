"""Metrics of an evaluation as columns: values of sequences, and the weights by which they are averaged."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from kljax.config import Config, TextTask
from kljax.runs.intervals import clustered
from kljax.runs.looking import Sequences, Values

Column = tuple[Values, Values | None]
"""Values of sequences and their weights (None: 1), whose ratio of sums is a metric."""


def of_model(model: str, metric: str) -> str:
    """The name that a metric of the policy has of another model: reward/mean, reward/base_mean."""
    return metric if model == "policy" else metric.replace("/", f"/{model}_", 1)


def columns_of(config: Config, found: Mapping[str, Sequences]) -> dict[str, Column]:
    """Values and weights of each metric. Names without a model are the policy's."""
    policy = found["policy"]
    objective = policy.reward - config.kl.beta * policy.kls[0]
    columns: dict[str, Column] = {"objective/mean": (objective, None)}
    for name in found:
        columns |= {of_model(name, metric): column for metric, column in own_columns(config, found, name).items()}
    for kl, (name, of) in zip(policy.kls, [each for each in found.items() if each[0] != "policy"], strict=True):
        to, gain = ("", "reward/gain") if name == "reference" else ("_to_base", "reward/gain_over_base")
        columns[gain] = policy.reward - of.reward, None
        columns[f"kl/reverse_exact{to}_seq"] = kl, None
        columns[f"kl/reverse_exact{to}_tok"] = kl, policy.length
        columns[f"kl/forward_exact{to}_seq"] = of.kls[0], None
        columns[f"kl/forward_exact{to}_tok"] = of.kls[0], of.length
    return columns


def own_columns(config: Config, found: Mapping[str, Sequences], name: str) -> dict[str, Column]:
    """Figures that a model has whatever it is compared with: rewards and lengths."""
    of, left = found[name], without_value(config, found)
    columns: dict[str, Column] = {"reward/mean": (of.reward, None), "rollout/length": (of.length, None)}
    sampled = isinstance(config.task, TextTask) and "sampled" in config.task.readings
    for metric, values in (of.measured.metrics if of.measured and sampled else {}).items():
        applies = ~np.isnan(values)
        columns[f"task/{metric}"] = np.where(applies, values, 0.0), None if applies.all() else applies.astype(np.float64)
    for term, values in of.terms.items():
        if term not in left:
            applies = ~np.isnan(values) | (config.reward[term].kind == "jax")  # a Python reward can say None
            columns[f"reward/terms/{term}"] = np.where(applies, values, 0.0), applies.astype(np.float64)
    return columns


def without_value(config: Config, found: Mapping[str, Sequences]) -> set[str]:
    """JAX terms of weight 0 that are no number for some completion: they trained nothing, and are left out."""
    free = [name for name, term in config.reward.items() if term.kind == "jax" and not term.weight]
    free = [name for name in free if all(name in of.terms for of in found.values())]  # not left out
    return {name for name in free if not all(np.isfinite(of.terms[name]).all() for of in found.values())}


def means(columns: Mapping[str, Column], groups: Int[np.ndarray, "B"]) -> dict[str, float]:
    """Mean and standard error of each column that has a value; completions of one prompt are a group."""
    if groups.max() == 0:
        groups = np.arange(len(groups))
    metrics = {}
    for name, (values, weights) in columns.items():
        weights = np.ones_like(values) if weights is None else weights
        if weights.any():  # a term may apply to nothing
            found = clustered(values, weights, groups)
            metrics[name], metrics[f"{name}_se"] = found.mean, found.se
    return metrics
