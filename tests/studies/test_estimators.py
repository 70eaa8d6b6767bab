"""The study of estimators against sums over sequences written out in NumPy, and what it says of itself."""

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.studies.estimators import report, study
from experiments.studies.estimators.study import BEHAVIOUR_NOISE, DEPTH, OFF_POLICY_VALUES, SAMPLES, VALUES, VOCAB
from kljax.errors import UserError
from kljax.kl import oracle
from kljax.kl.penalties import PENALTIES

TREES, SPREADS = 2, (0.3, 2.0, 8.0)
UNBIASED = sorted({*VALUES, *OFF_POLICY_VALUES} - {"k2"})
TOKEN_LOCAL = ("exact_token", "k2_loss", "weighted_k3_loss")


@pytest.fixture(scope="module")
def results():
    return study.study(TREES, SPREADS)


def of_method(results, method):
    found = [r for r in results if r.method == method]
    assert len(found) == TREES * len(SPREADS)
    return found


def one(results, method, spread=2.0, tree=1):
    (found,) = (r for r in results if (r.method, r.spread, r.tree) == (method, spread, tree))
    return found


def problem_of(result):
    return oracle.random_tree(result.tree, VOCAB, DEPTH, spread=result.spread)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Sequence:
    """What the definitions need of one sequence: log-ratios, KLs of its states, gradients, weights, probabilities."""

    def __init__(self, problem, sampler, tokens):
        log_pi, log_rho, log_mu = (log_softmax(x) for x in (problem.logits, problem.ref_logits, sampler))
        rows = [problem.tree.states[tokens[:t]] for t in range(len(tokens))]
        self.u = np.array([log_pi[row, a] - log_rho[row, a] for row, a in zip(rows, tokens, strict=True)])
        self.kl = np.array([np.exp(log_pi[row]) @ (log_pi[row] - log_rho[row]) for row in rows])
        self.probability = math.prod(math.exp(log_mu[row, a]) for row, a in zip(rows, tokens, strict=True))
        each = np.array([math.exp(log_pi[row, a] - log_mu[row, a]) for row, a in zip(rows, tokens, strict=True)])
        self.upto = np.cumprod(each)
        self.before = np.concatenate([[1.0], self.upto[:-1]])
        self.score, self.kl_slope = np.zeros((2, len(rows), *log_pi.shape))  # ∇log pi(y_t) and ∇KL of state t
        for t, (row, a) in enumerate(zip(rows, tokens, strict=True)):
            pi = np.exp(log_pi[row])
            self.score[t, row] = np.eye(len(pi))[a] - pi
            self.kl_slope[t, row] = pi * (log_pi[row] - log_rho[row] - self.kl[t])


def sequences(result, off_policy=False):
    problem = problem_of(result)
    noise = np.random.default_rng([result.tree, 1]).normal(size=problem.logits.shape)
    sampler = problem.logits + (BEHAVIOUR_NOISE * noise if off_policy else 0.0)
    return [Sequence(problem, sampler, tokens) for tokens in problem.tree.sequences]


def mean_and_variance(cases, of):
    mean = sum(s.probability * of(s) for s in cases)
    return mean, sum(s.probability * np.sum((of(s) - mean) ** 2) for s in cases)


@pytest.mark.parametrize("method", UNBIASED)
def test_values_are_unbiased(results, method):
    assert max(abs(r.bias) for r in of_method(results, method)) < 1e-9


def test_k2_has_the_bias_of_its_definition(results):
    for r in of_method(results, "k2"):
        mean, variance = mean_and_variance(sequences(r), lambda s: np.sum(s.u**2) / 2)
        assert r.bias == pytest.approx(mean - r.exact_kl, abs=1e-10)
        assert r.sd**2 == pytest.approx(variance)
    assert max(abs(r.bias) / r.truth for r in of_method(results, "k2")) > 0.01


@pytest.mark.parametrize(
    ("method", "of", "off_policy"),
    [
        ("k1", lambda s: np.sum(s.u), False),
        ("k3", lambda s: np.sum(np.exp(-s.u) - 1 + s.u), False),
        ("rao_blackwell", lambda s: np.sum(s.kl), False),
        ("weighted_k1", lambda s: np.sum(s.upto * s.u), True),
        ("weighted_k3", lambda s: np.sum(s.upto * (np.exp(-s.u) - 1 + s.u)), True),
        ("weighted_rao_blackwell", lambda s: np.sum(s.before * s.kl), True),
    ],
)
def test_variance_of_a_value(results, method, of, off_policy):
    result = one(results, method)
    mean, variance = mean_and_variance(sequences(result, off_policy), of)
    assert mean == pytest.approx(result.exact_kl)
    assert result.sd**2 == pytest.approx(variance)


def test_the_best_lambda_is_the_best_of_a_grid(results):
    for r in of_method(results, "k_lambda"):
        cases = sequences(r)
        grid = [mean_and_variance(cases, lambda s, x=x: np.sum(s.u + x * np.expm1(-s.u)))[1] for x in np.linspace(0, 1, 201)]
        assert r.sd**2 <= min(grid) * (1 + 1e-9)
        assert r.sd**2 == pytest.approx(min(grid), rel=0.01)


def later(x):
    return np.cumsum(x[::-1])[::-1] - x


@pytest.mark.parametrize(
    ("method", "of"),
    [
        ("k1_reward", lambda s: np.tensordot(later(s.u) + s.u, s.score, 1)),
        ("exact", lambda s: np.tensordot(later(s.kl), s.score, 1) + s.kl_slope.sum(0)),
        ("exact_token", lambda s: s.kl_slope.sum(0)),
        ("k1_loss", lambda s: s.score.sum(0)),
        ("k2_loss", lambda s: np.tensordot(s.u, s.score, 1)),
        ("k3_loss", lambda s: np.tensordot(1 - np.exp(-s.u), s.score, 1)),
        ("k2_reward", lambda s: np.tensordot(later(s.u**2 / 2) + s.u**2 / 2, s.score, 1)),
    ],
)
def test_variance_and_error_of_a_gradient(results, method, of):
    result = one(results, method)
    mean, variance = mean_and_variance(sequences(result), of)
    truth = oracle.penalty(problem_of(result), "exact").gradient
    assert result.sd**2 == pytest.approx(variance)
    assert result.truth == pytest.approx(np.linalg.norm(truth))
    assert result.gradient_error == pytest.approx(np.linalg.norm(mean - truth) / np.linalg.norm(truth), abs=1e-9)


@pytest.mark.parametrize("method", PENALTIES)
def test_errors_are_those_of_the_gradients_that_the_oracle_states(results, method):
    for r in of_method(results, method):
        stated, truth = (oracle.penalty(problem_of(r), name).gradient for name in (method, "exact"))
        assert r.bias == pytest.approx(np.linalg.norm(stated - truth), abs=1e-9)
        if method == "k1_loss":
            assert math.isnan(r.cosine)
        else:
            assert r.cosine == pytest.approx(np.sum(stated * truth) / np.linalg.norm(stated) / np.linalg.norm(truth))


@pytest.mark.parametrize("method", ["exact", "k1_reward"])
def test_two_penalties_reach_the_gradient_of_the_sequence(results, method):
    for r in of_method(results, method):
        assert r.gradient_error < 1e-9
        assert r.cosine == pytest.approx(1)


def test_token_local_penalties_miss_it_by_the_same(results):
    for first, *others in zip(*(of_method(results, name) for name in TOKEN_LOCAL), strict=True):
        assert first.gradient_error > 0.01
        assert [r.gradient_error for r in others] == pytest.approx([first.gradient_error] * 2)


def test_variance_ratio_is_to_exact_on_the_same_tree(results):
    for exact, k1 in zip(*(of_method(results, name) for name in ("exact", "k1_reward")), strict=True):
        assert exact.variance_ratio == pytest.approx(1)
        assert k1.variance_ratio == pytest.approx(k1.sd**2 / exact.sd**2)


def test_rmse_is_that_of_all_pairs_of_sequences(results):
    result = one(results, "k2")
    values = [(s.probability, np.sum(s.u**2) / 2) for s in sequences(result)]
    squares = sum(p * q * ((a + b) / 2 - result.exact_kl) ** 2 for (p, a), (q, b) in itertools.product(values, values))
    assert result.rmse(2) == pytest.approx(math.sqrt(squares))


def test_csv_has_a_row_for_each_method_tree_and_n(results, tmp_path):
    report.write_csv(results, tmp_path / "e.csv")
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    wanted = {"kind", "method", "spread", "tree", "exact_kl", "bias", "sd", "gradient_error", "cosine", "n", "rmse"}
    assert wanted < set(rows[0])
    assert len(rows) == len(results) * len(SAMPLES)
    assert {int(row["n"]) for row in rows} == {*SAMPLES}
    for row in rows:
        assert (row["gradient_error"] == "") == (row["kind"] == "value")
        squares = float(row["bias"]) ** 2 + float(row["sd"]) ** 2 / int(row["n"])
        assert float(row["rmse"]) == pytest.approx(math.sqrt(squares))
        assert float(row["relative_rmse"]) == pytest.approx(float(row["rmse"]) / float(row["truth"]))


def test_the_sentence_has_the_figures_of_the_results(results):
    """Of the spread whose KL is nearest to one nat, by the logarithm."""

    def median(method, field):
        return np.median([getattr(r, field) for r in results if r.method == method and r.spread == 2.0])

    sentence = report.takeaway(results)
    assert f"KL ≈ {median('exact', 'exact_kl'):.2g} nats" in sentence
    assert "k3's value has a bias of 0%" in sentence
    assert f"its gradient is {median('k3_loss', 'gradient_error'):.0%} wrong" in sentence
    assert f"remedy, {median('k2_loss', 'gradient_error'):.0%}" in sentence
    assert "only exact and k1_reward reach" in sentence
    assert f"k1_reward has {median('k1_reward', 'variance_ratio'):.1f} times" in sentence


def test_the_sentence_changes_with_the_results(results):
    def changed(r):
        if r.method == "k3_loss":
            return replace(r, bias=0.5 * r.truth, gradient_error=0.5)
        return replace(r, bias=r.truth, gradient_error=1.0) if r.method == "exact" else r

    sentence = report.takeaway([changed(r) for r in results])
    assert "its gradient is 50% wrong" in sentence
    assert "only k1_reward reach" in sentence


def test_the_tables_have_every_method_and_keep_their_titles(results, capsys):
    report.show(results)
    output = capsys.readouterr().out
    assert "cosine of E[gradient] to ∇KL" in output
    assert all(f"\n {name} " in output or f"\n{name} " in output for name in {*VALUES, *OFF_POLICY_VALUES, *PENALTIES})
    assert "…" not in output  # nothing is cut at the 80 columns of a pipe


def test_the_picture_is_written(results, tmp_path):
    report.plot(results, tmp_path / "e.png")
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")


def test_no_trees_are_a_mistake():
    with pytest.raises(UserError, match="trees: got 0, expected at least 1"):
        study.study(0)
