"""Training and held-out loss of each variant, a panel each, with the look that early stopping keeps."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from experiments.studies.overfitting.study import Curve, variants_of
from kljax.disk import whole_file

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

TRAIN, HELD_OUT, STOP = "C0", "C3", "0.35"


def plot(curves: Sequence[Curve], file: Path) -> None:
    """Mean over the seeds, the band from the smallest to the largest; above losses, below accuracies."""
    variants = variants_of(curves)
    figure, axes = plt.subplots(
        2, len(variants), figsize=(2.3 * len(variants) + 0.6, 4.6), dpi=150, sharex=True, sharey="row", layout="constrained"
    )
    for column, (name, mine) in zip(axes.T.reshape(len(variants), 2), variants.items(), strict=True):
        for panel, figure_name in zip(column, ("loss", "accuracy"), strict=True):
            _band(panel, mine, figure_name)
        column[0].set_title(name, fontsize=10)
        column[1].set_xlabel("updates", fontsize=9)
    axes.reshape(2, -1)[0, 0].set_ylabel("cross-entropy, nats a row", fontsize=9)
    axes.reshape(2, -1)[1, 0].set_ylabel("accuracy", fontsize=9)
    handles, labels = axes.reshape(2, -1)[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def _band(panel: Axes, mine: Sequence[Curve], name: str) -> None:
    steps = mine[0].steps
    for label, color, of in (("training rows", TRAIN, "train"), ("held-out rows", HELD_OUT, "held_out")):
        values = np.array([getattr(curve, of)[name] for curve in mine])
        panel.plot(steps, values.mean(axis=0), color=color, lw=1.5, label=label)
        panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, lw=0)
    for i, curve in enumerate(mine):
        said = "kept by early stopping (each seed)" if i == 0 else None
        panel.plot(steps[curve.best], curve.held_out[name][curve.best], "o", ms=4, mfc="none", color=STOP, label=said)
    panel.grid(alpha=0.2)
    panel.tick_params(labelsize=8)
