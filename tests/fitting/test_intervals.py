"""Intervals of figures: a row of ones gives the figure itself, a row of counts that of the repeated rows, and they cover."""

import numpy as np
import pytest

from kljax.fitting import metrics, resampled
from kljax.fitting.intervals import DRAWS, intervals

ROWS = 60


def outputs_of(kind, rng, rows=ROWS):
    """Outputs and what is known, with ties, of the shapes that the figures read."""
    rounded = lambda *shape: rng.normal(size=shape).round(1).astype(np.float32)  # noqa: E731
    if kind.startswith("classes"):
        classes = int(kind[-1])
        return rounded(rows, classes), rng.integers(classes, size=rows)
    return (rounded(rows), rounded(rows).astype(np.float64)) if kind == "ratings" else (rounded(rows, 2), None)


FIGURES = {
    "classes 2": (metrics.classification, resampled.classification),
    "classes 4": (metrics.classification, resampled.classification),
    "ratings": (metrics.regression, resampled.regression),
    "pairs": (lambda outputs, _: metrics.pairs(outputs), lambda outputs, _, counts: resampled.pairs(outputs, counts)),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_a_draw_has_the_figures_of_its_rows(kind):
    """Each row as often as it was drawn, given to scikit-learn, SciPy and the loops that the figures themselves come from."""
    rng, (of_rows, of_counts) = np.random.default_rng(3), FIGURES[kind]
    outputs, known = outputs_of(kind, rng)
    counts = np.stack([np.ones(ROWS), *rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=4)]).astype(np.float64)
    found = of_counts(outputs, known, counts)
    for i, row in enumerate(counts):
        drawn = np.repeat(np.arange(ROWS), row.astype(int))
        expected = of_rows(outputs[drawn], None if known is None else known[drawn])
        expected.pop("confusion_matrix", None)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_figures_of_blocks_are_those_of_all_pairs(monkeypatch):
    rng = np.random.default_rng(4)
    outputs, known = outputs_of("ratings", rng)
    whole = resampled.regression(outputs, known, np.ones((1, ROWS)))["agreement"]
    monkeypatch.setattr(resampled, "BLOCK", 7 * ROWS)
    np.testing.assert_allclose(resampled.regression(outputs, known, np.ones((1, ROWS)))["agreement"], whole, rtol=1e-6)


def test_an_accuracys_interval_is_the_binomials():
    """Of the accuracy k/n of n rows the draws are Binomial(n, k/n)/n, whose quantiles SciPy knows."""
    from scipy import stats

    right = np.arange(200) < 150
    labels = np.zeros(200, int)
    logits = np.where(right[:, None], [1.0, 0.0], [0.0, 1.0]).astype(np.float32)
    found = intervals(resampled.classification, logits, labels)
    expected = stats.binom(200, 0.75).ppf([0.025, 0.975]) / 200
    np.testing.assert_allclose(found["accuracy"], expected, atol=0.011)
    assert np.shape(found["f1_of_each"]) == (2, 2)


def test_intervals_cover_and_are_the_same_again():
    """In 95 of 100 samples the mean of the source is inside; three binomial standard errors are 6.5."""
    rng = np.random.default_rng(5)
    mean = lambda outputs, rows, counts: {"mean": counts @ outputs / counts.sum(axis=1)}  # noqa: E731
    inside = 0
    for _ in range(100):
        outputs = rng.exponential(size=80)
        low, high = intervals(mean, outputs, None)["mean"]
        assert [low, high] == intervals(mean, outputs, None)["mean"]
        inside += low < 1 < high
    assert inside >= 95 - 7


def test_a_figure_that_is_not_defined_in_a_draw_has_no_interval():
    """Two rows: in half of the draws they are alike, and nothing correlates."""
    found = intervals(resampled.regression, np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert "pearson" not in found and "agreement" not in found
    assert len(found["rmse"]) == 2


def test_many_rows_are_drawn_in_parts(monkeypatch):
    sizes = []
    monkeypatch.setattr("kljax.fitting.intervals.AT_ONCE", 64 * 300)

    def mean(outputs, rows, counts):
        sizes.append(len(counts))
        np.testing.assert_array_equal(counts.sum(axis=1), 64)
        return {"mean": counts @ outputs / 64}

    intervals(mean, np.random.default_rng(0).normal(size=64), None)
    assert sizes == [300, 300, 300, 100] and sum(sizes) == DRAWS
