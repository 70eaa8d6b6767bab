"""The judge, judged by other means: search, sampling, finite differences, and sums over sequences written as loops."""

import ast
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from kljax.kl import divergences, oracle
from kljax.kl.penalties import PENALTIES

RHO, REWARD = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])  # claim 3
SEEDS = range(4)


def finite_problem(seed, n=6):
    """Log-probs of a reference, rewards, beta."""
    rng = np.random.default_rng(seed)
    return oracle.log_softmax(rng.normal(size=n)), rng.normal(size=n), float(np.exp(rng.normal()))


def differentiate(function, at, h=1e-5):
    """Central differences: exact to h², less rounding of 1e-16/h."""
    gradient = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = h
        gradient[i] = (function(at + step) - function(at - step)) / (2 * h)
    return gradient


# Finite problems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "log_z", "reward", "kl", "objective"),
    [
        (0.25, 6.41848, 1.97165, 1.46813, 1.60462),
        (0.5, 2.61274, 1.76411, 0.91548, 1.30637),
        (1.0, 1.02722, 1.35006, 0.32283, 1.02722),
        (2.0, 0.43066, 1.02838, 0.08353, 0.86132),
    ],
)
def test_the_optimum_is_that_of_claim_3(beta, log_z, reward, kl, objective):
    best = oracle.optimum(RHO, REWARD, beta)
    found = best.log_z, best.reward, best.kl, best.objective
    np.testing.assert_allclose(found, (log_z, reward, kl, objective), atol=5.1e-6)  # half of the last digit given


@pytest.mark.parametrize("seed", SEEDS)
def test_no_search_finds_a_better_policy_than_the_optimum(seed):
    ref_logp, reward, beta = finite_problem(seed)
    p = np.exp(ref_logp)

    def loss(logits):
        logp = logits - np.log(np.sum(np.exp(logits)))
        return -(np.exp(logp) @ reward - beta * np.exp(logp) @ (logp - ref_logp))

    found = scipy.optimize.minimize(loss, np.zeros_like(p), jac="3-point", tol=1e-9)
    best = oracle.optimum(ref_logp, reward, beta)
    assert -found.fun == pytest.approx(best.objective, abs=1e-9)
    np.testing.assert_allclose(np.exp(oracle.log_softmax(found.x)), np.exp(best.logp), atol=1e-5)
    assert oracle.objective(best.logp, ref_logp, reward, beta) == pytest.approx(best.objective, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_policy_lacks_is_beta_times_its_kl_to_the_optimum(seed):
    """J* − J(pi) = beta·KL(pi‖pi*)."""
    ref_logp, reward, beta = finite_problem(seed)
    logp, best = finite_problem([seed, 1])[0], oracle.optimum(ref_logp, reward, beta)
    lacking = best.objective - oracle.objective(logp, ref_logp, reward, beta)
    p, p_star = np.exp(logp), np.exp(best.logp)
    assert lacking == pytest.approx(beta * sum(p[i] * np.log(p[i] / p_star[i]) for i in range(len(p))), abs=1e-12)
    assert oracle.regret(logp, ref_logp, reward, beta) == pytest.approx(lacking, abs=1e-12)
    assert oracle.regret(best.logp, ref_logp, reward, beta) == pytest.approx(0, abs=1e-12)


def test_an_outcome_that_the_reference_forbids_stays_forbidden():
    ref_logp, reward = np.log([0.5, 0.5]), np.array([1.0, 2.0])
    with_third = np.append(ref_logp, -np.inf), np.append(reward, 100.0)
    for beta in (0.3, 2.0):
        best, other = oracle.optimum(*with_third, beta), oracle.optimum(ref_logp, reward, beta)
        np.testing.assert_allclose(best.logp, np.append(other.logp, -np.inf), rtol=1e-12)
        assert best.objective == pytest.approx(other.objective)
        assert best.kl == pytest.approx(other.kl)
        logp, multiplier = oracle.forward_optimum(*with_third, beta)
        other_logp, other_multiplier = oracle.forward_optimum(ref_logp, reward, beta)
        np.testing.assert_allclose(logp, np.append(other_logp, -np.inf), rtol=1e-12)
        assert multiplier == pytest.approx(other_multiplier)


def test_kl_counts_nothing_where_the_first_forbids_and_is_infinite_where_only_the_second_does():
    one, both = np.array([0.0, -np.inf]), np.log([0.5, 0.5])
    assert oracle.kl(one, both) == pytest.approx(np.log(2))
    assert oracle.kl(one, one) == 0
    assert oracle.kl(both, one) == np.inf


def test_the_slopes_of_the_frontier_are_finite_differences_and_its_tangent_is_beta():
    ref_logp, reward, _ = finite_problem(0)
    betas, h = np.array([0.2, 0.7, 1.5]), 1e-5
    here, above, below = (oracle.frontier(ref_logp, reward, betas + step) for step in (0, h, -h))
    np.testing.assert_allclose(here.reward_slope, (above.reward - below.reward) / (2 * h), rtol=1e-7)
    np.testing.assert_allclose(here.kl_slope, (above.kl - below.kl) / (2 * h), rtol=1e-7)
    np.testing.assert_allclose(here.reward_slope / here.kl_slope, betas, rtol=1e-12)
    optima = [oracle.optimum(ref_logp, reward, beta) for beta in betas]
    np.testing.assert_array_equal(here.reward, [best.reward for best in optima])
    np.testing.assert_array_equal(here.kl, [best.kl for best in optima])


def test_the_forward_optimum_is_that_of_claim_3():
    logp, multiplier = oracle.forward_optimum(RHO, REWARD, 1.0)
    np.testing.assert_allclose(np.exp(logp), [0.21246, 0.22166, 0.56588], atol=5.1e-6)
    assert multiplier == pytest.approx(2.35343, abs=5e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_search_finds_a_better_policy_than_the_forward_optimum(seed):
    """Of E[reward] − beta·KL(rho‖pi)."""
    ref_logp, reward, beta = finite_problem(seed)
    rho = np.exp(ref_logp)

    def loss(logits):
        logp = logits - np.log(np.sum(np.exp(logits)))
        return -(np.exp(logp) @ reward - beta * rho @ (ref_logp - logp))

    found = scipy.optimize.minimize(loss, np.zeros_like(rho), jac="3-point", tol=1e-9)
    logp, multiplier = oracle.forward_optimum(ref_logp, reward, beta)
    assert found.fun == pytest.approx(loss(logp), abs=1e-9)
    np.testing.assert_allclose(np.exp(oracle.log_softmax(found.x)), np.exp(logp), atol=1e-5)
    np.testing.assert_allclose(np.exp(logp), beta * rho / (multiplier - reward), rtol=1e-12)


@pytest.mark.parametrize("rare", [0.1, 1e-6, 1e-13, 1e-20, 1e-300])
def test_the_forward_optimum_keeps_its_digits_where_the_best_outcome_is_rare(rare):
    """Two outcomes that differ by 1: a quadratic equation, of which pi(best) is ½(1 − b + √((1 − b)² + 4·b·rare))."""
    beta = 0.5
    logp, _ = oracle.forward_optimum(np.log([1 - rare, rare]), np.array([0.0, 1.0]), beta)
    expected = (1 - beta + np.sqrt((1 - beta) ** 2 + 4 * beta * rare)) / 2
    np.testing.assert_allclose(np.exp(logp), [1 - expected, expected], rtol=1e-9)


TIED = np.log([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([1.0, 0.0, 1.0, 2.0, 0.0])  # two pairs of equal reward


def test_best_of_n_is_the_sum_over_all_draws():
    """The first best of three draws, all 5³ of them; equal rewards share as under rho."""
    ref_logp, reward = TIED
    chosen = np.zeros(5)
    for draws in itertools.product(range(5), repeat=3):
        chosen[max(draws, key=lambda y: reward[y])] += np.exp(ref_logp[list(draws)].sum())
    np.testing.assert_allclose(np.exp(oracle.best_of_n(ref_logp, reward, 3)), chosen, rtol=1e-12)


def test_best_of_n_is_what_sampling_gives():
    ref_logp, reward = TIED
    samples = 100_000
    draws = np.random.default_rng(0).choice(5, size=(samples, 7), p=np.exp(ref_logp))
    chosen = draws[np.arange(samples), np.argmax(reward[draws], axis=1)]
    expected = np.exp(oracle.best_of_n(ref_logp, reward, 7))
    noise = np.sqrt(expected * (1 - expected) / samples)
    assert (np.abs(np.bincount(chosen, minlength=5) / samples - expected) < 4 * noise).all()


@pytest.mark.parametrize("n", [1, 2, 4, 16, 1000])
def test_best_of_n_sums_to_one_and_its_kl_is_bounded(n):
    for ref_logp, reward in (TIED, (np.log([0.6, 0.4]), np.array([0.0, 1.0])), finite_problem(0, n=50)[:2]):
        logp = oracle.best_of_n(ref_logp, reward, n)
        assert np.exp(logp).sum() == pytest.approx(1, abs=1e-12)
        assert oracle.kl(logp, ref_logp) <= oracle.best_of_n_kl_bound(n) + 1e-12
    np.testing.assert_allclose(oracle.best_of_n(*TIED, 1), TIED[0], rtol=1e-12)


def test_best_of_n_never_takes_what_the_reference_forbids():
    logp = oracle.best_of_n(np.array([np.log(0.5), -np.inf, np.log(0.5)]), np.array([0.0, 5.0, 1.0]), 2)
    np.testing.assert_allclose(np.exp(logp), [0.25, 0.0, 0.75], rtol=1e-12)


def test_the_kl_of_best_of_n_is_that_of_claim_6():
    uniform, reward = np.full(10, np.log(0.1)), np.arange(10.0)
    kls = [oracle.kl(oracle.best_of_n(uniform, reward, n), uniform) for n in (2, 4, 10)]
    np.testing.assert_allclose(kls, [0.1893, 0.6288, 1.3611], atol=5.1e-5)
    assert oracle.kl(oracle.best_of_n(uniform, reward, 10_000), uniform) == pytest.approx(np.log(10))
    bounds = [oracle.best_of_n_kl_bound(n) for n in (4, 16, 64, 1000)]
    np.testing.assert_allclose(bounds, [0.63629, 1.83509, 3.17451, 5.90876], atol=5.1e-6)


# Trees ----------------------------------------------------------------------------------------------------------------


def grow(tree, prefix=()):
    """Every sequence, token by token."""
    for token in range(tree.vocab):
        sequence = (*prefix, token)
        yield from [sequence] if token in tree.ends or len(sequence) == tree.depth else grow(tree, sequence)


@pytest.mark.parametrize(
    "tree",
    [
        oracle.Tree(3, 3),
        oracle.Tree(2, 4),
        oracle.Tree(4, 2, ends=(2,)),
        oracle.Tree(4, 3, ends=(1, 3)),
        oracle.Tree(2, 3, ends=(0, 1)),
        oracle.Tree(3, 2, ends=()),
    ],
)
def test_a_tree_lists_every_sequence_once(tree):
    sequences = list(grow(tree))
    assert sorted(tree.sequences) == sorted(sequences)
    assert tree.count == len(sequences)
    assert set(tree.states) == {sequence[:t] for sequence in sequences for t in range(len(sequence))}
    for i, sequence in enumerate(tree.sequences):
        assert tree.mask[i].sum() == len(sequence)
        assert tuple(tree.tokens[i][tree.mask[i]]) == sequence
        row = 0
        for t, token in enumerate(sequence):
            assert tree.rows[i, t] == row == tree.states[sequence[:t]]
            row = tree.next[row, token]
        assert row == -1 - i


def test_log_probs_of_sequences_are_sums_of_those_of_tokens_and_sum_to_one():
    problem = oracle.random_tree(0, vocab=4, depth=3)
    tree, logp = problem.tree, oracle.sequence_logp(problem.tree, problem.logits)
    p = np.exp(problem.logits) / np.exp(problem.logits).sum(-1, keepdims=True)
    for i, sequence in enumerate(tree.sequences):
        product = np.prod([p[tree.states[sequence[:t]], token] for t, token in enumerate(sequence)])
        assert logp[i] == pytest.approx(np.log(product), abs=1e-12)
    assert np.exp(logp).sum() == pytest.approx(1, abs=1e-12)


def test_conditionals_undo_the_log_probs_of_sequences():
    problem = oracle.random_tree(1, vocab=3, depth=3)
    back = oracle.conditionals(problem.tree, oracle.sequence_logp(problem.tree, problem.logits))
    np.testing.assert_allclose(back, oracle.log_softmax(problem.logits), rtol=1e-10)


def test_visits_are_the_probabilities_of_passing_a_state():
    problem = oracle.random_tree(2, vocab=4, depth=3)
    tree, p = problem.tree, np.exp(oracle.sequence_logp(problem.tree, problem.logits))
    visits = oracle.visits(tree, problem.logits)
    for state, row in tree.states.items():
        passing = [i for i, sequence in enumerate(tree.sequences) if len(sequence) > len(state) == common(state, sequence)]
        assert visits[row] == pytest.approx(p[passing].sum(), abs=1e-12)
    lengths = np.array([len(sequence) for sequence in tree.sequences])
    assert visits.sum() == pytest.approx(p @ lengths, abs=1e-12)
    for t in range(tree.depth):
        here = [row for state, row in tree.states.items() if len(state) == t]
        assert visits[here].sum() == pytest.approx(p[lengths > t].sum(), abs=1e-12)


def common(state, sequence):
    """How many tokens at the front agree."""
    return sum(all(a == b for a, b in zip(state[:t], sequence[:t], strict=True)) for t in range(1, len(state) + 1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ends", [(0,), (0, 2), ()])
def test_token_by_token_the_optimum_is_that_of_the_sequences(seed, ends):
    problem = oracle.random_tree(seed, vocab=3, depth=4, ends=ends)
    tree, beta = problem.tree, 0.4
    best = oracle.optimum(oracle.sequence_logp(tree, problem.ref_logits), problem.reward, beta)
    value, _ = oracle.soft_values(tree, problem.ref_logits, problem.reward, beta)
    assert value[0] == pytest.approx(best.objective, abs=1e-12)
    logits = oracle.optimal_logits(tree, problem.ref_logits, problem.reward, beta)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(oracle.sequence_logp(tree, logits), best.logp, atol=1e-12)
    np.testing.assert_allclose(oracle.conditionals(tree, best.logp), logits, atol=1e-10)


def test_policy_values_are_expected_rewards_from_there_on():
    problem = oracle.random_tree(3, vocab=3, depth=3)
    tree, p = problem.tree, np.exp(oracle.sequence_logp(problem.tree, problem.logits))
    value, q = oracle.policy_values(tree, problem.logits, problem.reward)
    assert value[0] == pytest.approx(p @ problem.reward, abs=1e-12)
    for state, row in tree.states.items():
        for token in range(tree.vocab):
            after = (*state, token)
            passing = [i for i, sequence in enumerate(tree.sequences) if sequence[: len(after)] == after]
            assert q[row, token] == pytest.approx(p[passing] @ problem.reward[passing] / p[passing].sum(), abs=1e-12)


def regret_of(problem, logits, beta):
    tree = problem.tree
    ref_logp = oracle.sequence_logp(tree, problem.ref_logits)
    return oracle.regret(oracle.sequence_logp(tree, logits), ref_logp, problem.reward, beta)


def test_controlled_decoding_is_the_optimum_of_one_token_and_worse_than_it_of_three():
    beta = 0.5
    for depth in (1, 3):
        problem = oracle.random_tree(0, vocab=4, depth=depth)
        arguments = problem.tree, problem.ref_logits, problem.reward, beta
        regrets = [regret_of(problem, make(*arguments), beta) for make in (oracle.controlled_decoding, oracle.optimal_logits)]
        assert regrets[1] == pytest.approx(0, abs=1e-12)
        assert (regrets[0] > 1e-3) == (depth == 3)


def enumerate_gradient(problem, cost_of):
    """Σ over sequences of π(y)·cost(y)·∇log π(y): the score function as the textbook writes it, no credit assigned."""
    tree, p = problem.tree, np.exp(oracle.log_softmax(problem.logits))
    gradient = np.zeros_like(p)
    probabilities = np.exp(oracle.sequence_logp(tree, problem.logits))
    for i, sequence in enumerate(tree.sequences):
        for t, token in enumerate(sequence):
            row = tree.states[sequence[:t]]
            gradient[row] += probabilities[i] * cost_of(i, sequence) * (np.eye(tree.vocab)[token] - p[row])
    return gradient


@pytest.mark.parametrize(("direction", "name"), [("reverse", "k2_loss"), ("reverse", "exact_token"), ("forward", "k3_loss")])
def test_at_a_token_local_optimum_reward_and_token_local_penalty_balance(direction, name):
    beta = 0.6
    problem = oracle.random_tree(4, vocab=4, depth=3)
    tree = problem.tree
    logits = oracle.token_local_optimum(tree, problem.ref_logits, problem.reward, beta, direction)
    there = oracle.Problem(tree, logits, problem.ref_logits, problem.reward)
    of_reward = enumerate_gradient(there, lambda i, sequence: problem.reward[i])
    assert np.abs(of_reward).max() > 1e-2
    np.testing.assert_allclose(beta * oracle.penalty(there, name).gradient, of_reward, atol=1e-10)
    assert regret_of(problem, logits, beta) > 1e-3


def test_a_random_tree_is_a_function_of_its_seed():
    one, same, other = (oracle.random_tree(seed, 3, 3) for seed in (5, 5, 6))
    for name in ("logits", "ref_logits", "reward"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert np.abs(getattr(one, name) - getattr(other, name)).min() > 0
    near = oracle.random_tree(5, 3, 3, spread=0.1)
    np.testing.assert_array_equal(near.ref_logits, one.ref_logits)
    np.testing.assert_allclose(near.logits - near.ref_logits, 0.1 * (one.logits - one.ref_logits), rtol=1e-9)


# Penalties ------------------------------------------------------------------------------------------------------------


def costs(problem, name):
    """u, u²/2 or exp(−u) − 1 + u of a token."""
    log_p, log_q = oracle.log_softmax(problem.logits), oracle.log_softmax(problem.ref_logits)
    u = log_p - log_q
    return {"k1": u, "k2": u**2 / 2, "k3": np.exp(-u) - 1 + u}[name]


def total(problem, table):
    """Of each sequence: the sum over its tokens of a table's entries."""
    states = problem.tree.states
    return lambda i, sequence: sum(table[states[sequence[:t]], token] for t, token in enumerate(sequence))


def local(problem, kl_of):
    """The gradient of the expected sum over the states, with the visits held fixed."""
    visits = oracle.visits(problem.tree, problem.logits)
    ref_logits = problem.ref_logits

    def quantity(logits):
        return visits @ kl_of(oracle.log_softmax(logits), oracle.log_softmax(ref_logits))

    return differentiate(quantity, problem.logits)


def sequence_kl(problem):
    ref_logp = oracle.sequence_logp(problem.tree, problem.ref_logits)
    return lambda logits: oracle.kl(oracle.sequence_logp(problem.tree, logits), ref_logp)


def of_sequence(problem):
    return differentiate(sequence_kl(problem), problem.logits)


def reverse_locally(problem):
    return local(problem, oracle.kl)


def forward_locally(problem):
    return local(problem, lambda log_p, log_q: oracle.kl(log_q, log_p))


def of_squares(problem):
    """∇E[Σ u²/2], the whole sum's."""
    tree, log_q = problem.tree, oracle.log_softmax(problem.ref_logits)

    def quantity(logits):
        halves = (oracle.log_softmax(logits) - log_q) ** 2 / 2
        sums = np.where(tree.mask, halves[tree.rows, tree.tokens], 0.0).sum(-1)
        return np.exp(oracle.sequence_logp(tree, logits)) @ sums

    return differentiate(quantity, problem.logits)


STATED = {
    "∇KL(pi‖rho) of the sequence": of_sequence,
    "token-local part of ∇KL(pi‖rho)": reverse_locally,
    "token-local ∇KL(rho‖pi): forward": forward_locally,
    "zero": lambda problem: np.zeros_like(problem.logits),
    "∇KL(pi‖rho) of the sequence − token-local ∇KL(rho‖pi)": lambda p: of_sequence(p) - forward_locally(p),
    "∇E[Σ u²/2] − token-local part of ∇KL(pi‖rho)": lambda p: of_squares(p) - reverse_locally(p),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_of_each_penalty_is_the_finite_difference_of_what_the_table_says_in_words(name):
    for seed in SEEDS:
        problem = oracle.random_tree(seed, vocab=3, depth=3)
        stated = STATED[PENALTIES[name].gradient](problem)
        np.testing.assert_allclose(oracle.penalty(problem, name).gradient, stated, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_taken_from_the_reward_a_cost_has_the_gradient_of_the_sum_over_sequences(name):
    problem = oracle.random_tree(0, vocab=4, depth=3)
    gradient = enumerate_gradient(problem, total(problem, costs(problem, name)))
    np.testing.assert_allclose(oracle.penalty(problem, f"{name}_reward").gradient, gradient, atol=1e-13)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_value_of_each_penalty_is_its_expected_sum_over_a_sequence(name):
    problem = oracle.random_tree(1, vocab=4, depth=3)
    p = np.exp(oracle.sequence_logp(problem.tree, problem.logits))
    estimator = name.removeprefix("weighted_")[:2] if "exact" not in name else "k1"
    cost = total(problem, costs(problem, estimator))
    expected = sum(p[i] * cost(i, sequence) for i, sequence in enumerate(problem.tree.sequences))
    assert oracle.penalty(problem, name).value == pytest.approx(expected, abs=1e-12)
    if estimator != "k2":
        assert expected == pytest.approx(sequence_kl(problem)(problem.logits), abs=1e-12)


DIVERGENCES = [
    ("reverse_kl", {}),
    ("forward_kl", {}),
    ("jeffreys", {}),
    ("jensen_shannon", {}),
    ("jensen_shannon", {"mix": 0.3}),
    ("renyi", {"alpha": 0.5}),
    ("renyi", {"alpha": 2.0}),
    ("alpha_divergence", {"alpha": -1.0}),
    ("alpha_divergence", {"alpha": 0.5}),
    ("chi_squared", {}),
    ("total_variation", {}),
    ("squared_hellinger", {}),
]


def test_no_divergence_of_the_oracle_is_left_out_here():
    assert {name for name, _ in DIVERGENCES} == set(oracle.DIVERGENCES)


@pytest.mark.parametrize(("name", "parameters"), DIVERGENCES)
def test_the_gradients_of_every_divergence_are_finite_differences_of_its_value(name, parameters):
    """`exact` of the whole expectation, `exact_token` with the visits held fixed."""
    problem = oracle.random_tree(2, vocab=3, depth=3)
    tree, q = problem.tree, np.exp(oracle.log_softmax(problem.ref_logits))
    visits = oracle.visits(tree, problem.logits)

    def states(logits):
        return oracle.DIVERGENCES[name][0](np.exp(oracle.log_softmax(logits)), q, **parameters)

    exact, local_part = (oracle.penalty(problem, penalty, name, **parameters) for penalty in ("exact", "exact_token"))
    assert exact.value == local_part.value == pytest.approx(visits @ states(problem.logits), abs=1e-12)
    whole = differentiate(lambda logits: oracle.visits(tree, logits) @ states(logits), problem.logits)
    fixed = differentiate(lambda logits: visits @ states(logits), problem.logits)
    np.testing.assert_allclose(exact.gradient, whole, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(local_part.gradient, fixed, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "parameters"), DIVERGENCES)
def test_the_divergences_of_the_oracle_are_those_of_the_library(name, parameters, x64):
    """Which share no code with them, and are tested against other libraries and the literature."""
    a, b = np.random.default_rng(0).normal(size=(2, 4, 5))
    of_oracle = oracle.DIVERGENCES[name][0](np.exp(oracle.log_softmax(a)), np.exp(oracle.log_softmax(b)), **parameters)
    of_library = getattr(divergences, name)(jnp.array(a), jnp.array(b), **parameters)
    np.testing.assert_allclose(of_library, of_oracle, rtol=1e-10)


def test_the_oracle_shares_no_code_with_the_rest():
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "numpy" in imported
    assert not {name.split(".")[0] for name in imported} & {"kljax", "jax", "None"}  # None: from . import


# Bad input ------------------------------------------------------------------------------------------------------------


def test_a_tree_that_is_too_large_says_how_large_it_is_and_what_the_limit_is():
    with pytest.raises(ValueError, match="vocab 10 and depth 6 make 597,871 sequences, expected at most 200,000") as raised:
        oracle.Tree(10, 6)
    count = 9**6 + sum(9**t for t in range(6))
    assert f"{count:,}" in str(raised.value)
    assert oracle.Tree(10, 5).count <= oracle.MAX_SEQUENCES


def test_a_tree_that_is_far_too_large_says_so_in_one_line():
    """GPT-2's vocabulary and context: a number of 4,812 digits."""
    with pytest.raises(ValueError, match=r"vocab 50257 and depth 1024 make .* expected at most 200,000") as raised:
        oracle.Tree(50257, 1024)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(("vocab", "depth", "ends"), [(1, 2, (0,)), (3, 0, (0,)), (3, 2, (3,)), (3, 2, (0, -1))])
def test_a_tree_that_makes_no_sense_is_refused(vocab, depth, ends):
    with pytest.raises(ValueError, match=r"expected vocab >= 2, depth >= 1 and ends that are tokens \(or none\)"):
        oracle.Tree(vocab, depth, ends)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan])
def test_a_beta_that_is_not_positive_is_refused(beta):
    problem = oracle.random_tree(0, 3, 2)
    on_tree = problem.tree, problem.ref_logits, problem.reward, beta
    for call in (
        lambda: oracle.optimum(RHO, REWARD, beta),
        lambda: oracle.regret(RHO, RHO, REWARD, beta),
        lambda: oracle.frontier(RHO, REWARD, np.array([beta])),
        lambda: oracle.forward_optimum(RHO, REWARD, beta),
        lambda: oracle.soft_values(*on_tree),
        lambda: oracle.optimal_logits(*on_tree),
        lambda: oracle.controlled_decoding(*on_tree),
        lambda: oracle.token_local_optimum(*on_tree, "forward"),
    ):
        with pytest.raises(ValueError, match=f"beta: got {beta}, expected a number > 0"):
            call()


def test_less_than_one_sample_is_refused():
    with pytest.raises(ValueError, match="n: got 0, expected at least 1 sample"):
        oracle.best_of_n(RHO, REWARD, 0)


def test_unknown_names_are_refused_with_the_known_ones():
    problem = oracle.random_tree(0, 3, 2)
    with pytest.raises(ValueError, match=r"penalty: got 'k4_loss', expected one of exact, .*k3_loss"):
        oracle.penalty(problem, "k4_loss")
    with pytest.raises(ValueError, match="divergence: got 'kl', expected one of reverse_kl, forward_kl"):
        oracle.penalty(problem, "exact", "kl")
    with pytest.raises(ValueError, match="direction: got 'both', expected one of reverse, forward"):
        oracle.token_local_optimum(problem.tree, problem.ref_logits, problem.reward, 1.0, "both")
