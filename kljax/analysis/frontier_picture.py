"""The frontier as a picture: reward against KL, a line a curve, each point with its beta or budget beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from kljax.analysis.frontier import Point
from kljax.disk import whole_file

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt
from matplotlib.transforms import Bbox

SYMBOLS = {"kl.beta": "β", "kl.controller.budget": "budget", "kl.controller.target": "target"}
PLACES = ((6, -10), (6, 4), (-6, 4), (-6, -10), (0, 9), (0, -16), (14, -18), (14, 12), (-14, 12), (-14, -18))
"""Where a label may stand, points from its point: the first place where nothing is."""


def plot(found: Sequence[Point], file: Path) -> None:
    """Write the picture. Along a line are points of finished runs; one of another step is hollow and says its step."""
    curves = list(dict.fromkeys(point.curve for point in found))
    figure, axes = plt.subplots(figsize=(7.0, 4.2 + 0.19 * len(curves)), dpi=150, layout="constrained")
    notes = []
    for number, curve in enumerate(curves):
        color = f"C{number % 10}"
        line = sorted((point for point in found if point.curve == curve), key=_kl)
        _draw(axes, line, f"{curve} (KL to the base model)" if line[0].moves else curve, color, "os^Dv<>p"[number // 10 % 8])
        notes += [(point, color) for point in line]
    axes.set_xlabel(_axis(found))
    axes.set_ylabel("reward")
    axes.set_title(_title(found), fontsize=9)
    axes.grid(alpha=0.2)
    axes.margins(x=0.1, y=0.1)
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    figure.canvas.draw()  # fixes what is where
    _write_beside(axes, notes)
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def _draw(axes: Any, line: Sequence[Point], label: str, color: str, marker: str) -> None:
    style: dict[str, Any] = {"capsize": 2, "markersize": 4, "linewidth": 1, "elinewidth": 0.6, "color": color, "marker": marker}
    whole = [point for point in line if point.step == point.steps]
    other = [point for point in line if point not in whole]
    for part, changes in ((whole, {}), (other, {"linestyle": "none", "markerfacecolor": "none"})):
        if part:
            x, low, high = np.array([_interval(point) for point in part]).T
            y = np.array([point.reward for point in part])
            heights = [y - [point.reward_low for point in part], [point.reward_high for point in part] - y]
            named = {"label": label} if part is whole or not whole else {}
            axes.errorbar(x, y, xerr=[x - np.maximum(low, 0.0), high - x], yerr=heights, **style | changes | named)
    axes.plot(0, line[0].base_reward if line[0].moves else line[0].reference_reward, "x", color=color)


def _kl(point: Point) -> float:
    return point.kl_to_base if point.moves else point.kl


def _interval(point: Point) -> tuple[float, float, float]:
    if point.moves:
        return point.kl_to_base, point.kl_to_base_low, point.kl_to_base_high
    return point.kl, point.kl_low, point.kl_high


def _axis(found: Sequence[Point]) -> str:
    to = "base model" if all(point.moves for point in found) else "reference"
    return f"KL(policy‖{to}), nats per sequence"


def _title(found: Sequence[Point]) -> str:
    """Say which intervals the bars are, and of how many groups."""
    seeds, prompts = (_range([getattr(point, name) for point in found]) for name in ("seeds", "prompts"))
    of = "over prompts, 1 seed" if seeds == "1" else f"over prompts and {seeds} seeds"
    return f"{prompts} distinct held-out prompts; ×: before training\nbars: {found[0].level:.0%} intervals, Student's t ({of})"


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def name_of(point: Point) -> str:
    """The label beside a point: β = 0.3, and its step where that is not the run's last."""
    value = f"{SYMBOLS[point.varied]} = {point.value:g}"
    return value if point.step == point.steps else f"{value}, step {point.step} of {point.steps}"


def _write_beside(axes: Any, notes: Sequence[tuple[Point, str]]) -> None:
    """The points' names, each where it hides neither another nor a point; where there is no such place, the table says it."""
    renderer = axes.figure.canvas.get_renderer()
    at = [axes.transData.transform((_kl(point), point.reward)) for point, _ in notes]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in at]
    for (point, color), own in zip(notes, taken.copy(), strict=True):
        text = axes.annotate(
            name_of(point), (_kl(point), point.reward), textcoords="offset points", fontsize=7, color=color, xytext=(0, 0)
        )
        for dx, dy in PLACES:
            text.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
            text.xyann = (dx, dy)
            box = text.get_window_extent(renderer)
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken if other is not own):
                taken.append(box)
                break
        else:
            text.remove()
