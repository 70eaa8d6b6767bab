"""Reward against KL over runs: which evaluations can be compared, a point for those that differ by seed alone, its errors."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kljax.analysis.curves import alike, curve_of, labels, varied
from kljax.config.validation import default_of
from kljax.disk import whole_file
from kljax.errors import UserError
from kljax.json_text import key_text
from kljax.runs import evaluation_files
from kljax.runs.config_file import read_config, read_run_config
from kljax.runs.evaluation import groups_of
from kljax.runs.intervals import LEVEL, Estimate, crossed, t_quantile


@dataclass(frozen=True)
class Measured:
    """A run and the evaluation of it that is compared with others'."""

    path: Path
    config: dict[str, Any]
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One configuration on held-out prompts: reward, and KL in nats per sequence; `_se` are standard errors.

    `_low` and `_high` are the interval of `level`. Errors are over prompts and seeds; with one seed over prompts alone. `kl` is
    to the reference in force in the last step, `kl_to_base` to the model that the policy started from; where the reference
    `moves` it is the latter that can be compared. `value` is that of `varied`; `beta` the one that the last step used.
    """

    curve: str
    varied: str
    value: float
    beta: float
    step: int
    steps: int
    seeds: int
    prompts: int
    completions_a_prompt: int
    level: float
    reward: float
    reward_se: float
    reward_low: float
    reward_high: float
    kl: float
    kl_se: float
    kl_low: float
    kl_high: float
    kl_to_base: float
    kl_to_base_se: float
    kl_to_base_low: float
    kl_to_base_high: float
    reference_reward: float
    base_reward: float
    moves: bool


def points(runs: Sequence[Path]) -> tuple[list[Point], list[str]]:
    """The frontier's points, by curve and along it, and what is to be said of runs that are left out or counted once."""
    measured, said = comparable(runs)
    groups: dict[str, list[Measured]] = {}
    for run in measured:
        groups.setdefault(key_text([alike(run.config), run.evaluation["step"]]), []).append(run)
    groups = {key: _each_seed_once(group, said) for key, group in groups.items()}
    curves = {key: curve_of(alike(group[0].config)) for key, group in groups.items()}
    spelled = {key: key_text(curve) for key, curve in curves.items()}
    distinct = {text: curves[key] for key, text in spelled.items()}
    names, usual = labels(list(distinct.values()))
    if usual:
        said.append(f"Where a curve's name does not say otherwise: {usual}.")
    named = dict(zip(distinct, names, strict=True))
    found = [_point(group, named[spelled[key]]) for key, group in groups.items()]
    return sorted(found, key=lambda point: (point.curve, point.value, point.step)), said


def comparable(runs: Sequence[Path]) -> tuple[list[Measured], list[str]]:
    """Of each run the evaluation of its last step, all with the same settings; and why other runs are left out.

    The settings are those with which most runs were evaluated; of several the ones that more runs' configs have, then those
    of more completions.
    """
    said, having = [], []
    for run in runs:
        there = evaluation_files.load_all(run)
        last = [each for each in there if each["step"] == there[-1]["step"]]
        if known := [each for each in last if "settings" in each]:
            read_run_config(run)  # refuses what no run has
            having.append((run, read_config(run), {_spelled(each["settings"]): each for each in known}))
        elif there:
            said.append(f"Left out, evaluated by an older version: {run} (kljax analyze run={run} does it anew).")
        else:
            said.append(f"Left out, not finished: {run}")
    if not having:
        raise UserError(
            f"{runs[0]}: no run here is finished ({len(runs)} looked at); expected one with an evaluation at least."
        )
    counts = Counter(settings for *_, found in having for settings in found)
    own = Counter(settings for _, config, found in having for settings in found if _is_own(settings, config))
    chosen = max(counts, key=lambda settings: (counts[settings], own[settings], _completions(settings), settings))
    asked = " ".join(f"{name}={value}" for name, value in json.loads(chosen).items())
    for run, _, found in having:
        if chosen not in found:
            said.append(f"Left out, evaluated otherwise than most: {run} (for the same: kljax analyze run={run} {asked}).")
    return [Measured(run, config, found[chosen]) for run, config, found in having if chosen in found], said


def _spelled(settings: Mapping[str, Any]) -> str:
    return key_text(settings)


def _is_own(settings: str, config: Mapping[str, Any]) -> bool:
    usual = config["evaluation"]
    return all(value == usual.get(name, default_of(f"evaluation.{name}")) for name, value in json.loads(settings).items())


def _completions(settings: str) -> int:
    asked = json.loads(settings)
    return asked["prompts"] * asked["samples"]


def _each_seed_once(group: Sequence[Measured], said: list[str]) -> list[Measured]:
    """Runs of distinct seeds on the same prompts; others are no repeats, and it is said."""
    kept: dict[int, Measured] = {}
    for run in group:
        first = kept.setdefault(run.config["seed"], run)
        if first is not run:
            said.append(f"Counted once, the same configuration and seed: {first.path} and {run.path}")
    ids = Counter(_prompts(run) for run in kept.values())
    usual = max(ids, key=lambda prompts: (ids[prompts], prompts))
    for run in kept.values():
        if _prompts(run) != usual:
            said.append(f"Left out, its held-out prompts are others than those of the runs that it repeats: {run.path}")
    return [run for run in kept.values() if _prompts(run) == usual]


def _prompts(run: Measured) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((entry["id"], entry["completions"]) for entry in run.evaluation["by_prompt"]))


def beta_of(run: Measured) -> float:
    """The beta that the run's last step used."""
    fixed = run.config["kl"]["controller"]["kind"] == "fixed"  # in all its digits, of which a step has seven
    return float(run.config["kl"]["beta"] if fixed else run.evaluation["metrics"]["kl/beta"])


def _point(group: Sequence[Measured], curve: str) -> Point:
    config, evaluation = group[0].config, group[0].evaluation
    key, value = varied(config)
    to_base = "kl/reverse_exact_to_base_seq" if "reward/base_mean" in evaluation["metrics"] else "kl/reverse_exact_seq"
    base = "reward/base_mean" if "reward/base_mean" in evaluation["metrics"] else "reward/reference_mean"
    figures = {}
    for name, metric in (("reward", "reward/mean"), ("kl", "kl/reverse_exact_seq"), ("kl_to_base", to_base)):
        found = estimate(group, metric)
        low, high = found.mean - found.half_width, found.mean + found.half_width
        figures |= {name: found.mean, f"{name}_se": found.se, f"{name}_low": low, f"{name}_high": high}
    return Point(
        curve=curve,
        varied=key,
        value=value,
        beta=float(np.mean([beta_of(run) for run in group])),
        step=evaluation["step"],
        steps=config["steps"],
        seeds=len(group),
        prompts=len(evaluation["by_prompt"]),
        completions_a_prompt=evaluation["of"]["samples"],
        level=LEVEL,
        reference_reward=estimate(group, "reward/reference_mean").mean,
        base_reward=estimate(group, base).mean,
        moves=config["reference"]["refresh"]["kind"] != "never",
        **figures,
    )


def estimate(group: Sequence[Measured], metric: str) -> Estimate:
    """The mean of a metric over runs that were evaluated on the same prompts."""
    first = group[0].evaluation
    if len(group) == 1 and len(first["by_prompt"]) == 1:
        se = first["metrics"][f"{metric}_se"]
        return Estimate(first["metrics"][metric], se, t_quantile(groups_of(first["of"]) - 1) * se)
    order = [entry["id"] for entry in first["by_prompt"]]
    rows = [{entry["id"]: entry for entry in run.evaluation["by_prompt"]} for run in group]
    counts = np.array([[row[prompt]["completions"] for prompt in order] for row in rows], np.float64)
    means = np.array([[row[prompt][metric] for prompt in order] for row in rows], np.float64)
    return crossed(means * counts, counts)


def write_csv(found: Sequence[Point], file: Path) -> None:
    """The numbers behind the picture."""
    with whole_file(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in found)
