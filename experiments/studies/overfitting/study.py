"""Effects of measures against overfitting: losses of training and held-out rows at every look, and where a fit is best.

Early stopping needs no fit of its own: it keeps the parameters of the look with the lowest held-out loss. A test file that it
has not seen says what these are worth.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from kljax.config import Config
from kljax.disk import whole_file
from kljax.errors import UserError
from kljax.fitting.fit import ensure_base, read_result
from kljax.progress import console
from kljax.runs import directory
from kljax.runs.setup import prepare

FIGURES = ("loss", "accuracy", "f1")
"""Of training and held-out rows at each look, and of the test rows for the parameters that were kept."""

HELD_OUT = ("held-out loss", "accuracy", "F1")


@dataclass(frozen=True)
class Curve:
    """One fit: figures [looks] of training rows and held-out ones, without dropout and noise, and those of the test rows."""

    variant: str
    seed: int
    steps: np.ndarray
    train: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    test: dict[str, float]  # of the best look; empty without test rows
    best: int  # the look that early stopping keeps: the first with the lowest held-out loss


def run(variant: str, config: Config) -> Curve:
    """Fit, or take a fit that is there, and read its looks. UserError where none was better than the model before any step."""
    path = ensure_base(prepare(config))
    result, lines = read_result(path), directory.read_lines(path / "metrics.jsonl")
    steps = [line["step"] + 1 for line in lines]
    if result["best_step"] not in steps:
        raise UserError(
            f"{path}: no look has a lower held-out loss than the model before its first step, which is what early stopping "
            "keeps, and whose figures are in no curve; expected a smaller pretrain.optimizer.learning_rate, or looks more "
            "often (pretrain.eval_every)."
        )
    return Curve(
        variant=variant,
        seed=config.pretrain.seed,
        steps=np.array(steps),
        best=steps.index(result["best_step"]),
        train=_figures(lines, "fit/train_rows_"),
        held_out=_figures(lines, "fit/held_out_"),
        test={name: result[f"test/{name}"] for name in FIGURES if f"test/{name}" in result},
    )


def _figures(lines: Sequence[dict], prefix: str) -> dict[str, np.ndarray]:
    return {name: np.array([line[prefix + name] for line in lines], np.float64) for name in FIGURES}


def variants_of(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The fits of each variant, a seed each."""
    return {name: [c for c in curves if c.variant == name] for name in dict.fromkeys(c.variant for c in curves)}


def write_csv(curves: Sequence[Curve], file: Path) -> None:
    """A row a look of a fit; `kept` is 1 at the one that early stopping keeps."""
    with whole_file(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        parts = [f"{part}_{name}" for part in ("train", "held_out") for name in FIGURES]
        writer.writerow(["variant", "seed", "step", "kept", *parts])
        for curve in curves:
            for i, step in enumerate(curve.steps):
                figures = [f"{of[name][i]:.6g}" for of in (curve.train, curve.held_out) for name in FIGURES]
                writer.writerow([curve.variant, curve.seed, step, int(i == curve.best), *figures])


def show(curves: Sequence[Curve]) -> None:
    """Means over seeds ± their standard deviation: at the last step, at the best look, and of that on the test rows."""
    said = f"means of {len({curve.seed for curve in curves})} seeds ± their standard deviation"
    last = _table(f"Without early stopping, at the last step: {said}", ["train loss", *HELD_OUT])
    best = _table("With it, at the look with the lowest held-out loss", ["step", *HELD_OUT, "test accuracy", "test F1"])
    for name, mine in variants_of(curves).items():
        last.add_row(name, *_spread([[c.train["loss"][-1], *(c.held_out[figure][-1] for figure in FIGURES)] for c in mine]))
        kept = [[*(c.held_out[figure][c.best] for figure in FIGURES), c.test.get("accuracy"), c.test.get("f1")] for c in mine]
        best.add_row(name, f"{np.mean([c.steps[c.best] for c in mine]):.0f}", *_spread(kept))
    console.print(last)
    console.print(best)


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _spread(rows: Sequence[Sequence[float | None]]) -> list[str]:
    """Mean ± standard deviation of each column; nothing where there are no figures."""
    columns = list(zip(*rows, strict=True))
    return [
        "–" if None in column else f"{np.mean(column):.3f} ± {np.std(column, ddof=min(1, len(column) - 1)):.3f}"  # pyright: ignore
        for column in columns
    ]
