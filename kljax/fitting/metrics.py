"""Figures of what a classifier's, a regression's or a preference model's outputs on held-out rows are worth.

Figures of classes come from scikit-learn (in the extra `text`), calibration and agreement from the formulas here. A figure that
is not defined, such as the correlation with a constant, is nan. SciPy is imported where it is needed: it is slow to import,
and RLHF needs none of this.
"""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kljax.errors import UserError

Figures = dict[str, Any]
"""Name → a number, or a (nested) list of numbers."""

BINS = 10  # of equal width, for the calibration error


def require_sklearn() -> Any:
    """scikit-learn's metrics, or a `UserError` that says how to install it."""
    try:
        from sklearn import metrics
    except ImportError:
        raise UserError(
            "pretrain/objective=classification: its figures need the package scikit-learn; install it with: "
            "pip install scikit-learn."
        ) from None
    return metrics


def classification(logits: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"]) -> Figures:
    """Of the class that is most probable; `loss` is the cross-entropy, in nats a row.

    Two classes: precision, recall and F1 of the second. More: their means over the classes. `macro_f1` is that mean always, and
    those of each class are in lists. The confusion matrix has true classes as rows and predicted ones as columns.
    """
    from scipy import special

    sklearn = require_sklearn()
    logp = special.log_softmax(logits.astype(np.float64), axis=1)
    classes = np.arange(logits.shape[1])
    predicted = logp.argmax(axis=1)
    options = {"labels": classes, "zero_division": 0.0}
    parts = sklearn.precision_recall_fscore_support(labels, predicted, average=None, **options)[:3]
    names = ("precision", "recall", "f1")
    two = len(classes) == 2
    summary = {name: float(part[1] if two else part.mean()) for name, part in zip(names, parts, strict=True)}
    each = {f"{name}_of_each": part.tolist() for name, part in zip(names, parts, strict=True)}
    known = np.eye(len(classes))[labels]
    brier = ((np.exp(logp) - known) ** 2).sum(axis=1).mean()
    return {
        "loss": float(-logp[np.arange(len(labels)), labels].mean()),
        "accuracy": float(sklearn.accuracy_score(labels, predicted)),
        **summary,
        "macro_f1": float(parts[2].mean()),
        "calibration_error": calibration_error(np.exp(logp.max(axis=1)), (predicted == labels).astype(np.float64)),
        "brier": float(brier / 2 if two else brier),
        **each,
        "confusion_matrix": sklearn.confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def regression(predicted: Float[np.ndarray, "rows"], ratings: Float[np.ndarray, "rows"]) -> Figures:
    """Root mean squared error in the ratings' units, two correlations, and agreement on which of two rows is rated higher."""
    from scipy import stats

    predicted = predicted.astype(np.float64)
    return {
        "rmse": float(np.sqrt(np.mean((predicted - ratings) ** 2))),
        "pearson": _correlation(stats.pearsonr, predicted, ratings),
        "spearman": _correlation(stats.spearmanr, predicted, ratings),
        "agreement": agreement(predicted, ratings),
    }


def pairs(scores: Float[np.ndarray, "pairs 2"]) -> Figures:
    """Of the score of the chosen text and that of the rejected one.

    `loss` is Bradley–Terry's −log σ(difference), nats a pair; `agreement` the share of pairs whose chosen text has the higher
    score (a tie is half a pair); `calibration_error` and `brier` are those of σ(difference) as the chance that it has.
    """
    from scipy import special

    difference = scores[:, 0].astype(np.float64) - scores[:, 1]
    right = np.where(difference == 0, 0.5, difference > 0)
    return {
        "loss": float(np.logaddexp(0, -difference).mean()),
        "agreement": float(right.mean()),
        "calibration_error": calibration_error(special.expit(np.abs(difference)), right),
        "brier": float((special.expit(-difference) ** 2).mean()),
    }


def calibration_error(confidence: Float[np.ndarray, "rows"], right: Float[np.ndarray, "rows"]) -> float:
    """Expected calibration error: Σ share of bin · |how often right − mean confidence|, 10 bins of equal width (Guo 2017)."""
    gap = (right - confidence) @ bins_of(confidence)
    return float(np.abs(gap).sum() / len(confidence))


def bins_of(confidence: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "rows bins"]:
    """1 in the bin that each confidence is in, which holds its upper bound."""
    return np.eye(BINS)[np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)]


def agreement(predicted: Float[np.ndarray, "rows"], ratings: Float[np.ndarray, "rows"]) -> float:
    """Of all pairs of rows with different ratings, the share that `predicted` orders in the same way; its ties are halves."""
    agreed, total = 0.0, 0
    for i in range(1, len(ratings)):  # a row at a time: n² numbers are never held
        order = np.sign(ratings[i] - ratings[:i])
        agreed += ((np.sign(predicted[i] - predicted[:i]) * order + 1) / 2)[order != 0].sum()
        total += int((order != 0).sum())
    return float(agreed / total) if total else float("nan")


def _correlation(measure: Any, predicted: Float[np.ndarray, "rows"], ratings: Float[np.ndarray, "rows"]) -> float:
    if len(ratings) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a constant: nan says it
        return float(measure(predicted, ratings).statistic)
