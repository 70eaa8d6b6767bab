"""Figures of classes, ratings and pairs against examples that can be counted by hand."""

import builtins
import itertools
import math

import numpy as np
import pytest

from kljax.errors import UserError
from kljax.fitting import metrics


def logits_of(probabilities):
    """Logits that are off by a constant, as a model's are."""
    return np.log(np.array(probabilities, np.float64)).astype(np.float32) + np.float32(3.0)


def test_two_classes_are_counted_by_hand():
    """True 1 1 1 0 0, predicted 1 1 0 1 0: of the second class 2 right, 1 false, 1 missed."""
    chance = [0.9, 0.7, 0.4, 0.6, 0.2]  # of class 1
    figures = metrics.classification(logits_of([[1 - p, p] for p in chance]), np.array([1, 1, 1, 0, 0]))
    expected = {
        "accuracy": 3 / 5,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "loss": -sum(map(math.log, [0.9, 0.7, 0.4, 0.4, 0.8])) / 5,
        "brier": (0.1**2 + 0.3**2 + 0.6**2 + 0.6**2 + 0.2**2) / 5,
        # bins (0.5, 0.6]: 0.6 wrong, 0.6 wrong; (0.6, 0.7]: 0.7 right; (0.7, 0.8]: 0.8 right; (0.8, 0.9]: 0.9 right
        "calibration_error": (1.2 + 0.3 + 0.2 + 0.1) / 5,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert figures["confusion_matrix"] == [[1, 1], [1, 2]]
    assert figures["f1_of_each"] == pytest.approx([1 / 2, 2 / 3])
    assert figures["macro_f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_three_classes_have_means_and_figures_of_each():
    """True 0 0 1 1 2, predicted 0 1 1 1 0: class 2 is never predicted."""
    peaked = {0: [0.8, 0.1, 0.1], 1: [0.1, 0.8, 0.1]}
    figures = metrics.classification(logits_of([peaked[c] for c in (0, 1, 1, 1, 0)]), np.array([0, 0, 1, 1, 2]))
    assert figures["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert figures["precision_of_each"] == pytest.approx([1 / 2, 2 / 3, 0])
    assert figures["recall_of_each"] == pytest.approx([1 / 2, 1, 0])
    assert figures["f1_of_each"] == pytest.approx([1 / 2, 4 / 5, 0])
    assert figures["f1"] == figures["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert figures["accuracy"] == pytest.approx(3 / 5)
    right, wrong, other = 0.2**2 + 2 * 0.1**2, 0.8**2 + 0.9**2 + 0.1**2, 0.8**2 + 0.1**2 + 0.9**2
    assert figures["brier"] == pytest.approx((3 * right + wrong + other) / 5, rel=1e-5)
    assert figures["calibration_error"] == pytest.approx(abs(3 / 5 - 0.8), rel=1e-5)


def test_calibration_error_of_a_forecast_that_keeps_its_word_is_zero():
    confidence, right = np.repeat([0.25, 0.75], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0.0])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0)
    assert metrics.calibration_error(np.ones(4), np.zeros(4)) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_equals_a_loop_over_bins(seed):
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(200), (rng.random(200) < 0.6).astype(float)
    expected = 0.0
    for i in range(10):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if i / 10 < c <= (i + 1) / 10]
        if inside:
            mean_confidence, accuracy = (sum(values) / len(inside) for values in zip(*inside, strict=True))
            expected += len(inside) / 200 * abs(accuracy - mean_confidence)
    assert metrics.calibration_error(confidence, right) == pytest.approx(expected)


def test_ratings_are_counted_by_hand():
    predicted, ratings = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 3.0, 3.0, 5.0])
    figures = metrics.regression(predicted, ratings)
    # pairs with different ratings: 01, 02, 03, 13 in the same order; 23 not
    assert figures["agreement"] == pytest.approx(4 / 5)
    assert figures["rmse"] == pytest.approx(math.sqrt((0 + 1 + 1 + 4) / 4))
    deviations = predicted - predicted.mean(), ratings - ratings.mean()
    pearson = (deviations[0] * deviations[1]).sum() / math.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    assert figures["pearson"] == pytest.approx(pearson)
    ranks = np.array([1, 2, 4, 3]), np.array([1, 2.5, 2.5, 4])
    assert figures["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_agreement_equals_a_loop_over_pairs(seed):
    rng = np.random.default_rng(seed)
    predicted, ratings = rng.integers(0, 5, 20).astype(float), rng.integers(0, 4, 20).astype(float)
    agreed, total = 0.0, 0
    for a, b in itertools.combinations(range(20), 2):
        if ratings[a] != ratings[b]:
            total += 1
            same = (predicted[a] - predicted[b]) * (ratings[a] - ratings[b])
            agreed += 0.5 if same == 0 else same > 0
    assert metrics.agreement(predicted, ratings) == pytest.approx(agreed / total)


def test_what_is_not_defined_is_nan_without_a_warning():
    constant = metrics.regression(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert math.isnan(constant["pearson"]) and math.isnan(constant["spearman"])
    assert constant["agreement"] == 0.5
    assert math.isnan(metrics.regression(np.ones(1), np.ones(1))["agreement"])


def test_pairs_are_counted_by_hand():
    """Differences ln 4, −ln 4, 0, ln 9: chances 0.8, 0.2, 0.5, 0.9 that the chosen text is better."""
    scores = np.array([[math.log(4), 0], [1, 1 + math.log(4)], [2, 2], [math.log(9), 0]])
    figures = metrics.pairs(scores)
    assert figures["agreement"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert figures["loss"] == pytest.approx(-sum(map(math.log, [0.8, 0.2, 0.5, 0.9])) / 4)
    assert figures["brier"] == pytest.approx((0.2**2 + 0.8**2 + 0.5**2 + 0.1**2) / 4)
    # 0.8 right and 0.8 wrong in one bin, 0.5 half right, 0.9 right
    assert figures["calibration_error"] == pytest.approx((abs(1 - 1.6) + 0 + 0.1) / 4)


def test_scores_that_are_far_apart_overflow_nothing():
    figures = metrics.pairs(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32))
    assert figures["loss"] == pytest.approx(1e4)
    assert all(math.isfinite(value) for value in figures.values())


def test_a_missing_scikit_learn_is_answered_with_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install scikit-learn"):
        metrics.require_sklearn()
