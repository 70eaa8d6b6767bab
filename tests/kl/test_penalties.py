"""The heart: the expected gradient of each penalty, by enumeration of all sequences, against float64 finite differences.

A tabular policy over a small vocabulary whose token 0 ends the sequence; every sequence is enumerated, padded and masked,
goes through the real penalty and the real loss, and is weighed by its probability. Under the padding lie NaN and inf.
"""

import itertools
import typing
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import Config, KlConfig
from kljax.kl import divergences
from kljax.kl.penalties import PENALTIES
from kljax.policy.advantages import leave_one_out
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.losses import score_function
from kljax.policy.means import masked_sum
from kljax.types import Scores

EOS = 0
BETA = 0.7
SHAPES = [(3, 2), (3, 3), (4, 2), (4, 3)]  # vocabulary, longest sequence


@dataclass(frozen=True)
class Tree:
    """All sequences of at most `length` tokens that end with EOS or are full; a state is the prefix before a token."""

    vocab: int
    length: int

    @cached_property
    def states(self):
        """The row of each state in a table of logits."""
        prefixes = (p for t in range(self.length) for p in itertools.product(range(1, self.vocab), repeat=t))
        return {prefix: row for row, prefix in enumerate(prefixes)}

    @cached_property
    def sequences(self):
        return [(*p, EOS) for p in self.states] + list(itertools.product(range(1, self.vocab), repeat=self.length))

    @property
    def mask(self):
        return jnp.array([[t < len(s) for t in range(self.length)] for s in self.sequences])

    def tables(self, seed):
        """Logits of policy and reference in every state."""
        return np.random.default_rng(seed).normal(size=(2, len(self.states), self.vocab))

    def log_probs(self, table, sequences=None):
        rows = log_softmax(table)
        each = self.sequences if sequences is None else sequences
        return np.array([sum(rows[self.states[s[:t]], token] for t, token in enumerate(s)) for s in each])


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sequence_kl(tree, policy, reference):
    logp, ref_logp = tree.log_probs(policy), tree.log_probs(reference)
    return np.sum(np.exp(logp) * (logp - ref_logp))


def state_kls(first, second):
    p, q = log_softmax(first), log_softmax(second)
    return np.sum(np.exp(p) * (p - q), axis=-1)


def differentiate(function, at, h=1e-5):
    gradient = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = h
        gradient[i] = (function(at + step) - function(at - step)) / (2 * h)
    return gradient


def expected(gradient, tree, policy, reference):
    """∇ of the quantity that the table of penalties states, for a token-local one with the visits held fixed."""
    visits = np.exp(tree.log_probs(policy, tree.states))
    quantity = {
        "sequence": lambda table: sequence_kl(tree, table, reference),
        "local reverse": lambda table: np.sum(visits * state_kls(table, reference)),
        "local forward": lambda table: np.sum(visits * state_kls(reference, table)),
    }[gradient]
    return differentiate(quantity, policy)


STATED = {"exact": "sequence", "k1_reward": "sequence", "k2_loss": "local reverse", "k3_loss": "local forward"}


def score(tree, table, reference, poison=True):
    """Scores of every token of every sequence, with NaN and inf under the padding."""
    mask = tree.mask
    padded = [[(tree.states[s[:t]], s[t]) if t < len(s) else (0, EOS) for t in range(tree.length)] for s in tree.sequences]
    states, tokens = np.moveaxis(np.array(padded), -1, 0)
    logits, ref_logits = table[states], jnp.asarray(reference)[states]

    def chosen(x):
        return jnp.take_along_axis(jax.nn.log_softmax(x), tokens[..., None], -1)[..., 0]

    def spoil(x, value):
        return jnp.where(mask, x, value + jnp.sum(table)) if poison else x  # reaches value and gradient if anything leaks

    return Scores(
        logp=spoil(chosen(logits), jnp.nan),
        ref_logp=spoil(chosen(ref_logits), -jnp.inf),
        reverse_kl=spoil(divergences.reverse_kl(logits, ref_logits), jnp.inf),
        forward_kl=spoil(divergences.forward_kl(logits, ref_logits), jnp.nan),
        entropy=spoil(divergences.entropy(logits), jnp.nan),
    )


def losses(tree, name, table, reference, reward, poison=True):
    """The training step's loss of each sequence alone: [B]."""
    mask, penalty = tree.mask, PENALTIES[name]
    scores = score(tree, table, reference, poison)
    returns = jnp.asarray(reward)[:, None] - BETA * penalty.from_reward(scores, mask)
    alone = jax.vmap(lambda *row: score_function(*(x[None] for x in row)))(scores.logp, returns, mask)
    return alone + BETA * masked_sum(penalty.to_loss(scores, mask), mask)


def expected_loss(tree, name, table, reference, reward, weights, poison=True):
    return jnp.sum(weights * losses(tree, name, table, reference, reward, poison))


def surrogate_gradient(tree, name, policy, reference, reward=None):
    """The gradient of the code's loss, every sequence weighed by its probability."""
    reward = np.zeros(len(tree.sequences)) if reward is None else reward
    weights = np.exp(tree.log_probs(policy))
    return jax.grad(lambda table: expected_loss(tree, name, table, reference, reward, weights))(jnp.asarray(policy))


def random_case(seed):
    """A tree, its policy and reference, a reward of each sequence."""
    tree = Tree(*SHAPES[seed % len(SHAPES)])
    reward = np.random.default_rng([seed, 1]).normal(size=len(tree.sequences))
    return tree, *tree.tables(seed), reward


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("seed", range(12))
def test_each_penalty_has_the_gradient_that_the_table_states(name, seed):
    tree, policy, reference, reward = random_case(seed)
    assert np.exp(tree.log_probs(policy)).sum() == pytest.approx(1)
    of_reward = differentiate(lambda table: np.sum(np.exp(tree.log_probs(table)) * reward), policy)
    of_kl = expected(STATED[name], tree, policy, reference)
    actual = surrogate_gradient(tree, name, policy, reference, reward)
    np.testing.assert_allclose(actual, BETA * of_kl - of_reward, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_leave_one_out_keeps_the_gradient_of_each_penalty(name):
    """Over all pairs of samples of one prompt, the returns of each token compared at the same time step."""
    tree, policy, reference, reward = random_case(1)
    n, mask, penalty, weights = len(tree.sequences), tree.mask, PENALTIES[name], np.exp(tree.log_probs(policy))
    first, second = (x.ravel() for x in np.indices((n, n)))

    def loss_of_pairs(table):
        scores = score(tree, table, reference)
        returns = jnp.asarray(reward)[:, None] - BETA * penalty.from_reward(scores, mask)
        pairs = jnp.stack([returns[first], returns[second]], axis=1)
        advantage = pairs - leave_one_out(pairs)
        both = (jnp.stack([x[first], x[second]], axis=1) for x in (scores.logp, mask))
        added = masked_sum(penalty.to_loss(scores, mask), mask)
        loss = jax.vmap(lambda logp, mask, a: score_function(logp, a, mask))(*both, advantage)
        return jnp.sum(weights[first] * weights[second] * loss) + BETA * jnp.sum(weights * added)

    np.testing.assert_allclose(
        jax.grad(loss_of_pairs)(jnp.asarray(policy)),
        surrogate_gradient(tree, name, policy, reference, reward),
        rtol=1e-5,
        atol=1e-8,
    )


@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_under_the_padding_reaches_the_loss(name):
    tree, policy, reference, reward = random_case(3)
    spoilt, clean = (losses(tree, name, jnp.asarray(policy), reference, reward, poison) for poison in (True, False))
    np.testing.assert_array_equal(spoilt, clean)


def test_the_stated_gradients_differ():
    """Or the test above could not tell one penalty from another."""
    tree, policy, reference, _ = random_case(1)
    stated = [expected(g, tree, policy, reference) for g in ("sequence", "local reverse", "local forward")]
    for a, b in itertools.combinations(stated, 2):
        assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(a)


def two_steps():
    """Claim 2: after token 2, which policy and reference both allow, they differ widely; after token 1 they agree."""
    tree = Tree(vocab=3, length=2)
    policy, reference = np.full((2, len(tree.states), 3), -60.0)  # token 0 would end the sequence: never
    first, after_one, after_two = (tree.states[p] for p in ((), (1,), (2,)))
    policy[first, 1:], reference[first, 1:] = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    policy[after_one, 1:] = reference[after_one, 1:] = np.log([0.5, 0.5])
    policy[after_two, 1:], reference[after_two, 1:] = np.log([0.01, 0.99]), np.log([0.99, 0.01])
    return tree, policy, reference


def test_a_token_local_penalty_can_push_the_wrong_way():
    """The gradient in the first step's logit of the token that leads away from rho."""
    tree, policy, reference = two_steps()
    row = tree.states[()]
    gradients = {name: surrogate_gradient(tree, name, policy, reference)[row, 2] / BETA for name in PENALTIES}
    assert expected("sequence", tree, policy, reference)[row, 2] == pytest.approx(0.85115, abs=1e-5)
    assert gradients["exact"] == pytest.approx(0.85115, abs=1e-5)
    assert gradients["k1_reward"] == pytest.approx(0.85115, abs=1e-5)
    assert gradients["k2_loss"] == pytest.approx(-0.27465, abs=1e-5)


def test_rao_blackwellised_sums_keep_the_mean_and_can_have_more_variance():
    """Claim 5, in the example of claim 2."""
    tree, policy, reference = two_steps()
    scores, mask, weights = score(tree, jnp.asarray(policy), reference), tree.mask, np.exp(tree.log_probs(policy))
    sampled = PENALTIES["k1_reward"].from_reward(scores, mask)[:, 0]  # of the first token and all later ones
    exact = masked_sum(PENALTIES["exact"].to_loss(scores, mask), mask)
    for values, variance in ((sampled, 3.31591), (exact, 5.06974)):
        mean = np.sum(weights * values)
        assert mean == pytest.approx(2.39545, abs=1e-5)
        assert np.sum(weights * (values - mean) ** 2) == pytest.approx(variance, abs=1e-5)


def test_the_exact_penalty_has_less_variance_than_sampled_k1():
    """Over single-sequence gradients of random tables; not a theorem, but what the default is chosen for."""
    ratios = []
    for seed in range(8):
        tree, policy, reference, _ = random_case(seed)
        k1, exact = (variance(tree, name, policy, reference) for name in ("k1_reward", "exact"))
        ratios.append(k1 / exact)
    assert np.median(ratios) > 1


def variance(tree, name, policy, reference):
    """Σ over parameters of the variance of a one-sample gradient."""
    no_reward, weights = np.zeros(len(tree.sequences)), np.exp(tree.log_probs(policy))
    gradients = jax.jacobian(lambda table: losses(tree, name, table, reference, no_reward))(jnp.asarray(policy))
    mean = np.tensordot(weights, gradients, 1)
    return np.sum(weights[:, None, None] * (gradients - mean) ** 2)


def test_the_config_knows_every_row_of_the_tables():
    hints = typing.get_type_hints(KlConfig)["penalty"], typing.get_type_hints(Config)["algorithm"]
    assert set(typing.get_args(hints[0])) == set(PENALTIES)
    assert set(typing.get_args(hints[1])) == set(ALGORITHMS)
