"""Bias, variance and gradient error of every KL estimator and penalty, exact, over random trees and divergence sizes.

Every sequence of a tree is enumerated and weighed by its probability: nothing here is sampled, and "with n sequences" is
what the mean over n independent ones has on average, sqrt(bias² + variance/n). The truth is the oracle's; the estimators,
the penalties and the loss are those that training uses, in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kljax.errors import UserError
from kljax.kl import divergences, estimators, oracle
from kljax.kl.penalties import PENALTIES
from kljax.kl.sequences import Weights, importance_weights, log_ratio, masked_sum, on_policy
from kljax.policy.losses import score_function
from kljax.types import Scores, struct

VOCAB, DEPTH = 4, 3  # 40 sequences, 13 states: each is enumerated, with its gradient
SPREADS = (0.15, 0.5, 1.0, 2.0, 4.0, 8.0)  # of the policy's logits about the reference's: KLs of about 0.01 to 3 nats
SAMPLES = (1, 16, 256, 4096)  # sequences that are averaged
BEHAVIOUR_NOISE = 0.3  # off-policy: standard deviation of the behaviour policy's logits about the policy's
REACHED = 1e-9  # a relative error below this is float64's rounding, not a bias


@dataclass(frozen=True)
class Result:
    """One estimator (kind `value`) or penalty (kind `gradient`) on one tree, exact; the last three are of gradients only.

    `truth` is KL(pi‖rho) in nats per sequence, or the norm of its gradient in the policy's logits. `bias` is E[estimate] − KL,
    signed, or ‖E[gradient] − ∇KL‖; `sd` the standard deviation of one sequence's, for gradients the root of the sum of the
    variances. `gradient_error` is bias/truth; `cosine` that of E[gradient] to ∇KL, NaN where E[gradient] is zero;
    `variance_ratio` is sd² over that of the penalty `exact`.
    """

    kind: str
    method: str
    spread: float
    tree: int
    exact_kl: float
    truth: float
    bias: float
    sd: float
    gradient_error: float = math.nan
    cosine: float = math.nan
    variance_ratio: float = math.nan

    def rmse(self, n: int) -> float:
        """Root mean squared error of the mean over n sequences, sqrt(bias² + sd²/n)."""
        return math.sqrt(self.bias**2 + self.sd**2 / n)


COLUMNS = (*(field.name for field in fields(Result)), "n", "rmse", "relative_rmse")


def study(trees: int, spreads: Sequence[float] = SPREADS) -> list[Result]:
    """Every estimator and penalty on `trees` random trees of each spread; a tree's directions are the same at every spread.

    Raises:
        UserError: where `trees` is less than 1.
    """
    if trees < 1:
        raise UserError(f"trees: got {trees}, expected at least 1.")
    cases = [(spread, seed) for spread in spreads for seed in range(trees)]
    problems = [oracle.random_tree(seed, VOCAB, DEPTH, spread=spread) for spread, seed in cases]
    tree = problems[0].tree
    with jax.enable_x64(True):
        logits, ref_logits = (jnp.stack(x) for x in ([p.logits for p in problems], [p.ref_logits for p in problems]))
        behaviour = jnp.stack([behaviour_logits(p, seed) for p, (_, seed) in zip(problems, cases, strict=True)])
        values = jax.tree.map(np.asarray, value_moments(tree, logits, ref_logits, behaviour))
        gradients = jax.tree.map(np.asarray, gradient_moments(tree, logits, ref_logits))
    results = []
    for i, (spread, seed) in enumerate(cases):
        expected = oracle.penalty(problems[i], "exact")
        kl, norm, of_exact = expected.value, _norm(expected.gradient), float(gradients["exact"][1][i])
        for name, (mean, variance) in values.items():
            results.append(Result("value", name, spread, seed, kl, kl, float(mean[i]) - kl, math.sqrt(variance[i])))
        for name, (mean, variance) in gradients.items():
            bias, sd = _norm(mean[i] - expected.gradient), math.sqrt(variance[i])
            against = bias / norm, _cosine(mean[i], expected.gradient), sd**2 / of_exact
            results.append(Result("gradient", name, spread, seed, kl, norm, bias, sd, *against))
    return results


def behaviour_logits(problem: oracle.Problem, seed: int) -> oracle.Table:
    """Those of the policy that samples off-policy. The noise has a stream of its own: `seed` alone has made the tree."""
    return problem.logits + BEHAVIOUR_NOISE * np.random.default_rng([seed, 1]).normal(size=problem.logits.shape)


def _norm(table: oracle.Table) -> float:
    return float(np.linalg.norm(table))


def _cosine(a: oracle.Table, b: oracle.Table) -> float:
    return float(np.sum(a * b)) / (_norm(a) * _norm(b)) if _norm(a) > REACHED * _norm(b) else math.nan


# Enumeration ----------------------------------------------------------------------------------------------------------


@struct
class Enumerated:
    """Every sequence of a tree, with its probability under the policy that samples and its weight pi/mu (1 on-policy)."""

    probability: Float[Array, "B"]
    log_ratio: Float[Array, "B T"]
    state_kl: Float[Array, "B T"]
    mask: Bool[Array, "B T"]
    weights: Weights

    def sum(self, values: Float[Array, "B T"]) -> Float[Array, "B"]:
        """Σ over the tokens of each sequence."""
        return masked_sum(values, self.mask)


def k_lambda_sum(e: Enumerated) -> Float[Array, "B"]:
    """Σ_t k_λ with the λ at which this sum varies least: that of `optimal_lambda` is for one token, whatever its neighbours."""
    k1 = e.sum(estimators.k1(e.log_ratio))
    control = e.sum(estimators.k3(e.log_ratio)) - k1  # of mean 0
    best = -jnp.sum(e.probability * control * (k1 - e.probability @ k1)) / jnp.sum(e.probability * control**2)
    return e.sum(estimators.k_lambda(e.log_ratio, best))


VALUES: dict[str, Callable[[Enumerated], Float[Array, "B"]]] = {
    "k1": lambda e: e.sum(estimators.k1(e.log_ratio)),
    "k2": lambda e: e.sum(estimators.k2(e.log_ratio)),
    "k3": lambda e: e.sum(estimators.k3(e.log_ratio)),
    "k_lambda": k_lambda_sum,
    "rao_blackwell": lambda e: estimators.rao_blackwell_sum(e.state_kl, e.mask),
}
"""Estimates of a sequence's KL from one sequence of the policy."""

OFF_POLICY_VALUES: dict[str, Callable[[Enumerated], Float[Array, "B"]]] = {
    "weighted_k1": lambda e: e.sum(estimators.weighted_k1(e.log_ratio, e.weights.log_token)),
    "weighted_k3": lambda e: e.sum(estimators.weighted_k3(e.log_ratio, e.weights.log_token)),
    "weighted_rao_blackwell": lambda e: estimators.rao_blackwell_sum(e.state_kl, e.mask, e.weights.state),
}
"""The same from one sequence of the behaviour policy, with the weights of its prefixes."""


def score(
    logits: Float[Array, "states V"], ref_logits: Float[Array, "states V"], rows: Int[Array, "B T"], tokens: Int[Array, "B T"]
) -> Scores:
    """Figures of two tables of logits at each token and of the state before it, as models/scoring.py does of two models."""
    here, ref_here = logits[rows], ref_logits[rows]
    reverse_kl = divergences.reverse_kl(here, ref_here)
    return Scores(
        logp=_chosen(here, tokens),
        ref_logp=_chosen(ref_here, tokens),
        reverse_kl=reverse_kl,
        forward_kl=divergences.forward_kl(here, ref_here),
        divergence=reverse_kl,
        entropy=divergences.entropy(here),
    )


def _chosen(logits: Float[Array, "B T V"], tokens: Int[Array, "B T"]) -> Float[Array, "B T"]:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]


@partial(jax.jit, static_argnums=0)
def value_moments(tree: oracle.Tree, logits, ref_logits, behaviour_logits) -> dict[str, tuple]:
    """Mean and variance of each estimate from one sequence; tables are [problems, states, V], results [problems]."""

    def of_one(logits, ref_logits, behaviour_logits):
        rows, tokens, mask = map(jnp.asarray, (tree.rows, tree.tokens, tree.mask))
        scores = score(logits, ref_logits, rows, tokens)

        def sampled_from(sampler):
            logp = _chosen(sampler[rows], tokens)
            return Enumerated(
                probability=jnp.exp(masked_sum(logp, mask)),
                log_ratio=log_ratio(scores.logp, scores.ref_logp, mask),
                state_kl=scores.reverse_kl,
                mask=mask,
                weights=importance_weights(scores.logp, logp, mask),
            )

        on, off = sampled_from(logits), sampled_from(behaviour_logits)
        found = {name: _moments(on.probability, value(on)) for name, value in VALUES.items()}
        return found | {name: _moments(off.probability, value(off)) for name, value in OFF_POLICY_VALUES.items()}

    return jax.vmap(of_one)(logits, ref_logits, behaviour_logits)


@partial(jax.jit, static_argnums=0)
def gradient_moments(tree: oracle.Tree, logits, ref_logits) -> dict[str, tuple]:
    """Mean [problems, states, V] of each penalty's gradient from one sequence, and the sum of its variances [problems]."""

    def of_one(logits, ref_logits):
        rows, tokens, mask = map(jnp.asarray, (tree.rows, tree.tokens, tree.mask))

        def loss(name, logits, *sequence):  # as training/step.py has it, with beta = 1, no reward and no baseline
            rows, tokens, mask = (x[None] for x in sequence)
            scores, weights, penalty = score(logits, ref_logits, rows, tokens), on_policy(mask), PENALTIES[name]
            through_reward = score_function(scores.logp, -penalty.from_reward(scores, mask, weights), mask)
            return through_reward + masked_sum(penalty.to_loss(scores, mask, weights), mask)[0]

        probability = jnp.exp(masked_sum(_chosen(logits[rows], tokens), mask))
        each = {name: jax.vmap(jax.grad(partial(loss, name)), (None, 0, 0, 0)) for name in PENALTIES}
        return {name: _moments(probability, gradient(logits, rows, tokens, mask)) for name, gradient in each.items()}

    return jax.vmap(of_one)(logits, ref_logits)


def _moments(probability, values) -> tuple:
    """Mean over the sequences, and the variances of all that a sequence has, summed."""
    mean = jnp.tensordot(probability, values, 1)
    squares = ((values - mean) ** 2).reshape(len(values), -1).sum(-1)
    return mean, probability @ squares
