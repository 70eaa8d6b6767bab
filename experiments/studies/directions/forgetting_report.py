"""Forgetting against both KLs: a table at equal reward, a picture with the R² of each, and the sentence to take away."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from rich.table import Table

from experiments.studies.directions.forgetting import Point, explained
from kljax.disk import whole_file
from kljax.progress import console

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

KLS = {"forward_kl": "forward KL(base‖adapted)", "reverse_kl": "reverse KL(adapted‖base)"}
LOSSES = {"lost_nats": "rise of the old task's loss, nats per answer", "lost_accuracy": "fall of the old task's accuracy"}
DEGREES = {1: "linear", 2: "quadratic"}
LEAST = 4  # points to which a curve of three coefficients is fitted
MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # of the levels of reward


def r_squared(found: Sequence[Point], kl: str, lost: str, degree: int) -> float:
    """How much of what is lost a polynomial of this KL explains, over these points."""
    return explained([getattr(one, kl) for one in found], [getattr(one, lost) for one in found], degree)


def levels(found: Sequence[Point]) -> list[float]:
    """The levels of reward that some run reached."""
    return sorted({one.level for one in found})


def show(found: Sequence[Point]) -> None:
    """Means of each method at the highest level, and the R² of each KL at each level and over all."""
    top = levels(found)[-1]
    table = Table(title=f"Where the reward on the new task first reaches {top:g}: means over runs", title_justify="left")
    table.add_column("method", no_wrap=True)
    for label in ("runs", "steps", "forward KL", "reverse KL", "old task: loss +", "accuracy −"):
        table.add_column(label, justify="right")
    for method in dict.fromkeys(one.method for one in found):
        if mine := [one for one in found if (one.method, one.level) == (method, top)]:
            names = ("step", "forward_kl", "reverse_kl", "lost_nats", "lost_accuracy")
            means = [float(np.mean([getattr(one, name) for one in mine])) for name in names]
            table.add_row(method, str(len(mine)), f"{means[0]:.0f}", *(f"{each:.2f}" for each in means[1:]))
    console.print(table)
    table = Table(title="R² of a fit of what is lost to a KL on the new task", title_justify="left")
    table.add_column("points")
    for kl in ("forward", "reverse"):
        for lost in ("loss", "accuracy"):
            table.add_column(f"{kl} KL, {lost}", justify="right")
    rows = {f"reward {level:g}": [one for one in found if one.level == level] for level in levels(found)} | {"all": [*found]}
    rows |= {f"all, {kind}": [one for one in found if one.method.startswith(kind)] for kind in ("SFT", "RL")}
    rows |= {f"all, base {seed}": [one for one in found if one.seed == seed] for seed in sorted({one.seed for one in found})}
    for what, mine in rows.items():
        if len(mine) < LEAST:
            continue
        cells = [" / ".join(f"{r_squared(mine, kl, lost, degree):.2f}" for degree in DEGREES) for kl in KLS for lost in LOSSES]
        table.add_row(f"{what} ({len(mine)})", *cells)
    console.print(table)
    console.print("Each cell: linear / quadratic.\n")
    console.print(takeaway(found), soft_wrap=True)


def takeaway(found: Sequence[Point]) -> str:
    """Both R² at the highest reward and over all, and how methods compare there."""
    top = [one for one in found if one.level == levels(found)[-1]]

    def pair(points: Sequence[Point], kl: str) -> str:
        return " / ".join(f"{r_squared(points, kl, 'lost_nats', degree):.2f}" for degree in DEGREES)

    lost = {kind: float(np.mean([p.lost_nats for p in top if p.method.startswith(kind)] or [np.nan])) for kind in ("RL", "SFT")}
    return (
        f"Rise of the old task's loss, fitted to a KL on the new task, R² (linear / quadratic): {len(top)} runs at reward "
        f"{top[0].level:g}, {pair(top, 'forward_kl')} for forward KL(base‖adapted), {pair(top, 'reverse_kl')} for the "
        f"reverse; all {len(found)} points, {pair(found, 'forward_kl')} and {pair(found, 'reverse_kl')}. At that reward RL "
        f"has lost {lost['RL']:.2f} nats per answer of the old task, supervised runs {lost['SFT']:.2f}."
    )


def plot(found: Sequence[Point], file: Path) -> None:
    """The rise of the old task's loss against each KL; colour by method, marker by reward."""
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.2), dpi=150, layout="constrained", sharey=True)
    for each, kl in zip(axes, KLS, strict=True):
        _against(each, found, kl)
    axes[0].set_ylabel(LOSSES["lost_nats"])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    runs = len({(one.method, one.rate, one.seed) for one in found})
    figure.suptitle(f"What {runs} runs forget of an old task at equal reward on a new one", fontsize=11)
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def _against(axes: Axes, found: Sequence[Point], kl: str) -> None:
    for i, method in enumerate(dict.fromkeys(one.method for one in found)):
        for level, marker in zip(levels(found), MARKERS, strict=False):
            mine = [one for one in found if (one.method, one.level) == (method, level)]
            label = method if level == levels(found)[-1] else None
            points = [getattr(one, kl) for one in mine], [one.lost_nats for one in mine]
            axes.plot(*points, marker, color=f"C{i}", ms=4.5, alpha=0.75, label=label)
    for level, marker in zip(levels(found), MARKERS, strict=False):
        axes.plot([], [], marker, color="0.4", ms=4.5, label=f"reward {level:g}")
    x = np.array([getattr(one, kl) for one in found])
    grid = np.linspace(0, x.max(), 200)
    for degree, style in zip(DEGREES, (":", "--"), strict=True):
        fitted = np.polyval(np.polyfit(x, [one.lost_nats for one in found], degree), grid)
        axes.plot(grid, fitted, style, color="0.3", lw=1.1, label=f"{DEGREES[degree]} fit to all points")
    top = [one for one in found if one.level == levels(found)[-1]]
    said = [
        f"R², {what}: {r_squared(points, kl, 'lost_nats', 1):.2f} linear, {r_squared(points, kl, 'lost_nats', 2):.2f} quadratic"
        for what, points in (("all points", found), (f"reward {top[0].level:g}", top))
    ]
    axes.text(0.03, 0.97, "\n".join(said), transform=axes.transAxes, va="top", fontsize=8.5)
    axes.set_xlabel(f"{KLS[kl]} on the new task, nats per answer")
    axes.grid(alpha=0.2)
