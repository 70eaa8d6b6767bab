"""The study of estimators and penalties as tables, a CSV, a picture, and the sentence to take away."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from experiments.studies.estimators.study import COLUMNS, REACHED, SAMPLES, VALUES, Result
from kljax.kl.penalties import PENALTIES
from kljax.progress import console

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

TYPICAL_KL = 1.0  # nats per sequence: the closing sentence speaks of the size nearest to it
LINEAR_BELOW = 0.02  # relative error below which the axis of a gradient's bias is linear, so that 0 has a place on it

QUANTITIES: dict[str, tuple[str, Callable[[Result], float]]] = {
    # title of a table: (kind, what is shown)
    "Value: bias / KL": ("value", lambda r: r.bias / r.truth),
    "Value: standard deviation of one sequence's / KL": ("value", lambda r: r.sd / r.truth),
    "Gradient: bias ‖E[gradient] − ∇KL‖ / ‖∇KL‖": ("gradient", lambda r: r.gradient_error),
    "Gradient: cosine of E[gradient] to ∇KL": ("gradient", lambda r: r.cosine),
    "Gradient: standard deviation of one sequence's / ‖∇KL‖": ("gradient", lambda r: r.sd / r.truth),
    "Gradient: variance of one sequence's / that of exact": ("gradient", lambda r: r.variance_ratio),
}

STYLES: dict[str, dict[str, Any]] = {
    **{name: {"color": f"C{i}"} for i, name in enumerate(VALUES)},
    **{f"weighted_{name}": {"color": f"C{i}", "linestyle": "--"} for i, name in enumerate(VALUES)},
    **{name: {"color": f"C{i}", "linestyle": ":" if p.ablation else "-"} for i, (name, p) in enumerate(PENALTIES.items())},
}
"""Off-policy dashed, in the colour of the same on-policy; ablations dotted."""


def medians(results: Sequence[Result], of: Callable[[Result], float]) -> dict[str, dict[float, float]]:
    """Over the trees, by method and spread."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in results:
        found.setdefault(result.method, {}).setdefault(result.spread, []).append(of(result))
    return {method: {spread: float(np.median(x)) for spread, x in row.items()} for method, row in found.items()}


def sizes(results: Sequence[Result]) -> dict[float, float]:
    """The median exact KL of each spread, nats per sequence."""
    return medians(results, lambda result: result.exact_kl)["exact"]


def typical(results: Sequence[Result]) -> float:
    """The spread whose KL is nearest to TYPICAL_KL."""
    return min((abs(math.log(kl / TYPICAL_KL)), spread) for spread, kl in sizes(results).items())[1]


def takeaway(results: Sequence[Result]) -> str:
    """Conclusions, with the figures of the typical size."""
    spread = typical(results)
    error = {name: abs(row[spread]) for name, row in medians(results, lambda r: r.bias / r.truth).items()}
    ratio = medians(results, lambda r: r.variance_ratio)["k1_reward"][spread]
    reached = " and ".join(name for name in PENALTIES if error[name] < REACHED)
    return (
        f"An unbiased value is not an unbiased gradient: at KL ≈ {sizes(results)[spread]:.2g} nats per sequence (medians over "
        f"{_trees(results)} trees) k3's value has a bias of {error['k3']:.0%}, but as a loss its gradient is "
        f"{error['k3_loss']:.0%} wrong however many sequences are averaged (that of k2, the usual remedy, "
        f"{error['k2_loss']:.0%}); of {len(PENALTIES)} penalties only {reached} reach the gradient of the sequence's KL, and a "
        f"one-sequence gradient of k1_reward has {ratio:.1f} times the variance of one of exact."
    )


def show(results: Sequence[Result]) -> None:
    """A table for each quantity, a row for each method, a column for each size."""
    columns = sizes(results)
    console.print(f"Exact, by enumeration; medians over {_trees(results)} trees of each size.\n", soft_wrap=True)
    for title, (kind, of) in QUANTITIES.items():
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("KL, nats per sequence")
        for kl in columns.values():
            table.add_column(f"{kl:.2g}", justify="right")
        for method, row in medians([r for r in results if r.kind == kind], of).items():
            table.add_row(method, *(_short(row[spread]) for spread in columns))
        console.print(table)


def _short(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "0" if abs(value) < REACHED else f"{value:.3g}"


def _trees(results: Sequence[Result]) -> int:
    return len({result.tree for result in results})


def write_csv(results: Sequence[Result], file: Path) -> None:
    """All rows: one for each method, tree and n sequences; `relative_rmse` is `rmse` in units of `truth`."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=COLUMNS)
        writer.writeheader()
        for result in results:
            row = {name: "" if value != value else value for name, value in asdict(result).items()}  # NaN: no such figure
            for n in SAMPLES:
                writer.writerow(row | {"n": n, "rmse": result.rmse(n), "relative_rmse": result.rmse(n) / result.truth})


def plot(results: Sequence[Result], file: Path) -> None:
    """Error of the value against n at the smallest and the largest size, of the gradient against size and against n."""
    kls = sizes(results)
    values, gradients = ([r for r in results if r.kind == kind] for kind in ("value", "gradient"))
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    _plot_rmse(axes[0, 0], "Value", values, min(kls), "KL")
    _plot_rmse(axes[0, 1], "Value", values, max(kls), "KL")
    _plot_rmse(axes[1, 1], "Gradient", gradients, typical(results), "‖∇KL‖")
    floor = axes[1, 0]
    _lines(
        floor, list(kls.values()), {n: list(row.values()) for n, row in medians(gradients, lambda r: r.gradient_error).items()}
    )
    floor.set_xscale("log")
    floor.set_yscale("symlog", linthresh=LINEAR_BELOW)  # 0 has a place on it
    floor.set_ylim(bottom=-LINEAR_BELOW / 4)
    floor.xaxis.set_major_formatter("{x:g}")
    floor.yaxis.set_major_formatter("{x:g}")
    floor.set_title("Gradient: the error that no number of sequences removes", fontsize=10)
    floor.set_xlabel("KL(pi‖rho), nats per sequence")
    floor.set_ylabel("‖E[gradient] − ∇KL‖ / ‖∇KL‖")
    figure.suptitle(f"KL estimators and penalties, exact by enumeration; medians over {_trees(results)} trees")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _plot_rmse(axes: Axes, title: str, results: Sequence[Result], spread: float, unit: str) -> None:
    here = [r for r in results if r.spread == spread]
    by_n = [medians(here, lambda r, n=n: r.rmse(n) / r.truth) for n in SAMPLES]
    _lines(axes, SAMPLES, {name: [row[name][spread] for row in by_n] for name in by_n[0]})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(SAMPLES, [str(n) for n in SAMPLES])
    axes.xaxis.set_minor_locator(NullLocator())
    kl = np.median([r.exact_kl for r in here])
    axes.set_title(f"{title}: error of the mean at KL ≈ {kl:.2g} nats per sequence", fontsize=10)
    axes.set_xlabel("sequences averaged")
    axes.set_ylabel(f"root mean squared error / {unit}")


def _lines(axes: Axes, x: Sequence[int] | Sequence[float], curves: dict[str, list[float]]) -> None:
    """A line for each curve; those that coincide share one line and its label."""
    left = dict(curves)
    while left:
        first = next(iter(left))
        alike = [name for name in left if np.allclose(left[name], left[first], rtol=1e-6, atol=REACHED)]
        axes.plot(x, left[first], label=" =\n".join(alike), **STYLES[first])
        left = {name: y for name, y in left.items() if name not in alike}
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.2)
