"""The students of two dialects as a table, a picture and the sentences to take away."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from experiments.studies.directions.dialects import KINDS
from experiments.studies.directions.modes import DRAWS, NAMES, Distribution
from kljax.disk import whole_file
from kljax.progress import console

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

LABELS = {
    "forward_kl": "forward KL(teacher‖student)",
    "reverse_kl": "reverse KL(student‖teacher)",
    "jeffreys": "Jeffreys, their sum",
    "jensen_shannon": "Jensen–Shannon",
}
KIND_COLOURS = ("#4477aa", "#66b2d6", "#cc3311", "0.7")
DIVERGENCE_COLOURS = ("C1", "C4", "C2", "C5")


def of(found: Sequence[Distribution], who: str, fitted_by: str | None = None) -> list[Distribution]:
    """Those of one kind."""
    return [one for one in found if one.who == who and one.fitted_by == fitted_by]


def show(found: Sequence[Distribution]) -> None:
    """A row for each divergence and kind of model, means over the seeds; it fits into 80 columns."""
    table = Table(title="Fitted to two dialects: means over the seeds", title_justify="left", box=SIMPLE, padding=0)
    table.add_column("", no_wrap=True)
    for label in ("he", "she", "mixed", "slips", "distinct", "entropy", "forward", "reverse"):
        table.add_column(label, justify="right", no_wrap=True)
    for name in (None, *NAMES):
        if name is not None:
            table.add_row(f"[bold]{LABELS[name].split('(')[0].split(',')[0]}[/]")
        for who in ("teacher", "optimum", "student", "other optimum", "seeing all"):
            if mine := of(found, who, name):
                table.add_row(who, *_cells(mine))
    console.print(table)
    console.print(
        f"{', '.join(KINDS)}: shares of what is said. distinct: sentences among {DRAWS}. forward: KL(teacher‖student), "
        "reverse: KL(student‖teacher), and entropy in nats per sequence.",
        soft_wrap=True,
    )
    console.print(takeaway(found), soft_wrap=True)


def _cells(mine: Sequence[Distribution]) -> list[str]:
    def mean(value: Callable[[Distribution], float]) -> float:
        return float(np.mean([value(one) for one in mine]))

    masses = [f"{mean(lambda one, kind=kind: one.mass[kind]):.1%}" for kind in KINDS]
    rest = (mean(lambda one: one.entropy), mean(lambda one: one.forward_kl), mean(lambda one: one.reverse_kl))
    return [*masses, f"{mean(lambda one: one.distinct):.1f}", *(f"{each:.3f}" for each in rest)]


def takeaway(found: Sequence[Distribution]) -> str:
    """The figures of a student that sees one word, under either direction, and of one that sees all."""
    (teacher,), forward, reverse = of(found, "teacher"), of(found, "student", "forward_kl"), of(found, "student", "reverse_kl")
    seeing = [one for name in NAMES for one in of(found, "seeing all", name)]
    farthest = max(max(one.forward_kl, one.reverse_kl) for one in seeing)
    worst = max(one.above or 0.0 for name in NAMES for one in of(found, "student", name))

    def mean(mine: Sequence[Distribution], kind: str) -> float:
        return float(np.mean([one.mass[kind] for one in mine]))

    kept = [max(KINDS[:2], key=one.mass.__getitem__) for one in reverse]
    return (
        f"Forward KL covers: of what its students say {mean(forward, KINDS[0]):.0%} and {mean(forward, KINDS[1]):.0%} are of "
        f"the two dialects, and {mean(forward, 'mixed'):.0%} mixes them (the teacher: {teacher.mass['mixed']:.1%}). Reverse KL "
        f"seeks: its students say {mean(reverse, 'mixed'):.1%} mixed sentences and keep one dialect "
        f"({', '.join(sorted(set(kept)))}). Trained students are at most {worst:.1e} nats above the exact optimum. Students "
        f"that see all words before are within {farthest:.1e} nats of the teacher, whichever divergence fitted them."
    )


def plot(found: Sequence[Distribution], file: Path) -> None:
    """Left, what each says; right, where each lies in both KLs."""
    figure, (bars, plane) = plt.subplots(1, 2, figsize=(12.5, 4.8), dpi=150, layout="constrained", width_ratios=(1.25, 1))
    _bars(bars, found)
    _plane(plane, found)
    seeds = len(of(found, "student", NAMES[0]))
    figure.suptitle(
        f"A student that sees one word at a time, fitted to two dialects; {seeds} seeds, exact gradients", fontsize=11
    )
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def _bars(axes: Axes, found: Sequence[Distribution]) -> None:
    rows = [("teacher", of(found, "teacher")), *((LABELS[name], of(found, "student", name)) for name in NAMES)]
    for row, (_, mine) in enumerate(rows):
        left = 0.0
        for kind, colour in zip(KINDS, KIND_COLOURS, strict=True):
            width = float(np.mean([one.mass[kind] for one in mine]))
            axes.barh(row, width, left=left, color=colour, height=0.62, label=kind if row == 0 else None)
            if width > 0.04:
                axes.text(left + width / 2, row, f"{width:.0%}", ha="center", va="center", fontsize=8, color="white")
            left += width
    for row, name in enumerate(NAMES, start=1):
        edges = np.cumsum([of(found, "optimum", name)[0].mass[kind] for kind in KINDS])[:-1]
        axes.plot(edges, np.full(len(edges), row), "|", color="black", ms=26, mew=1.2)
    axes.set_yticks(range(len(rows)), [label.replace(" KL", " KL\n").replace(", ", ",\n") for label, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of what it says")
    axes.set_title("What the student says, by the divergence that fitted it", fontsize=10)
    axes.plot([], [], "|", color="black", ms=8, mew=1.2, label="exact optimum")
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.45, -0.13), columnspacing=1.0)


def _plane(axes: Axes, found: Sequence[Distribution]) -> None:
    for name, colour in zip(NAMES, DIVERGENCE_COLOURS, strict=True):
        mine, (best,) = of(found, "student", name), of(found, "optimum", name)
        axes.plot(
            [one.reverse_kl for one in mine], [one.forward_kl for one in mine], "o", color=colour, ms=8, label=LABELS[name]
        )
        axes.plot(best.reverse_kl, best.forward_kl, "+", color="black", ms=13, mew=1.2)
        if name in ("forward_kl", "reverse_kl"):
            line = axes.axhline if name == "forward_kl" else axes.axvline
            line(getattr(best, name), color=colour, lw=1, ls=":")
    axes.plot([], [], "+", color="black", ms=9, mew=1.2, label="exact optimum")
    axes.margins(0.12)
    axes.set_xlabel("reverse KL(student‖teacher), nats per sequence")
    axes.set_ylabel("forward KL(teacher‖student), nats per sequence")
    axes.set_title("Not symmetric: the best in one (dotted) is bad in the other", fontsize=10)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, title="fitted by", title_fontsize=8)
