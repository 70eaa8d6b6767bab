"""Claims 1, 2 and 10: which gradient a penalty and a divergence give, by enumeration of all sequences, in float64.

The sequences of an oracle's tree go through the real terms of `PENALTIES` and the real loss, each weighed by its
probability: what a training step does on average.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.studies.claims.row import Claim, Row, in_float64
from kljax.kl import divergences, estimators, oracle
from kljax.kl.penalties import PENALTIES, Penalty, Term, zero
from kljax.kl.sequences import log_ratio, masked_sum, on_policy
from kljax.policy.losses import score_function
from kljax.types import Scores

ROUNDING = 1e-10  # what float64 may lose in a few hundred operations, far below any digit that is stated
TREES = 40
VOCAB, DEPTH = 4, 3


# Expected gradients ---------------------------------------------------------------------------------------------------


def scores_of(tree: oracle.Tree, logits: Float[Array, "states V"], ref_logits: Float[Array, "states V"]) -> Scores:
    """Figures that a policy and a reference, tables of logits, give for every token of every sequence."""
    here, ref_here = logits[tree.rows], ref_logits[tree.rows]
    reverse = divergences.reverse_kl(here, ref_here)

    def chosen(each: Float[Array, "B T V"]) -> Float[Array, "B T"]:
        return jnp.take_along_axis(jax.nn.log_softmax(each), jnp.asarray(tree.tokens)[..., None], -1)[..., 0]

    forward, entropy = divergences.forward_kl(here, ref_here), divergences.entropy(here)
    return Scores(chosen(here), chosen(ref_here), reverse, forward, divergence=reverse, entropy=entropy)


def expected_loss(
    tree: oracle.Tree,
    penalty: Penalty,
    logits: Float[Array, "states V"],
    ref_logits: Float[Array, "states V"],
    reward: Float[Array, "B"] | None = None,
    beta: float = 1.0,
) -> Float[Array, ""]:
    """A step's loss, each sequence weighed by its probability: its gradient is −∇E[reward] + beta · the penalty's."""
    scores, mask = scores_of(tree, logits, ref_logits), jnp.asarray(tree.mask)
    weights = on_policy(mask)
    probability = jax.lax.stop_gradient(jnp.exp(masked_sum(scores.logp, mask)))
    returns = -beta * penalty.from_reward(scores, mask, weights)
    returns = returns if reward is None else reward[:, None] + returns
    # The loss is a mean over B sequences: returns times B · probability make it the expectation.
    through_reward = score_function(scores.logp, probability.size * probability[:, None] * returns, mask)
    added = masked_sum(penalty.to_loss(scores, mask, weights), mask)
    return through_reward + beta * jnp.sum(probability * added)


def _with_policy_weight(estimator: Callable[..., Float[Array, "B T"]]) -> Term:
    """The estimator of each token, differentiated through w = pi/stop(pi), which is 1 in value."""

    def term(scores, mask, weights):
        logp = jnp.where(mask, scores.logp, 0.0)
        return weights.token * estimator(log_ratio(scores.logp, scores.ref_logp, mask), logp - jax.lax.stop_gradient(logp))

    return term


ALL = PENALTIES | {
    # in use elsewhere, and no row of ours
    "weighted_k1_loss": Penalty(zero, _with_policy_weight(estimators.weighted_k1), "token-local part of ∇KL(pi‖rho)"),
    "weighted_k2_loss": Penalty(zero, _with_policy_weight(estimators.weighted_k2), "token-local ∇E[u²/2]"),
}


@in_float64
def gradients(problems: Sequence[oracle.Problem], names: Iterable[str]) -> dict[str, Float[np.ndarray, "problems states V"]]:
    """The expected gradient of each penalty in the policy's logits, for problems on one and the same tree."""
    tree = problems[0].tree

    def of_one(logits, ref_logits):
        return {name: jax.grad(lambda at, name=name: expected_loss(tree, ALL[name], at, ref_logits))(logits) for name in names}

    logits, ref_logits = (jnp.asarray([getattr(p, field) for p in problems]) for field in ("logits", "ref_logits"))
    return {name: np.asarray(each) for name, each in jax.jit(jax.vmap(of_one))(logits, ref_logits).items()}


# Claim 1 --------------------------------------------------------------------------------------------------------------

ONE_STATE = Claim(1, "Liu et al. 2025")
P, Q = 0.8, 0.5  # pi(A), rho(A)
STATED = {
    "k1_reward": "1.386294",
    "k1_loss": "0",
    "k2_loss": "1.386294",
    "k3_loss": "1.875",
    "k3_reward": "-0.488706",
    "k2_reward": "-0.309343",
    "weighted_k3_loss": "1.386294",
    "weighted_k2_loss": "1.076952",
    # not in the table of claim 1: the same truth by the exact KL
    "exact": "1.386294",
    "exact_token": "1.386294",
}


def two_actions(p: Float[Array, ""]) -> Float[Array, "1 2"]:
    """A table of one state with the log-probs of its two actions."""
    return jnp.log(jnp.stack([p, 1 - p]))[None]


@cache
@in_float64
def one_state_gradients() -> dict[str, float]:
    """d/d pi(A) of what each penalty makes of one state with two actions, by its name."""
    tree = oracle.Tree(2, 1, ends=())

    def losses(p: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
        return {name: expected_loss(tree, ALL[name], two_actions(p), two_actions(jnp.asarray(Q))) for name in STATED}

    return {name: float(slope) for name, slope in jax.jit(jax.jacobian(losses))(jnp.asarray(P)).items()}


@in_float64
def penalties_of_one_state() -> list[Row]:
    """The table of claim 1."""
    obtained = one_state_gradients()
    of_kl = jax.grad(lambda p: divergences.reverse_kl(two_actions(p), two_actions(jnp.asarray(Q)))[0])
    truth = jax.jit(of_kl)(jnp.asarray(P))
    rows = [ONE_STATE.figure("truth: d KL(pi‖rho)/d pi(A)", "1.386294", truth)]
    for name, stated in STATED.items():
        what, found = f"{name}: d/d pi(A)", obtained[name]
        exactly_zero = name == "k1_loss"
        rows.append(ONE_STATE.equal(what, 0, found, ROUNDING) if exactly_zero else ONE_STATE.figure(what, stated, found))
    return rows


@in_float64
def formulas_of_one_state() -> list[Row]:
    """The same gradients as the formulas of claim 1 and the oracle have them, and w·k3 against k2 sample by sample."""
    obtained, p, q = one_state_gradients(), np.array([P, 1 - P]), np.array([Q, 1 - Q])
    u, slope = np.log(p / q), np.array([1.0, -1.0])  # slope: d pi/d pi(A), so that E[f ∇log pi] = slope · f
    reverse, forward = slope @ u, -slope @ (q / p)
    formulas = {
        "k1_reward": reverse,
        "k1_loss": 0.0,
        "k2_loss": reverse,
        "k3_loss": forward,
        "k3_reward": reverse - forward,
        "k2_reward": slope @ u**2 / 2,
        "weighted_k3_loss": reverse,
        "weighted_k2_loss": slope @ (u**2 / 2 + u),
    }
    tree = oracle.Tree(2, 1, ends=())
    problem = oracle.Problem(tree, np.log(p)[None], np.log(q)[None], np.zeros(2))
    by_oracle = {name: oracle.penalty(problem, name).gradient[0, 0] / (P * (1 - P)) for name in PENALTIES}

    def k3_less_k2(at: Float[Array, ""]) -> Float[Array, "B T"]:
        scores, mask = scores_of(tree, two_actions(at), two_actions(jnp.asarray(Q))), jnp.asarray(tree.mask)
        k3, k2 = (ALL[name].to_loss(scores, mask, on_policy(mask)) for name in ("weighted_k3_loss", "k2_loss"))
        return k3 - k2

    of_samples = jax.jit(jax.jacobian(k3_less_k2))(jnp.asarray(P))
    return [
        ONE_STATE.equal("penalties against their formulas, worst", 0, _worst(obtained, formulas), ROUNDING),
        ONE_STATE.equal("penalties against the oracle, worst", 0, _worst(obtained, by_oracle), ROUNDING),
        ONE_STATE.equal("w·k3 less k2 of each sample, worst", 0, jnp.max(jnp.abs(of_samples)), ROUNDING),
    ]


def _worst(obtained: dict[str, float], expected: dict[str, float]) -> float:
    return max(abs(obtained[name] - value) for name, value in expected.items())


# Claim 2 --------------------------------------------------------------------------------------------------------------

SEQUENCE = Claim(2, "Tang & Munos 2025")
OF_SEQUENCE, OF_TOKEN = ("exact", "k1_reward"), ("exact_token", "k2_loss", "weighted_k3_loss", "weighted_k1_loss")


def two_steps(p: float = 0.5) -> oracle.Problem:
    """The example of claim 2: after token 1, which pi takes with probability `p`, policy and reference differ widely."""
    policy = np.log([[1 - p, p], [0.5, 0.5], [0.01, 0.99]])
    reference = np.log([[0.25, 0.75], [0.5, 0.5], [0.99, 0.01]])
    return oracle.Problem(oracle.Tree(2, 2, ends=()), policy, reference, np.zeros(4))


def sequence_against_token() -> list[Row]:
    """The gradient in the first step's logit of token 1: of the sequence, and token-local."""
    problem = two_steps()
    found = gradients([problem], OF_SEQUENCE + OF_TOKEN)
    rows = [SEQUENCE.figure("sequence KL, by finite differences", "0.85115", _difference_quotient(problem, (0, 1)))]
    for stated, names in (("0.85115", OF_SEQUENCE), ("-0.27465", OF_TOKEN)):
        for name in names:
            rows.append(SEQUENCE.figure(f"{name}: logit of token 1", stated, found[name][0, 0, 1]))
            if name in PENALTIES:
                by_oracle = oracle.penalty(problem, name).gradient[0, 1]
                rows.append(SEQUENCE.figure(f"{name}: the same by the oracle", stated, by_oracle))
    return rows


def _difference_quotient(problem: oracle.Problem, entry: tuple[int, int], step: float = 1e-5) -> float:
    """∂KL(pi‖rho)/∂logit of whole sequences, by central differences."""
    ref_logp = oracle.sequence_logp(problem.tree, problem.ref_logits)

    def kl_at(change: float) -> float:
        logits = problem.logits.copy()
        logits[entry] += change
        return float(oracle.kl(oracle.sequence_logp(problem.tree, logits), ref_logp))

    return (kl_at(step) - kl_at(-step)) / (2 * step)


@cache
def random_trees() -> tuple[oracle.Problem, ...]:
    """Tabular policies with V = 4 and T = 3, all sequences full, their logits the reference's + standard normal ones."""
    return tuple(oracle.random_tree(seed, VOCAB, DEPTH, ends=()) for seed in range(TREES))


@cache
def gradients_on_random_trees() -> dict[str, Float[np.ndarray, "trees states V"]]:
    """The expected gradient of each penalty on each of them."""
    return gradients(random_trees(), ALL)


def token_local_error() -> list[Row]:
    """‖token-local − sequence gradient‖/‖sequence gradient‖ over random trees: the same for every loss-side fix.

    The mean depends on how far policy and reference are apart: it is about a third for logits that differ by standard normal
    ones, 0.09 for 0.3 times those. Its standard error over 40 trees is 0.04; 0.1 is what "about" is taken to mean.
    """
    found = gradients_on_random_trees()
    errors = {name: _relative(found[name], found["exact"]) for name in OF_TOKEN if name != "exact_token"}
    rows = [
        SEQUENCE.equal(f"{name}: mean relative error, random trees", 1 / 3, error.mean(), tolerance=0.1)
        for name, error in errors.items()
    ]
    spread = np.ptp(np.stack(list(errors.values())), axis=0).max()
    return [*rows, SEQUENCE.equal("relative error: between the three, worst", 0, spread, ROUNDING)]


def penalties_on_random_trees() -> list[Row]:
    """Every row of the table of penalties through the real code, against the oracle's."""

    def worst(name: str) -> float:
        by_oracle = np.array([oracle.penalty(problem, name).gradient for problem in random_trees()])
        return float(np.abs(gradients_on_random_trees()[name] - by_oracle).max())

    return [SEQUENCE.equal(f"{name}: less the oracle's, random trees", 0, worst(name), ROUNDING) for name in PENALTIES]


def _relative(actual: Float[np.ndarray, "n states V"], true: Float[np.ndarray, "n states V"]) -> Float[np.ndarray, "n"]:
    return np.linalg.norm(actual - true, axis=(1, 2)) / np.linalg.norm(true, axis=(1, 2))


# Claim 10 -------------------------------------------------------------------------------------------------------------

F_DIVERGENCES = Claim(10, "Go et al. 2023")
TABLE = {
    # label: (row of GENERATORS, multiple of it, f(t), f′(t)), t = pi/p with p the target
    "forward KL(p‖pi)": ("forward_kl", 1, lambda t: -np.log(t), lambda t: -1 / t),
    "reverse KL(pi‖p)": ("reverse_kl", 1, lambda t: t * np.log(t), lambda t: np.log(t) + 1),
    "total variation": ("total_variation", 1, lambda t: abs(1 - t) / 2, lambda t: np.sign(t - 1) / 2),
    "Jensen–Shannon ×2": (
        "jensen_shannon",
        2,
        lambda t: t * np.log(2 * t / (t + 1)) + np.log(2 / (t + 1)),
        lambda t: np.log(2 * t / (t + 1)),
    ),
    "χ²(p‖pi)": ("chi_squared_of_ref", 1, lambda t: (1 - t) ** 2 / t, lambda t: 1 - 1 / t**2),
    "χ²(pi‖p)": ("chi_squared", 1, lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
}
PAIRS, OUTCOMES = 20, 7


@in_float64
def f_divergences() -> list[Row]:
    """D_f(pi‖p) = E_p f(pi/p) and ∇D_f = E_pi[f′(pi/p) ∇log pi] in the logits of pi: the worst of 20 random pairs.

    Errors are relative to the largest value or entry.
    """
    logits, target = np.random.default_rng(0).normal(size=(2, PAIRS, OUTCOMES))
    pi, p = (np.exp(oracle.log_softmax(x)) for x in (logits, target))

    def total(name: str, multiple: int, at: Float[Array, "pairs n"]) -> tuple[Float[Array, ""], Float[Array, "pairs"]]:
        values = multiple * divergences.f_divergence(at, jnp.asarray(target), divergences.GENERATORS[name])
        return jnp.sum(values), values

    def all_of_them(at: Float[Array, "pairs n"]) -> dict[str, Any]:
        return {label: jax.grad(partial(total, *row[:2]), has_aux=True)(at) for label, row in TABLE.items()}

    rows, found = [], jax.jit(all_of_them)(jnp.asarray(logits))
    for label, (_, _, f, slope) in TABLE.items():
        each = slope(pi / p)
        by_table = pi * (each - np.sum(pi * each, -1, keepdims=True)), np.sum(p * f(pi / p), -1)
        for what, actual, expected in zip(("gradient", "value"), found[label], by_table, strict=True):
            error = np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
            rows.append(F_DIVERGENCES.equal(f"{label}: {what}, relative error", 0, error, ROUNDING))
    return rows
