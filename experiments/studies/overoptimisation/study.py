"""Overoptimisation over finished runs: a proxy reward that is trained on, a gold reward that is not, against √KL.

Gao et al. 2022 (arXiv:2210.10760) find that the gold reward gained by RL follows d(α − β log d), d = √KL(policy‖reference): it
rises, turns at d = exp(α/β − 1) and falls, while the proxy reward goes on rising.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
from rich.table import Table

from experiments.studies.claims.overoptimisation import SECOND, Curve, Fit, fit
from kljax.analysis.frontier import Measured, beta_of, comparable
from kljax.disk import whole_file
from kljax.errors import UserError, did_you_mean
from kljax.progress import console

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Point:
    """One finished run on held-out prompts: KL in nats per sequence, both rewards beside the reference's own."""

    beta: float
    step: int
    kl: float
    kl_se: float
    proxy: float
    proxy_se: float
    gold: float
    gold_se: float
    reference_proxy: float
    reference_gold: float


def points(runs: Sequence[Path], proxy: str, gold: str) -> tuple[list[Point], list[str]]:
    """A point a run, from the largest beta to the smallest, and which runs are left out. `proxy` and `gold` are reward terms.

    Where the reference moves, KL and rewards are those to the base model.
    """
    measured, said = comparable(runs)
    found = [_point(run, proxy, gold) for run in measured]
    if len(found) < 3:
        raise UserError(f"expected at least 3 finished runs to fit a curve to, got {len(found)}; sweep kl.beta.")
    return sorted(found, key=lambda point: -point.beta), said


def _point(run: Measured, proxy: str, gold: str) -> Point:
    metrics = run.evaluation["metrics"]
    for name in (proxy, gold):
        if f"reward/terms/{name}" not in metrics:
            terms = [key.split("/")[-1] for key in metrics if key.startswith("reward/terms/") and not key.endswith("_se")]
            raise UserError(f"{run.path} has no reward term '{name}'; it has: {', '.join(terms)}.{did_you_mean(name, terms)}")
    moves = run.config["reference"]["refresh"]["kind"] != "never"
    kl, start = ("kl/reverse_exact_to_base_seq", "base") if moves else ("kl/reverse_exact_seq", "reference")
    return Point(
        beta=beta_of(run),
        step=run.evaluation["step"],
        kl=metrics[kl],
        kl_se=metrics[f"{kl}_se"],
        proxy=metrics[f"reward/terms/{proxy}"],
        proxy_se=metrics[f"reward/terms/{proxy}_se"],
        gold=metrics[f"reward/terms/{gold}"],
        gold_se=metrics[f"reward/terms/{gold}_se"],
        reference_proxy=metrics[f"reward/{start}_terms/{proxy}"],
        reference_gold=metrics[f"reward/{start}_terms/{gold}"],
    )


def fit_gold(found: Sequence[Point]) -> Fit:
    """α and β of the gold reward that was gained, d(α − β log d), by least squares."""
    return fit("logarithmic", _curve(found))


def _curve(found: Sequence[Point]) -> Curve:
    d, proxy, gained = (
        np.array(values) for values in zip(*((np.sqrt(p.kl), p.proxy, p.gold - p.reference_gold) for p in found), strict=True)
    )
    return Curve(d, proxy, gained)


def write_csv(found: Sequence[Point], file: Path) -> None:
    """The numbers behind the picture."""
    with whole_file(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in found)


def plot(found: Sequence[Point], fitted: Fit, file: Path) -> None:
    """Gain of each reward against √KL, and the fitted curve through the gold one."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    d = np.sqrt([p.kl for p in found])
    proxy, gold = [p.proxy - p.reference_proxy for p in found], [p.gold - p.reference_gold for p in found]
    axes.errorbar(d, proxy, yerr=[p.proxy_se for p in found], fmt="o-", ms=4, lw=1, capsize=2, label="proxy, trained on")
    axes.errorbar(d, gold, yerr=[p.gold_se for p in found], fmt="s", ms=4, lw=1, capsize=2, label="gold, reported only")
    grid = np.linspace(1e-3, 1.05 * d.max(), 300)
    form = fitted.alpha * grid - fitted.beta * SECOND["logarithmic"](grid)
    label = f"d({fitted.alpha:.2f} − {fitted.beta:.2f} log d), peak at d = {fitted.peak:.1f}, R² = {fitted.explained:.2f}"
    axes.plot(grid, form, "--", lw=1, color="C1", label=label)
    for p, x, y in zip(found, d, proxy, strict=True):
        axes.annotate(f"β = {p.beta:g}", (x, y), xytext=(4, -11), textcoords="offset points", fontsize=7, color="C0")
    axes.axhline(0, color="0.7", lw=0.8)
    axes.set_xlabel("d = √KL(policy‖reference), KL in nats per sequence")
    axes.set_ylabel("reward gained over the reference")
    axes.set_title("Overoptimisation on held-out prompts, ± standard error", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.grid(alpha=0.2)
    axes.margins(x=0.08)
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def show(found: Sequence[Point], fitted: Fit) -> None:
    """Both rewards against KL, a row a run."""
    table = Table(title="Proxy and gold reward on held-out prompts (± standard error)", title_justify="left")
    for label in ("beta", "step", "KL, nats/seq", "proxy", "gold"):
        table.add_column(label, justify="right")
    table.add_row("reference", "", "0", f"{found[0].reference_proxy:.3f}", f"{found[0].reference_gold:.3f}")
    for p in found:
        kl, proxy, gold = (
            f"{mean:.3f} ± {se:.3f}" for mean, se in ((p.kl, p.kl_se), (p.proxy, p.proxy_se), (p.gold, p.gold_se))
        )
        table.add_row(f"{p.beta:g}", str(p.step), kl, proxy, gold)
    console.print(table)
    console.print(
        f"Gold reward gained: d(α − β log d) with d = √KL, α = {fitted.alpha:.3f}, β = {fitted.beta:.3f}; it explains "
        f"{fitted.explained:.1%} of the variance and peaks at d = {fitted.peak:.2f} (KL = {fitted.peak**2:.1f} nats).",
        soft_wrap=True,
    )
