"""Where training ends against where theory says: the short form of `make convergence`."""

import numpy as np
import pytest

from experiments.studies.convergence import study
from kljax.command_line import compose
from kljax.config import Config
from kljax.kl import oracle
from kljax.kl.penalties import PENALTIES
from kljax.runs import directory
from kljax.runs.enumeration import Enumeration

TOLD_APART = 0.01  # nats: issue and docs call a policy nearer to the optimum than this converged
STEPS = 200


@pytest.fixture(scope="module")
def short(compilation_cache, tmp_path_factory):
    """short(*overrides): fewer steps and samples than the experiment; the runs share their base model."""
    root = tmp_path_factory.mktemp("convergence")
    fixed = [
        "experiment=enumerable",
        f"steps={STEPS}",
        "run.oracle_every=0",
        "rollout.samples=16",
        "mesh.data=1",
        f"run.root={root}",
    ]
    return lambda *overrides: compose([*fixed, f"run.compilation_cache={compilation_cache}", *overrides], Config)


def test_a_penalty_with_the_gradient_of_the_sequence_reaches_the_optimum(short):
    outcome = study.run(short("kl.penalty=exact"))
    assert outcome.kl_to_optimum < TOLD_APART
    assert outcome.regret == pytest.approx(0.5 * outcome.kl_to_optimum)
    assert outcome.kl_to_reference > 10 * outcome.kl_to_optimum  # it has moved


def test_k3_in_the_loss_ends_at_the_forward_optimum_instead(short):
    outcome = study.run(short("kl.penalty=k3_loss"))
    assert outcome.kl_to_optimum > TOLD_APART
    assert outcome.kl_to_theory < 0.2 * outcome.kl_to_optimum


def test_the_target_controller_holds_its_budget_over_the_last_half(short):
    budget = 0.15
    path = study.train(short("kl/controller=target", f"kl.controller.budget={budget}", "optimizer.schedule=constant"))
    kls = [line["kl/reverse_exact_seq"] for line in directory.read_lines(path / "metrics.jsonl")]
    assert np.mean(kls[STEPS // 2 :]) == pytest.approx(budget, rel=0.1)


def test_the_resting_points_are_those_of_their_penalties():
    problem = oracle.random_tree(0, vocab=3, depth=2)
    ref_logp, beta = oracle.sequence_logp(problem.tree, problem.ref_logits), 0.5
    known = Enumeration(problem.tree, np.ones(1), ref_logp[None], problem.reward[None], lambda params: params)
    for name, kind in study.RESTING_POINTS.items():
        (logp,) = study.resting_point(known, beta, kind)
        table = oracle.conditionals(problem.tree, logp)
        at_rest = oracle.Problem(problem.tree, table, problem.ref_logits, problem.reward)
        value, q = oracle.policy_values(problem.tree, table, problem.reward)
        of_reward = oracle.visits(problem.tree, table)[:, None] * np.exp(table) * (q - value[:, None])
        np.testing.assert_allclose(of_reward, beta * oracle.penalty(at_rest, name).gradient, atol=1e-9, err_msg=name)


def test_every_penalty_has_a_resting_point_or_is_an_ablation():
    assert {name for name, penalty in PENALTIES.items() if not penalty.ablation} == set(study.RESTING_POINTS)


def test_the_table_shows_means_and_the_worst_seed(capsys, tmp_path):
    outcomes = [study.Outcome("k3_loss", seed, kl, kl / 4, 0.3, 1.0, kl / 2) for seed, kl in enumerate((0.25, 0.75))] + [
        study.Outcome("k1_loss", 0, 9.0, float("nan"), 9.0, 1.0, 4.5)
    ]
    study.show(outcomes, beta=0.5)
    shown = capsys.readouterr().out
    for figure in ("0.5000", "0.7500", "0.1250", "–"):
        assert figure in shown
    study.write_csv(outcomes, tmp_path / "c.csv")
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + len(outcomes)
