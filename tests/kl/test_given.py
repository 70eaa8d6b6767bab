"""Probabilities for logits are refused where they can be seen, and real logits are not."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.kl import divergences, estimators, oracle, sequences
from kljax.kl.penalties import PENALTIES
from kljax.kl.sequences import on_policy
from kljax.types import Scores

P = np.array([[[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [1.0, 0.0]]], np.float32)
PARAMETERS = {"alpha": 2.0, "mix": 0.5}
TWO = [divergences.cross_entropy, *divergences.DIVERGENCES.values()]
MASK = jnp.array([[True, True]])


def call(divergence, *logits):
    """With a value for a parameter that it wants."""
    wanted = inspect.signature(divergence).parameters
    return divergence(*logits, **{name: value for name, value in PARAMETERS.items() if name in wanted})


@pytest.mark.parametrize("divergence", TWO)
def test_each_divergence_refuses_probabilities_and_names_them(divergence):
    with pytest.raises(ValueError, match=r"^logits: got probabilities .* jnp\.log"):
        call(divergence, jnp.asarray(P), jnp.log(P))
    with pytest.raises(ValueError, match=r"^ref_logits: got probabilities"):
        call(divergence, jnp.log(P), jnp.asarray(P))
    assert jnp.isfinite(call(divergence, jnp.log(P[0]), jnp.log(P[0]))).all()


def test_entropy_refuses_them_too():
    with pytest.raises(ValueError, match=r"^logits: got probabilities"):
        divergences.entropy(jnp.asarray(P))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_the_softmax_of_a_model_is_seen(dtype):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 1000)), dtype)
    with pytest.raises(ValueError, match="probabilities"):
        divergences.reverse_kl(jax.nn.softmax(logits), logits)


@pytest.mark.parametrize(
    "logits",
    [
        np.eye(3),  # one-hot: as often meant as logits
        np.full((4, 2), 0.5),  # uniform: the same distribution, read either way
        np.zeros((2, 3)),
        P - 1,  # the way out
        np.array([[0.5, 0.5], [0.25, 0.75], [2.0, -1.0]]),  # one row that is none
        np.array([[0.25, 0.75], [np.nan, 1.0]]),
        np.array([[np.inf, -np.inf]]),
        np.ones((3, 1)),
        np.ones((0, 2)),
    ],
)
def test_logits_pass(logits):
    divergences.entropy(jnp.asarray(logits, jnp.float32))
    if logits.size and np.isfinite(logits).all():
        oracle.log_softmax(logits)


def test_random_logits_pass():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        divergences.entropy(jnp.asarray(np.abs(rng.normal(size=(2, 4))), jnp.float32))


def test_nothing_is_checked_where_there_are_no_values():
    """And so nothing is added to what is compiled."""
    expected = divergences.reverse_kl(jnp.asarray(P - 1), jnp.log(P[::-1] + 0.1))
    np.testing.assert_allclose(jax.jit(divergences.reverse_kl)(P, jnp.log(P[::-1] + 0.1)), expected, rtol=1e-5)
    jax.vmap(divergences.entropy)(P)


@pytest.mark.parametrize("name", ["k1_reward", "k3_loss", "weighted_k3_loss"])
def test_a_penalty_of_sampled_tokens_refuses_probabilities(name):
    p, log_p, none = jnp.array([[0.2, 0.9]]), jnp.log(jnp.array([[0.2, 0.9]])), jnp.zeros((1, 2))
    for logp, ref_logp, given in ((p, log_p, "logp"), (log_p, p, "ref_logp")):
        penalty, scores = PENALTIES[name], Scores(logp, ref_logp, none, none, none, none)
        part = penalty.from_reward if name.endswith("reward") else penalty.to_loss
        with pytest.raises(ValueError, match=rf"^{given}: got 0\.2 at sequence 0, token 0, expected a log-prob"):
            part(scores, MASK, on_policy(MASK))


def test_importance_weights_refuse_probabilities_but_not_under_padding():
    log_p = jnp.log(jnp.array([[0.2, 0.9]]))
    with pytest.raises(ValueError, match=r"^old_logp: got 0"):
        sequences.importance_weights(log_p, jnp.exp(log_p), MASK)
    sequences.importance_weights(log_p, jnp.array([[-1.0, 5.0]]), jnp.array([[True, False]]))
    assert "logarithm" in (estimators.__doc__ or "")  # a ratio for a log-ratio cannot be seen


RHO, REWARD = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
OF_LOG_PROBS = {
    "kl": lambda x: oracle.kl(np.log(RHO), x),
    "kl of": lambda x: oracle.kl(x, np.log(RHO)),
    "objective": lambda x: oracle.objective(x, np.log(RHO), REWARD, 1.0),
    "optimum": lambda x: oracle.optimum(x, REWARD, 1.0),
    "regret": lambda x: oracle.regret(x, np.log(RHO), REWARD, 1.0),
    "frontier": lambda x: oracle.frontier(x, REWARD, np.array([1.0])),
    "forward_optimum": lambda x: oracle.forward_optimum(x, REWARD, 1.0),
    "best_of_n": lambda x: oracle.best_of_n(x, REWARD, 4),
    "conditionals": lambda x: oracle.conditionals(oracle.Tree(2, 2), x),
}


@pytest.mark.parametrize("name", OF_LOG_PROBS)
def test_the_oracle_refuses_what_is_no_log_prob_and_says_what_it_is(name):
    for given, said in (
        (RHO, r"logp: got probabilities; hand over np\.log"),
        (np.array([3.0, 1.0, -2.0]), "logp: got no log-probs: the largest is 3"),
        (np.log(RHO) - 1, "probabilities sum to 0.367"),
        (np.array([0.0, 0.0, 0.0]), "probabilities sum to 3"),
    ):
        with pytest.raises(ValueError, match=said):
            OF_LOG_PROBS[name](given)
    OF_LOG_PROBS[name](np.log(RHO.astype(np.float32)).astype(np.float64))


TREE, TABLE = oracle.Tree(2, 2), np.array([[0.25, 0.75], [0.5, 0.5]])
OF_LOGITS = {
    "sequence_logp": lambda x: oracle.sequence_logp(TREE, x),
    "visits": lambda x: oracle.visits(TREE, x),
    "soft_values": lambda x: oracle.soft_values(TREE, x, REWARD, 1.0),
    "optimal_logits": lambda x: oracle.optimal_logits(TREE, x, REWARD, 1.0),
    "policy_values": lambda x: oracle.policy_values(TREE, x, REWARD),
    "controlled_decoding": lambda x: oracle.controlled_decoding(TREE, x, REWARD, 1.0),
    "token_local_optimum": lambda x: oracle.token_local_optimum(TREE, x, REWARD, 1.0, "reverse"),
    "penalty": lambda x: oracle.penalty(oracle.Problem(TREE, np.zeros((2, 2)), x, REWARD), "exact"),
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_the_oracle_refuses_probabilities_for_logits(name):
    with pytest.raises(ValueError, match=r"^logits: got probabilities .* np\.log"):
        OF_LOGITS[name](TABLE)
    OF_LOGITS[name](np.log(TABLE))
