"""Intervals against resamples that are all enumerated, and against the binomial distribution."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binom

from kljax.errors import UserError
from kljax.tasks.bootstrap import Interval, bootstrap, bootstrap_means, pass_at_k

SUMS = np.array([[3.0, 2.0], [1.0, 1.0], [0.0, 3.0], [5.0, 2.0], [2.0, 2.0]])  # of five groups
STATISTICS = np.array([[1.0, 1.0], [2.0, 1.0], *SUMS[1:]])  # the first of two samples
GROUPS = np.array([7, 7, 1, 4, 9, 2])


def ratio(sums):
    return {"ratio": float(sums[0] / sums[1]) if sums[1] else float("nan")}


def enumerated(sums, value):
    """The figure of each of the n^n resamples of n groups."""
    return np.array([value(sums[list(chosen)].sum(axis=0)) for chosen in product(range(len(sums)), repeat=len(sums))])


def test_all_resamples_of_five_groups():
    exact = enumerated(SUMS, lambda sums: ratio(sums)["ratio"])
    interval = bootstrap(STATISTICS, GROUPS, value=ratio, resamples=40_000)["ratio"]
    assert interval.value == SUMS[:, 0].sum() / SUMS[:, 1].sum()
    assert interval.se == pytest.approx(exact.std(), rel=0.02)
    # The quantiles of 40,000 draws lie between those of the exact distribution at 2.5 ± 0.3 %.
    for found, at in ((interval.low, 0.025), (interval.high, 0.975)):
        low, high = np.quantile(exact, [at - 0.003, at + 0.003])
        assert low <= found <= high


def test_a_rate_is_binomial():
    """Of 20 prompts with a rate of 0.3 the resampled rates are those of the binomial distribution."""
    values = np.repeat([1.0, 0.0], [6, 14])
    interval = bootstrap_means({"rate": values}, np.arange(20), resamples=40_000)["rate"]
    assert interval.value == 0.3
    assert interval.se == pytest.approx(np.sqrt(0.3 * 0.7 / 20), rel=0.02)
    assert (interval.low * 20, interval.high * 20) == tuple(binom.ppf([0.025, 0.975], 20, 0.3))


def test_an_interval_of_60_groups_covers_nearly_as_often_as_it_says():
    """0.934 of 5,000 times, where a 95 % interval of Student's covered 0.948; here within three standard errors of that."""
    random, covers = np.random.default_rng(2), []
    for seed in range(800):
        one = bootstrap_means({"x": random.normal(size=60)}, np.arange(60), resamples=400, seed=seed)["x"]
        covers.append(one.low < 0 < one.high)
    assert np.mean(covers) == pytest.approx(0.934, abs=3 * np.sqrt(0.934 * 0.066 / 800))


def test_samples_of_one_prompt_are_one():
    """Four copies of each sample say nothing more."""
    random = np.random.default_rng(1)
    values = random.normal(size=30)
    once = bootstrap_means({"x": values}, np.arange(30))["x"]
    copies = bootstrap_means({"x": np.tile(values, 4)}, np.tile(np.arange(30), 4))["x"]
    apart = bootstrap_means({"x": np.tile(values, 4)}, np.arange(120))["x"]
    np.testing.assert_allclose(list(vars(once).values()), list(vars(copies).values()), rtol=1e-9)
    assert apart.se == pytest.approx(once.se / 2, rel=0.15)


def test_means_are_ratios_over_what_applies():
    values = np.array([1.0, np.nan, 3.0, 2.0, np.nan, 0.0])
    found = bootstrap_means({"some": values, "all": np.nan_to_num(values)}, GROUPS, resamples=500, seed=3)
    statistics = np.stack([np.nan_to_num(values), ~np.isnan(values)], axis=1)
    assert found["some"] == bootstrap(statistics, GROUPS, value=ratio, resamples=500, seed=3)["ratio"]
    assert found["some"].value == 1.5
    assert found["all"].value == 1.0


def test_the_same_seed_is_the_same_interval_and_blocks_do_not_matter(monkeypatch):
    whole = bootstrap(STATISTICS, GROUPS, value=ratio, seed=5)
    monkeypatch.setattr("kljax.tasks.bootstrap.DRAWN_AT_ONCE", 35)
    assert bootstrap(STATISTICS, GROUPS, value=ratio, seed=5) == whole
    assert bootstrap(STATISTICS, GROUPS, value=ratio, seed=6) != whole


def test_the_order_of_samples_and_the_names_of_groups_do_not_matter():
    order = [3, 0, 5, 1, 4, 2]
    # Groups are drawn in the order of their numbers: the same ones, whatever stands first.
    assert bootstrap(STATISTICS[order], GROUPS[order], value=ratio) == bootstrap(STATISTICS, GROUPS * 10, value=ratio)


def is_unknown(interval: Interval) -> bool:
    return bool(np.isnan([interval.se, interval.low, interval.high]).all())


def test_one_group_has_no_interval():
    found = bootstrap(STATISTICS, np.zeros(6, int), value=ratio)["ratio"]
    assert found.value == SUMS[:, 0].sum() / SUMS[:, 1].sum()
    assert is_unknown(found)
    mean = bootstrap_means({"x": np.array([1.0, 2.0])}, np.zeros(2, int))["x"]
    assert mean.value == 1.5
    assert is_unknown(mean)


def test_no_sample_has_no_figure():
    mean = bootstrap_means({"x": np.zeros(0)}, np.zeros(0, int))["x"]
    assert np.isnan(mean.value)
    assert is_unknown(mean)
    assert bootstrap_means({}, np.zeros(0, int)) == {}


def test_a_metric_that_never_applies_is_unknown():
    mean = bootstrap_means({"x": np.full(4, np.nan)}, np.arange(4))["x"]
    assert np.isnan(mean.value)
    assert is_unknown(mean)


def test_figures_that_few_resamples_lack_have_the_interval_of_the_others():
    """With two of n groups having any count a resample has none with (1 − 2/n)^n: 0.01 of 5 where four have, 0.13 where two."""
    applies = np.array([1.0, 2.0, 4.0, 3.0, np.nan])
    rarely = bootstrap_means({"x": applies}, np.arange(5), resamples=4000)["x"]
    exact = enumerated(np.stack([np.nan_to_num(applies), ~np.isnan(applies)], axis=1), lambda sums: ratio(sums)["ratio"])
    assert rarely.se == pytest.approx(np.nanstd(exact), rel=0.05)
    often = bootstrap_means({"x": np.array([1.0, 2.0, np.nan, np.nan, np.nan])}, np.arange(5))["x"]
    assert often.value == 1.5
    assert is_unknown(often)


def test_a_constant_has_an_interval_of_no_width():
    assert bootstrap_means({"x": np.ones(5)}, np.arange(5))["x"] == Interval(1.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(k):
    successes = np.array([[i < right for i in range(5)] for right in range(6)])
    exact = [np.mean([any(row[list(chosen)]) for chosen in combinations(range(5), k)]) for row in successes]
    np.testing.assert_allclose(pass_at_k(successes, k), exact, atol=1e-12)


def test_pass_at_1_is_the_rate_and_of_many_samples_it_is_finite():
    successes = np.random.default_rng(0).random((3, 2000)) < 0.01
    np.testing.assert_allclose(pass_at_k(successes, 1), successes.mean(axis=1))
    assert (np.diff([pass_at_k(successes, k) for k in (1, 10, 100, 1000, 2000)], axis=0) >= 0).all()


@pytest.mark.parametrize("k", [0, 6])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(UserError, match=rf"^pass@{k}: expected k from 1 to the number of samples of a prompt, which is 5\.$"):
        pass_at_k(np.ones((2, 5), bool), k)
