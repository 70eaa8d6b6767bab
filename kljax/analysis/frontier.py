"""Reward against KL over finished runs: a point a configuration, its seeds averaged, with standard errors."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from kljax.errors import UserError
from kljax.json_text import key_text
from kljax.training.run_directory import CONFIG, read_config

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt

BASES = "bases"


@dataclass(frozen=True)
class Point:
    """One configuration on held-out prompts: reward, KL(policy‖reference) in nats per sequence, standard errors.

    With two or more seeds the errors are those of the mean over seeds; with one, those of the evaluation's prompts.
    """

    curve: str  # what the points of one line share: name, penalty, algorithm
    beta: float
    seeds: int
    step: int
    reward: float
    reward_se: float
    kl: float
    kl_se: float
    reference_reward: float


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every RLHF run at or below the paths; base models are none."""
    runs = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such directory; expected run directories or a folder that holds some.")
        runs |= {file.parent for file in path.rglob(CONFIG) if BASES not in file.parts}
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run directory here (none has a {CONFIG}).")
    return sorted(runs)


def folder_of(path: Path) -> Path:
    """Where the frontier of what was asked for belongs: beside the run, or in the folder of runs."""
    return path.parent if (path / CONFIG).exists() else path


def points(runs: Sequence[Path]) -> tuple[list[Point], list[Path]]:
    """The frontier's points, by curve and beta, and the runs that are left out because they have no evaluation yet."""
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    unfinished = []
    for run in runs:
        config, evaluation = read_config(run), last_evaluation(run)
        if evaluation is None:
            unfinished.append(run)
            continue
        alike = {key: value for key, value in config.items() if key not in ("seed", "run")}
        groups.setdefault(key_text(alike), []).append((config, evaluation))
    if not groups:
        raise UserError(f"{runs[0]}: not finished, as all {len(runs)} runs here; expected at least one run with an evaluation.")
    found = [_point(group) for group in groups.values()]
    return sorted(found, key=lambda point: (point.curve, point.beta)), unfinished


def last_evaluation(run: Path) -> dict[str, Any] | None:
    """What experiments/train.py or analyze.py wrote of the run's last step; None where there is nothing yet."""
    files = sorted((run / "evaluation").glob("step_*.json"))
    return json.loads(files[-1].read_bytes()) if files else None


def _point(group: list[tuple[dict[str, Any], dict[str, Any]]]) -> Point:
    config, evaluation = group[0]

    def mean_and_se(name: str) -> tuple[float, float]:
        values = np.array([e["metrics"][name] for _, e in group])
        if len(values) == 1:
            return float(values[0]), evaluation["metrics"][f"{name}_se"]
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    reward, reward_se = mean_and_se("reward/mean")
    kl, kl_se = mean_and_se("kl/reverse_exact_seq")
    return Point(
        curve=f"{config['name']}: {config['algorithm']}, {config['kl']['penalty']}",
        beta=beta_of(config, [e for _, e in group]),
        seeds=len(group),
        step=evaluation["step"],
        reward=reward,
        reward_se=reward_se,
        kl=kl,
        kl_se=kl_se,
        reference_reward=mean_and_se("reward/reference_mean")[0],
    )


def beta_of(config: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> float:
    """The beta of runs that differ by seed only: the config's, or what a controller had reached."""
    if config["kl"]["controller"]["kind"] == "fixed":
        return config["kl"]["beta"]
    return float(np.mean([evaluation["metrics"]["kl/beta"] for evaluation in evaluations]))


def write_csv(found: Sequence[Point], file: Path) -> None:
    """The numbers behind the picture."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in found)


def plot(found: Sequence[Point], file: Path) -> None:
    """Reward against KL, a line a curve, each point labelled with its beta."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    for curve in dict.fromkeys(point.curve for point in found):
        line = sorted((p for p in found if p.curve == curve), key=lambda point: point.kl)
        drawn = axes.errorbar(
            [p.kl for p in line],
            [p.reward for p in line],
            xerr=[p.kl_se for p in line],
            yerr=[p.reward_se for p in line],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            label=curve,
        )
        for p in line:
            axes.annotate(
                f"β = {p.beta:g}",
                (p.kl, p.reward),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
                color=drawn[0].get_color(),
            )
        axes.plot(0, line[0].reference_reward, marker="x", color=drawn[0].get_color())
    axes.annotate("reference", (0, found[0].reference_reward), xytext=(6, -3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("KL(policy‖reference), nats per sequence")
    axes.set_ylabel("reward")
    axes.set_title("Reward and KL on held-out prompts, ± standard error", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(alpha=0.2)
    axes.margins(x=0.1)
    figure.savefig(file)
    plt.close(figure)
