"""The heart: the expected gradient of each penalty, by enumeration of all sequences, against float64 finite differences.

A tabular policy over a small vocabulary whose token 0 ends the sequence; every sequence is enumerated, padded and masked,
goes through the real penalty and the real loss, and is weighed by its probability. Under the padding lie NaN and inf.
"""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import Config, KlConfig
from kljax.kl import divergences
from kljax.kl.penalties import PENALTIES
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.losses import score_function
from kljax.types import Scores

VOCAB, LENGTH, EOS = 3, 3, 0
BETA = 0.7
PREFIXES = [p for t in range(LENGTH) for p in itertools.product(range(1, VOCAB), repeat=t)]
SEQUENCES = [(*p, EOS) for p in PREFIXES] + list(itertools.product(range(1, VOCAB), repeat=LENGTH))


def log_softmax(x):
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def tables(seed):
    """Logits of policy and reference in every state; states are prefixes."""
    return np.random.default_rng(seed).normal(size=(2, len(PREFIXES), VOCAB))


def log_prob(table, sequence):
    rows = log_softmax(table)
    return sum(rows[PREFIXES.index(sequence[:t]), token] for t, token in enumerate(sequence))


def sequence_kl(policy, reference):
    logp, ref_logp = (np.array([log_prob(table, s) for s in SEQUENCES]) for table in (policy, reference))
    return np.sum(np.exp(logp) * (logp - ref_logp))


def visits(policy):
    """Probability of reaching each state."""
    return np.array([np.exp(log_prob(policy, prefix)) for prefix in PREFIXES])


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


def expected(gradient, policy, reference):
    """∇ of the quantity that the table of penalties states, for a token-local one with the visits held fixed."""
    fixed = visits(policy)
    quantity = {
        "sequence": lambda table: sequence_kl(table, reference),
        "local reverse": lambda table: np.sum(fixed * state_kls(table, reference)),
        "local forward": lambda table: np.sum(fixed * state_kls(reference, table)),
    }[gradient]
    return differentiate(quantity, policy)


STATED = {"exact": "sequence", "k1_reward": "sequence", "k2_loss": "local reverse", "k3_loss": "local forward"}


def surrogate_gradient(name, policy, reference):
    """The gradient of the code's loss with reward 0, every sequence weighed by its probability."""
    tokens = np.array([[*s, *[EOS] * (LENGTH - len(s))] for s in SEQUENCES])
    mask = jnp.array([[t < len(s) for t in range(LENGTH)] for s in SEQUENCES])
    states = np.array([[PREFIXES.index(s[:t]) if t < len(s) else 0 for t in range(LENGTH)] for s in SEQUENCES])
    weights = np.exp([log_prob(policy, s) for s in SEQUENCES])
    penalty = PENALTIES[name]

    def loss(table):
        scores = score(table, jnp.asarray(reference), tokens, states, mask)
        advantage = -BETA * penalty.from_reward(scores, mask)
        added = jnp.where(mask, penalty.to_loss(scores, mask), 0.0).sum(-1)
        one_by_one = jnp.stack(
            [score_function(scores.logp[i : i + 1], advantage[i : i + 1], mask[i : i + 1]) for i in range(len(SEQUENCES))]
        )
        return jnp.sum(weights * (one_by_one + BETA * added))

    return jax.grad(loss)(jnp.asarray(policy)) / BETA


def score(table, reference, tokens, states, mask):
    """Scores of every token, with poison under the padding."""
    logits, ref_logits = table[states], reference[states]

    def chosen(x):
        return jnp.take_along_axis(jax.nn.log_softmax(x), tokens[..., None], -1)[..., 0]

    def poison(x, value):
        return jnp.where(mask, x, value + jnp.sum(table))  # reaches value and gradient if anything leaks

    return Scores(
        logp=poison(chosen(logits), jnp.nan),
        ref_logp=poison(chosen(ref_logits), -jnp.inf),
        reverse_kl=poison(divergences.reverse_kl(logits, ref_logits), jnp.inf),
        forward_kl=poison(divergences.forward_kl(logits, ref_logits), jnp.nan),
        entropy=poison(divergences.entropy(logits), jnp.nan),
    )


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("seed", range(8))
def test_each_penalty_has_the_gradient_that_the_table_states(x64, name, seed):
    policy, reference = tables(seed)
    assert np.exp([log_prob(policy, s) for s in SEQUENCES]).sum() == pytest.approx(1)
    np.testing.assert_allclose(
        surrogate_gradient(name, policy, reference), expected(STATED[name], policy, reference), rtol=1e-5, atol=1e-8
    )


def test_the_stated_gradients_differ(x64):
    """Or the test above could not tell one penalty from another."""
    policy, reference = tables(0)
    sequence, reverse, forward = (expected(g, policy, reference) for g in ("sequence", "local reverse", "local forward"))
    for a, b in itertools.combinations((sequence, reverse, forward), 2):
        assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(a)


def test_a_token_local_penalty_can_push_the_wrong_way(x64):
    """Claim 2: two steps of two tokens; the gradient in the first step's logit of the token that leads away from rho."""
    policy, reference = np.full((2, len(PREFIXES), VOCAB), -60.0)  # token 0 would end the sequence: never
    first, after_one, after_two = (PREFIXES.index(p) for p in ((), (1,), (2,)))
    policy[first, 1:], reference[first, 1:] = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    policy[after_one, 1:] = reference[after_one, 1:] = np.log([0.5, 0.5])
    policy[after_two, 1:], reference[after_two, 1:] = np.log([0.01, 0.99]), np.log([0.99, 0.01])
    for prefix in PREFIXES:
        if len(prefix) == 2:  # the third step is the same for both
            policy[PREFIXES.index(prefix), 1:] = reference[PREFIXES.index(prefix), 1:] = np.log([0.5, 0.5])
    gradients = {name: surrogate_gradient(name, policy, reference)[first, 2] for name in PENALTIES}
    assert gradients["exact"] == pytest.approx(0.85115, abs=1e-5)
    assert gradients["k1_reward"] == pytest.approx(0.85115, abs=1e-5)
    assert gradients["k2_loss"] == pytest.approx(-0.27465, abs=1e-5)


def test_the_exact_penalty_has_less_variance_than_sampled_k1(x64):
    """Over single-sequence gradients of random tables; not a theorem, but what the default is chosen for."""
    ratios = []
    for seed in range(8):
        policy, reference = tables(seed)
        weights = np.exp([log_prob(policy, s) for s in SEQUENCES])
        ratios.append(_variance("k1_reward", policy, reference, weights) / _variance("exact", policy, reference, weights))
    assert np.median(ratios) > 1


def _variance(name, policy, reference, weights):
    """Σ over parameters of the variance of a one-sample gradient."""
    penalty = PENALTIES[name]
    gradients = []
    for s in SEQUENCES:
        tokens, mask = np.array([s]), jnp.ones((1, len(s)), bool)
        states = np.array([[PREFIXES.index(s[:t]) for t in range(len(s))]])

        def loss(table, tokens=tokens, states=states, mask=mask):
            scores = score(table, jnp.asarray(reference), tokens, states, mask)
            return score_function(scores.logp, -penalty.from_reward(scores, mask), mask) + penalty.to_loss(scores, mask).sum()

        gradients.append(jax.grad(loss)(jnp.asarray(policy)))
    gradients = np.array(gradients)
    mean = np.tensordot(weights, gradients, 1)
    return np.sum(weights[:, None, None] * (gradients - mean) ** 2)


def test_the_config_knows_every_row_of_the_tables():
    hints = typing.get_type_hints(KlConfig)["penalty"], typing.get_type_hints(Config)["algorithm"]
    assert set(typing.get_args(hints[0])) == set(PENALTIES)
    assert set(typing.get_args(hints[1])) == set(ALGORITHMS)
