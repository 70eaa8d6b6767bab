"""The figures of kljax/fitting/metrics.py where rows are drawn again, for their intervals: all draws at once, from counts.

`counts` [draws, rows] says how often each row was drawn. A row of ones gives the figure itself.
"""

import numpy as np
from jaxtyping import Float, Int, Num

from kljax.fitting.intervals import Counts
from kljax.fitting.metrics import bins_of

Draws = dict[str, Float[np.ndarray, "draws *of_each"]]
BLOCK = 2**22  # pairs of rows that are held at once


def classification(logits: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"], counts: Counts) -> Draws:
    """As `metrics.classification` has them."""
    from scipy import special

    logp = special.log_softmax(logits.astype(np.float64), axis=1)
    each, classes = np.eye(logits.shape[1]), logits.shape[1]
    predicted = logp.argmax(axis=1)
    right, drawn = predicted == labels, counts.sum(axis=1)
    brier = ((np.exp(logp) - each[labels]) ** 2).sum(axis=1) / (2 if classes == 2 else 1)
    hits = counts @ (each[labels] * right[:, None])
    true, said = counts @ each[labels], counts @ each[predicted]
    of_each = {"precision": _share(hits, said), "recall": _share(hits, true), "f1": _share(2 * hits, said + true)}
    one = {name: values[:, 1] if classes == 2 else values.mean(axis=1) for name, values in of_each.items()}
    return {
        "loss": counts @ -logp[np.arange(len(labels)), labels] / drawn,
        "accuracy": counts @ right / drawn,
        **one,
        "macro_f1": of_each["f1"].mean(axis=1),
        "calibration_error": _calibration_error(np.exp(logp.max(axis=1)), right.astype(np.float64), counts),
        "brier": counts @ brier / drawn,
        **{f"{name}_of_each": values for name, values in of_each.items()},
    }


def regression(predicted: Float[np.ndarray, "rows"], ratings: Float[np.ndarray, "rows"], counts: Counts) -> Draws:
    """As `metrics.regression` has them."""
    return {
        "rmse": np.sqrt(counts @ ((predicted.astype(np.float64) - ratings) ** 2) / counts.sum(axis=1)),
        "pearson": _correlation(np.broadcast_to(predicted, counts.shape), np.broadcast_to(ratings, counts.shape), counts),
        "spearman": _correlation(_ranks(predicted, counts), _ranks(ratings, counts), counts),
        "agreement": _agreement(predicted, ratings, counts),
    }


def pairs(scores: Float[np.ndarray, "pairs 2"], counts: Counts) -> Draws:
    """As `metrics.pairs` has them."""
    from scipy import special

    difference, drawn = scores[:, 0].astype(np.float64) - scores[:, 1], counts.sum(axis=1)
    right = np.where(difference == 0, 0.5, difference > 0)
    return {
        "loss": counts @ np.logaddexp(0, -difference) / drawn,
        "agreement": counts @ right / drawn,
        "calibration_error": _calibration_error(special.expit(np.abs(difference)), right, counts),
        "brier": counts @ special.expit(-difference) ** 2 / drawn,
    }


def ratio(above: Num[np.ndarray, "rows"], below: Num[np.ndarray, "rows"], counts: Counts) -> Float[np.ndarray, "draws"]:
    """A sum over rows by another, such as nats by tokens; nan where the second is 0."""
    total = counts @ below.astype(np.float64)
    return np.where(total > 0, counts @ above.astype(np.float64) / np.where(total > 0, total, 1), np.nan)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part/whole, and 0 of nothing."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)


def _calibration_error(confidence: np.ndarray, right: np.ndarray, counts: Counts) -> Float[np.ndarray, "draws"]:
    gap = counts @ (bins_of(confidence) * (right - confidence)[:, None])
    return np.abs(gap).sum(axis=1) / counts.sum(axis=1)


def _correlation(a: Float[np.ndarray, "draws rows"], b: Float[np.ndarray, "draws rows"], counts: Counts) -> np.ndarray:
    """Pearson's, of values that may differ from draw to draw."""
    drawn = counts.sum(axis=1, keepdims=True)
    a, b = (x - (counts * x).sum(axis=1, keepdims=True) / drawn for x in (a.astype(np.float64), b.astype(np.float64)))
    both, of_a, of_b = ((counts * x).sum(axis=1) for x in (a * b, a * a, b * b))
    spread = np.sqrt(of_a * of_b)
    return np.where(spread > 0, both / np.where(spread > 0, spread, 1), np.nan)


def _ranks(values: Float[np.ndarray, "rows"], counts: Counts) -> Float[np.ndarray, "draws rows"]:
    """Each row's rank among those that were drawn; equal values share the mean of theirs."""
    group = np.unique(values, return_inverse=True)[1]
    by_value = np.zeros((group.max() + 1, len(counts)))
    np.add.at(by_value, group, counts.T)
    upto = by_value.cumsum(axis=0)
    return (upto - (by_value - 1) / 2)[group].T


def _agreement(predicted: np.ndarray, ratings: np.ndarray, counts: Counts) -> Float[np.ndarray, "draws"]:
    agreed, total, rows = np.zeros(len(counts)), np.zeros(len(counts)), len(ratings)
    size = max(1, BLOCK // rows)
    for start in range(0, rows, size):  # n² numbers are never held
        some = slice(start, start + size)
        order = np.sign(ratings[some, None] - ratings)
        same = np.where(order == 0, 0, (np.sign(predicted[some, None] - predicted) * order + 1) / 2)
        agreed += ((counts[:, some] @ same.astype(np.float32)) * counts).sum(axis=1)
        total += ((counts[:, some] @ (order != 0).astype(np.float32)) * counts).sum(axis=1)
    return np.where(total > 0, agreed / np.where(total > 0, total, 1), np.nan)
