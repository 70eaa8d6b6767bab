"""Figures of judgments by hand, by libraries and by simulated judges, whose bias for a place is found and undone."""

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from kljax.analysis import agreement
from kljax.analysis.agreement import Consistency, Interval
from kljax.errors import UserError

NOMINAL, ORDINAL = (0, 1, 2), (1, 2, 3, 4, 5)


@given(st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_wilson_is_scipys(count, data):
    wins = data.draw(st.integers(0, count))
    theirs = stats.binomtest(wins, count).proportion_ci(0.95, method="wilson")
    found = agreement.wilson(wins, count)
    assert found.value == wins / count
    np.testing.assert_allclose((found.low, found.high), (theirs.low, theirs.high), atol=1e-12)


def test_wilson_takes_halves_and_knows_nothing_of_nothing():
    halves = agreement.wilson(2.5, 5)
    assert halves.value == 0.5 and halves.high - 0.5 == pytest.approx(0.5 - halves.low)
    assert math.isnan(agreement.wilson(0, 0).value)


@pytest.mark.parametrize("half_width", [0.02, 0.05, 0.1, 0.15, 0.3])
def test_pairs_needed_are_the_fewest_that_suffice(half_width):
    count = agreement.pairs_needed(half_width)
    reach = [agreement.wilson(n / 2, n).high - 0.5 for n in (count, count - 1)]
    assert reach[0] <= half_width < reach[1]


def test_the_documents_say_how_many_pairs_are_needed():
    text = (Path(__file__).parents[2] / "docs" / "judging.md").read_text("utf-8")
    said = re.findall(r"^\| ±(\d+) points \| (\d+) \|$", text, re.MULTILINE)
    assert len(said) >= 5
    assert {int(points): int(pairs) for points, pairs in said} == {
        int(points): agreement.pairs_needed(int(points) / 100) for points, _ in said
    }


def test_bootstrap_has_the_exact_quantiles_of_a_case_that_can_be_listed():
    """Of two groups a draw's mean is 0, ½ or 1 with probability ¼, ½, ¼; of five, 0/5 … 5/5 are binomial."""
    assert agreement.bootstrap(agreement.ratio, np.array([0.0, 1.0]), np.ones(2), 0) == (0.0, 1.0)
    low, high = agreement.bootstrap(agreement.ratio, np.array([0.0, 0, 0, 0, 1]), np.ones(5), 0, resamples=20_000)
    exact = [float(stats.binom(5, 0.2).ppf(q)) / 5 for q in (0.025, 0.975)]
    assert [low, high] == exact


def test_bootstrap_draws_prompts_whole():
    """Ten equal scores of one prompt are one draw: the interval is that of the prompts, of which there are two."""
    scores, groups = np.array([1.0] * 10 + [0.0] * 10), np.repeat([0, 1], 10)
    assert agreement.mean_over_prompts(scores, groups, 0) == Interval(0.5, 0.0, 1.0)
    alone = agreement.mean_over_prompts(scores, np.arange(20), 0)
    assert 0.2 < alone.low < 0.4 < 0.6 < alone.high < 0.8
    unequal = agreement.mean_over_prompts(np.array([1.0, 1, 1, 0]), np.array([0, 0, 0, 1]), 0)
    assert unequal.value == 0.75  # over pairs, not over prompts
    one = agreement.mean_over_prompts(np.array([1.0, 0]), np.array([0, 0]), 0)
    assert one.value == 0.5 and math.isnan(one.low)


def test_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(3)
    hits = sum(
        found.low <= 0.7 <= found.high
        for seed in range(150)
        for found in [agreement.mean_over_prompts((random.random(80) < 0.7).astype(float), np.arange(80), seed)]
    )
    assert 0.88 < hits / 150 < 0.99


def simulated(p_a, to_first, count, seed):
    """Scores of a judge who knows the better of two with probability p_a, and with probability `to_first` takes the first."""
    random = np.random.default_rng(seed)
    a_first = random.permutation(np.arange(count) < count // 2).astype(float)
    a_wins = random.random(count) < p_a
    blind = random.random(count) < to_first
    return np.where(blind, a_first, a_wins.astype(float)), a_first


def firsts(scores, a_first):
    return int((scores == a_first).sum()), int((scores != a_first).sum())


def test_a_judge_who_always_says_the_first_is_found_and_says_nothing_of_a():
    scores, a_first = simulated(0.7, 1.0, 60, 0)
    rate, bias = agreement.corrected_for_side(scores, a_first, np.arange(60), 0)
    assert rate == Interval(0.5, 0.5, 0.5)
    assert bias == Interval(0.5, 0.5, 0.5)
    share, p = agreement.share_of_first(*firsts(scores, a_first))
    assert share.value == 1.0 and p == pytest.approx(2 * 0.5**60)


def test_a_judge_who_is_right_with_70_percent_and_leans_to_the_first_is_found_and_corrected():
    """A third of the time the first: w₁ = ⅔·0.7 + ⅓, w₂ = ⅔·0.7, so that rate and bias are ⅔·0.7 + ⅙ and ⅙."""
    found = [agreement.corrected_for_side(*simulated(0.7, 1 / 3, 400, seed), np.arange(400), seed) for seed in range(12)]
    rates, biases = zip(*found, strict=True)
    expected = 2 / 3 * 0.7 + 1 / 6
    assert np.mean([rate.value for rate in rates]) == pytest.approx(expected, abs=0.02)
    assert np.mean([bias.value for bias in biases]) == pytest.approx(1 / 6, abs=0.02)
    assert sum(rate.low <= expected <= rate.high for rate in rates) >= 10
    assert all(bias.low > 0 for bias in biases)
    assert agreement.share_of_first(*firsts(*simulated(0.7, 1 / 3, 400, 0)))[1] < 1e-3


def test_the_correction_needs_no_equal_number_of_each_place():
    """Of nine pairs with a first and one with a second the plain win rate of who always says the first is 0.9."""
    a_first = np.array([1.0] * 9 + [0.0])
    rate, bias = agreement.corrected_for_side(a_first, a_first, np.arange(10), 0)
    assert (a_first.mean(), rate.value, bias.value) == (0.9, 0.5, 0.5)
    unknown = agreement.corrected_for_side(np.ones(3), np.ones(3), np.arange(3), 0)
    assert all(math.isnan(one.value) for one in unknown)


def test_the_correction_draws_prompts_whole():
    """Of 25 prompts four pairs each, all judged alike: their interval is that of 25 pairs, not of 100."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        scores, groups = np.repeat(random.random(25) < 0.6, 4).astype(float), np.repeat(np.arange(25), 4)
        rate, _ = agreement.corrected_for_side(scores, random.permutation(np.arange(100) % 2).astype(float), groups, seed)
        held += rate.low <= 0.6 <= rate.high
    assert held >= 88  # of 95 that are expected; with pairs drawn one by one it holds 70


def test_an_unbiased_judge_is_seldom_called_biased():
    found = [agreement.share_of_first(*firsts(*simulated(0.7, 0.0, 100, seed)))[1] < 0.05 for seed in range(200)]
    assert sum(found) <= 0.05 * 200 + 8


@pytest.mark.parametrize(("first", "second"), [(0, 5), (3, 3), (8, 2), (0, 1)])
def test_the_test_of_the_first_place_is_the_binomials_by_fractions(first, second):
    count = first + second
    ways = [Fraction(math.comb(count, k), 2**count) for k in range(count + 1)]
    exact = sum(way for way in ways if way <= ways[first])
    assert agreement.share_of_first(first, second)[1] == pytest.approx(float(exact))
    assert math.isnan(agreement.share_of_first(0, 0)[1])


def kappa_by_hand(one, other, labels, weight):
    table = np.zeros((len(labels), len(labels)))
    for x, y in zip(one, other, strict=True):
        table[labels.index(x), labels.index(y)] += 1 / len(one)
    chance = np.outer(table.sum(1), table.sum(0))
    w = np.array([[weight(i, j) for j in range(len(labels))] for i in range(len(labels))])
    return 1 - (w * table).sum() / (w * chance).sum()


@given(st.lists(st.tuples(st.sampled_from(ORDINAL), st.sampled_from(ORDINAL)), min_size=2, max_size=30))
@settings(max_examples=40, deadline=None)
def test_cohens_kappa_is_the_formulas(pairs):
    one, other = map(list, zip(*pairs, strict=True))
    if len({*one, *other}) < 2:
        assert math.isnan(agreement.cohen(one, other, ORDINAL, "ordinal"))
        return
    by_hand = kappa_by_hand(one, other, ORDINAL, lambda i, j: (i - j) ** 2)
    assert agreement.cohen(one, other, ORDINAL, "ordinal") == pytest.approx(by_hand, abs=1e-9)
    plain = kappa_by_hand(one, other, ORDINAL, lambda i, j: float(i != j))
    assert agreement.cohen(one, other, ORDINAL, "nominal") == pytest.approx(plain, abs=1e-9)
    assert plain == pytest.approx(cohen_kappa_score(one, other), abs=1e-9)


def alpha_by_hand(table, labels, distance):
    """1 − D_o/D_e by coincidences, one pair of judgments after another (Krippendorff 2011)."""
    units = [[x for x in column if not math.isnan(x)] for column in np.asarray(table).T]
    units = [unit for unit in units if len(unit) > 1]
    counts = {label: sum(unit.count(label) for unit in units) for label in labels}
    n = sum(counts.values())
    observed = sum(
        distance(x, y, counts) / (len(unit) - 1)
        for unit in units
        for i, x in enumerate(unit)
        for j, y in enumerate(unit)
        if i != j
    )
    expected = sum(counts[x] * (counts[y] - (x == y)) * distance(x, y, counts) for x in labels for y in labels) / (n - 1)
    return 1 - observed / expected


def nominal(x, y, counts):
    return float(x != y)


def ordinal(x, y, counts):
    low, high = sorted((x, y))
    between = sum(count for label, count in counts.items() if low <= label <= high)
    return (between - (counts[x] + counts[y]) / 2) ** 2


@pytest.mark.parametrize(("level", "labels", "distance"), [("nominal", NOMINAL, nominal), ("ordinal", ORDINAL, ordinal)])
@pytest.mark.parametrize("seed", range(6))
def test_krippendorffs_alpha_is_the_formulas(level, labels, distance, seed):
    random = np.random.default_rng(seed)
    table = random.choice(labels, size=(3, 14)).astype(float)
    table[random.random(table.shape) < 0.25] = np.nan
    table[:, 0] = labels[0]
    by_hand = alpha_by_hand(table, labels, distance)
    assert agreement.krippendorff_alpha(table, labels, level) == pytest.approx(by_hand, abs=1e-9)


def test_agreement_that_is_not_defined_is_nan_and_perfect_agreement_is_one():
    same = np.array([[0.0, 1, 2, 0], [0, 1, 2, 0]])
    assert agreement.krippendorff_alpha(same, NOMINAL, "nominal") == agreement.cohen([0, 1], [0, 1], NOMINAL, "nominal") == 1
    for table in (np.zeros((2, 4)), np.array([[1.0, np.nan], [np.nan, 2.0]]), np.array([[1.0, 2.0]])):
        assert math.isnan(agreement.krippendorff_alpha(table, NOMINAL, "nominal"))
    assert math.isnan(agreement.cohen([], [], NOMINAL, "nominal"))


def test_a_library_that_lacks_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "krippendorff", None)
    with pytest.raises(UserError, match="needs the package krippendorff; install it with: pip install krippendorff"):
        agreement.krippendorff_alpha(np.array([[0.0, 1.0], [1.0, 0.0]]), NOMINAL, "nominal")


def test_concordance_counts_agreement_and_each_kind_of_tie():
    scores, differences = np.array([1, 0.75, 0, 0, 0.5, 0.5, 1]), np.array([2.0, -1, -3, -0.1, 1, 0, 0])
    found = agreement.concordance(scores, differences)
    assert (found.share, found.decided) == (agreement.wilson(3, 4), 4)
    assert (found.judges_tie, found.metric_ties, found.both_tie) == (1, 1, 1)
    assert found.with_ties == pytest.approx((3 + 1 + 0.5 + 0.5) / 7)
    assert math.isnan(agreement.concordance(np.zeros(0), np.zeros(0)).with_ties)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipys(seed):
    random = np.random.default_rng(seed)
    one, other = random.integers(1, 6, 40).astype(float), random.normal(size=40)
    found = agreement.rank_correlation(one, other, np.arange(40), 0)
    assert found.value == pytest.approx(stats.spearmanr(one, other).statistic)
    assert found.low < found.value < found.high
    assert math.isnan(agreement.rank_correlation(np.ones(40), other, np.arange(40), 0).value)


def test_consistency_tells_a_changed_mind_from_a_place():
    assert agreement.consistency([(1.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (1.0, 0.5)]) == Consistency(5, 2, 2)
