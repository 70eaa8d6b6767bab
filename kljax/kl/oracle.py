"""The judge: exact optima, values and gradients by enumeration, in plain NumPy and float64, sharing no code with the rest.

Two levels. A *finite* problem is a reference log-prob and a reward for each of n outcomes, which may be whole sequences:
optimum, frontier, regret, best of n. A *tree* is all sequences over a vocabulary up to a depth; a policy on it is a table
of logits, a row for each state (the tokens so far): soft values, fixed points, and the expected gradient of every penalty.
Objective: J(pi) = E_pi[reward] − beta·KL(pi‖rho), beta in reward units per nat.

What is handed over is looked at: log-probs are <= 0 and their probabilities sum to 1, and logits are no probabilities.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

MAX_SEQUENCES = 200_000

Vector = Float[np.ndarray, "n"]
Table = Float[np.ndarray, "states V"]
"""Logits (or values) of every token in every state."""


# Finite problems ------------------------------------------------------------------------------------------------------


def kl(logp: Float[np.ndarray, "*dims n"], ref_logp: Float[np.ndarray, "*dims n"]) -> Float[np.ndarray, "*dims"]:
    """Σ p (log p − log q) over the last axis, nats; outcomes that p forbids count 0.

    Raises:
        ValueError: where one is no log-probs.

    >>> print(f"{kl(np.log([1/2, 1/2]), np.log([1/4, 3/4])):.5f}")  # ½ log 2 + ½ log ⅔
    0.14384
    """
    _check_log_probs(logp=logp, ref_logp=ref_logp)
    with np.errstate(invalid="ignore"):
        terms = np.exp(logp) * (logp - ref_logp)
    return np.asarray(np.where(logp == -np.inf, 0.0, terms).sum(-1))


def objective(logp: Vector, ref_logp: Vector, reward: Vector, beta: float) -> float:
    """J(pi) = E[reward] − beta·KL(pi‖rho).

    >>> rho, reward = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    >>> print(f"{objective(rho, rho, reward, beta=1.0):.5f} {optimum(rho, reward, beta=1.0).objective:.5f}")
    0.70000 1.02722
    """
    return float(np.exp(logp) @ reward - beta * kl(logp, ref_logp))


@dataclass(frozen=True)
class Optimum:
    """pi* = rho·exp(reward/beta)/Z as log-probs, log Z, J* = beta·log Z, and the E[reward] and KL(pi*‖rho) of pi*."""

    logp: Vector
    log_z: float
    objective: float
    reward: float
    kl: float


def optimum(ref_logp: Vector, reward: Vector, beta: float) -> Optimum:
    """The policy that maximises J (Korbak et al. 2022, arXiv:2205.11275).

    >>> rho, reward = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    >>> best = optimum(rho, reward, beta=1.0)
    >>> print(np.exp(best.logp).round(5), f"{best.reward:.5f} {best.kl:.5f}")
    [0.179   0.29194 0.52906] 1.35006 0.32283
    """
    _check_beta(beta)
    _check_log_probs(ref_logp=ref_logp)
    tilted = ref_logp + reward / beta
    log_z = float(_logsumexp(tilted))
    logp = tilted - log_z
    return Optimum(logp, log_z, beta * log_z, float(np.exp(logp) @ reward), float(kl(logp, ref_logp)))


def regret(logp: Vector, ref_logp: Vector, reward: Vector, beta: float) -> float:
    """J* − J(pi), which is beta·KL(pi‖pi*).

    >>> rho, reward = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    >>> print(f"{regret(rho, rho, reward, beta=1.0):.5f}")  # 1.02722 − 0.7
    0.32722
    """
    return beta * float(kl(logp, optimum(ref_logp, reward, beta).logp))


@dataclass(frozen=True)
class Frontier:
    """E*[reward] and KL(pi*‖rho) at each beta, with dE/dbeta = −Var*/beta² and dKL/dbeta = −Var*/beta³."""

    beta: Vector
    reward: Vector
    kl: Vector
    reward_slope: Vector
    kl_slope: Vector


def frontier(ref_logp: Vector, reward: Vector, betas: Float[np.ndarray, "betas"]) -> Frontier:
    """The best that any policy can do at each KL; along it dE/dKL = beta.

    >>> rho, reward = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    >>> line = frontier(rho, reward, np.array([0.5, 1.0, 2.0]))
    >>> print(line.kl.round(5), line.reward.round(5))
    [0.91548 0.32283 0.08353] [1.76411 1.35006 1.02838]
    """
    optima = [optimum(ref_logp, reward, beta) for beta in betas]
    variance = np.array([np.exp(best.logp) @ (reward - best.reward) ** 2 for best in optima])
    means = np.array([best.reward for best in optima])
    return Frontier(betas, means, np.array([best.kl for best in optima]), -variance / betas**2, -variance / betas**3)


def forward_optimum(ref_logp: Vector, reward: Vector, beta: float) -> tuple[Vector, float]:
    """The policy that maximises E[reward] − beta·KL(rho‖pi), the *forward* KL: pi = beta·rho/(Λ − reward) as log-probs, and Λ.

    >>> rho, reward = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
    >>> logp, multiplier = forward_optimum(rho, reward, beta=1.0)
    >>> print(np.exp(logp).round(5), f"{multiplier:.5f}")
    [0.21246 0.22166 0.56588] 2.35343
    """
    _check_beta(beta)
    _check_log_probs(ref_logp=ref_logp)
    possible = ref_logp > -np.inf
    rho, best = np.exp(ref_logp), reward[possible].max()
    gap = best - reward  # of each outcome to the best
    # In terms of Λ − best, on a logarithmic scale, since the best outcome may be rare: at `low` it alone has mass 1, at `high`
    # no outcome has more than under rho.
    low, high = np.log(beta) + ref_logp[possible & (gap == 0)].max(), np.log(beta)
    for _ in range(200):
        middle = 0.5 * (low + high)
        mass = np.sum(beta * rho[possible] / (np.exp(middle) + gap[possible]))
        low, high = (middle, high) if mass > 1 else (low, middle)
    logp = np.full_like(ref_logp, -np.inf)
    logp[possible] = np.log(beta) + ref_logp[possible] - np.log(np.exp(high) + gap[possible])
    return logp - _logsumexp(logp), float(best + np.exp(high))


def best_of_n(ref_logp: Vector, reward: Vector, n: int) -> Vector:
    """Log-probs of the best of n samples of rho: F(y)ⁿ − F⁻(y)ⁿ, outcomes of equal reward sharing theirs as under rho.

    >>> print(np.exp(best_of_n(np.log([1/2, 1/2]), np.array([0.0, 1.0]), n=2)))  # the worse one only where both draws are
    [0.25 0.75]
    """
    _check_log_probs(ref_logp=ref_logp)
    if n < 1:
        raise ValueError(f"n: got {n}, expected at least 1 sample.")
    rho, levels = np.exp(ref_logp), np.searchsorted(np.unique(reward), reward)
    mass = np.bincount(levels, weights=rho)
    upto = np.cumsum(mass) / mass.sum()
    chosen = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rho > 0, np.log(chosen[levels]) + ref_logp - np.log(mass[levels]), -np.inf)


def best_of_n_kl_bound(n: int) -> float:
    """log n − (n − 1)/n: an upper bound of KL(best of n‖rho), not its value (Beirami et al. 2024, arXiv:2401.01879).

    >>> print(f"{best_of_n_kl_bound(4):.5f} {best_of_n_kl_bound(16):.5f}")
    0.63629 1.83509
    """
    return float(np.log(n) - (n - 1) / n)


# Trees ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """All sequences over tokens 0 … vocab − 1 that end with one of `ends` or with their depth-th token (no ends: all are full).

    Raises:
        ValueError: where there are more than MAX_SEQUENCES.

    >>> Tree(vocab=2, depth=2).sequences  # token 0 ends
    [(0,), (1, 0), (1, 1)]
    """

    vocab: int
    depth: int
    ends: tuple[int, ...] = (0,)

    def __post_init__(self):
        if self.vocab < 2 or self.depth < 1 or not all(0 <= token < self.vocab for token in self.ends):
            raise ValueError(f"tree: got {self}, expected vocab >= 2, depth >= 1 and ends that are tokens (or none).")
        if (count := self.count) > MAX_SEQUENCES:
            many = f"{count:,}" if count < 10**15 else f"about 10^{self.depth * np.log10(self.vocab):.0f}"
            raise ValueError(
                f"tree: vocab {self.vocab} and depth {self.depth} make {many} sequences, expected at most "
                f"{MAX_SEQUENCES:,} to enumerate; lower one of the two."
            )

    @property
    def count(self) -> int:
        """The number of sequences."""
        ending = len(set(self.ends))
        going_on = self.vocab - ending
        return going_on**self.depth + ending * sum(going_on**t for t in range(self.depth))

    @cached_property
    def states(self) -> dict[tuple[int, ...], int]:
        """The row of each state, shorter ones first."""
        going_on = [token for token in range(self.vocab) if token not in self.ends]
        prefixes = (p for t in range(self.depth) for p in itertools.product(going_on, repeat=t))
        return {prefix: row for row, prefix in enumerate(prefixes)}

    @cached_property
    def sequences(self) -> list[tuple[int, ...]]:
        """Every sequence, in the order of state and last token."""
        tokens = range(self.vocab)
        return [(*p, a) for p in self.states for a in tokens if a in self.ends or len(p) == self.depth - 1]

    @cached_property
    def tokens(self) -> Int[np.ndarray, "B T"]:
        """The sequences as rows, padded with 0."""
        return np.array([s + (0,) * (self.depth - len(s)) for s in self.sequences])

    @cached_property
    def mask(self) -> Bool[np.ndarray, "B T"]:
        """True at real tokens, the ending one included."""
        return np.arange(self.depth) < np.array([len(s) for s in self.sequences])[:, None]

    @cached_property
    def rows(self) -> Int[np.ndarray, "B T"]:
        """The state before each token; 0 under padding."""
        return np.array([[self.states[s[:t]] if t < len(s) else 0 for t in range(self.depth)] for s in self.sequences])

    @cached_property
    def next(self) -> Int[np.ndarray, "states V"]:
        """Where a token leads: a later state's row, or −1 − i for the end of sequence i."""
        ends = {sequence: -1 - i for i, sequence in enumerate(self.sequences)}
        return np.array([[self.states.get((*p, a), ends.get((*p, a))) for a in range(self.vocab)] for p in self.states])


@dataclass(frozen=True)
class Problem:
    """A tree with a policy and a reference on it, and the reward of each sequence."""

    tree: Tree
    logits: Table
    ref_logits: Table
    reward: Vector


def random_tree(seed: int, vocab: int, depth: int, ends: tuple[int, ...] = (0,), spread: float = 1.0) -> Problem:
    """A problem with normal logits and rewards; the policy's logits are the reference's + `spread` × normal ones."""
    tree, rng = Tree(vocab, depth, ends), np.random.default_rng(seed)
    reference, step = rng.normal(size=(2, len(tree.states), vocab))
    return Problem(tree, reference + spread * step, reference, rng.normal(size=tree.count))


def sequence_logp(tree: Tree, logits: Table) -> Float[np.ndarray, "B"]:
    """log pi of every sequence.

    >>> tree = Tree(vocab=2, depth=2)
    >>> print(np.exp(sequence_logp(tree, np.zeros((2, 2)))))
    [0.5  0.25 0.25]
    """
    return np.where(tree.mask, log_softmax(logits)[tree.rows, tree.tokens], 0.0).sum(-1)


def conditionals(tree: Tree, logp: Float[np.ndarray, "B"]) -> Table:
    """The policy behind the log-probs of all sequences, as a table: log pi(a|s) in every state (NaN where it never comes).

    >>> print(np.exp(conditionals(Tree(vocab=2, depth=2), np.log([0.5, 0.25, 0.25]))))
    [[0.5 0.5]
     [0.5 0.5]]
    """
    _check_log_probs(logp=logp)
    mass = np.zeros(tree.next.shape)
    for i, sequence in enumerate(tree.sequences):
        for t, token in enumerate(sequence):
            mass[tree.states[sequence[:t]], token] += np.exp(logp[i])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(mass) - np.log(mass.sum(-1, keepdims=True))


def visits(tree: Tree, logits: Table) -> Float[np.ndarray, "states"]:
    """The probability that a sequence passes each state.

    >>> print(visits(Tree(vocab=2, depth=3), np.zeros((3, 2))))
    [1.   0.5  0.25]
    """
    visited, p = np.zeros(len(tree.states)), np.exp(log_softmax(logits))
    visited[0] = 1.0
    for row, following in enumerate(tree.next):  # shorter states come first
        later = following >= 0
        visited[following[later]] += visited[row] * p[row, later]
    return visited


def soft_values(tree: Tree, ref_logits: Table, reward: Vector, beta: float) -> tuple[Float[np.ndarray, "states"], Table]:
    """V(s) = beta·log Σ_a rho(a|s)·exp(Q(s, a)/beta) and Q, the soft value of what a leads to; J* is V of the first state.

    >>> tree, reward = Tree(vocab=2, depth=2), np.array([0.0, 1.0, 2.0])
    >>> print(f"{soft_values(tree, np.zeros((2, 2)), reward, beta=1.0)[0][0]:.5f}")
    1.10752
    >>> print(f"{optimum(np.log([0.5, 0.25, 0.25]), reward, beta=1.0).objective:.5f}")
    1.10752
    """
    _check_beta(beta)
    log_rho = log_softmax(ref_logits)
    return _backward(tree, reward, lambda row, q: beta * float(_logsumexp(log_rho[row] + q / beta)))


def optimal_logits(tree: Tree, ref_logits: Table, reward: Vector, beta: float) -> Table:
    """pi*(a|s) = rho(a|s)·exp((Q − V)/beta), as log-probs: token by token the same policy as `optimum` of the sequences.

    >>> tree, reward = Tree(vocab=2, depth=2), np.array([0.0, 1.0, 2.0])
    >>> best = sequence_logp(tree, optimal_logits(tree, np.zeros((2, 2)), reward, beta=1.0))
    >>> print(np.allclose(best, optimum(np.log([0.5, 0.25, 0.25]), reward, beta=1.0).logp))
    True
    """
    value, q = soft_values(tree, ref_logits, reward, beta)
    return log_softmax(ref_logits) + (q - value[:, None]) / beta


def policy_values(tree: Tree, logits: Table, reward: Vector) -> tuple[Float[np.ndarray, "states"], Table]:
    """V(s) and Q(s, a): the expected reward of the sequence from there on under the policy.

    >>> print(policy_values(Tree(vocab=2, depth=2), np.zeros((2, 2)), np.array([0.0, 1.0, 2.0]))[0])
    [0.75 1.5 ]
    """
    p = np.exp(log_softmax(logits))
    return _backward(tree, reward, lambda row, q: float(p[row] @ q))


def controlled_decoding(tree: Tree, ref_logits: Table, reward: Vector, beta: float) -> Table:
    """rho(a|s)·exp(Q/beta), normalised, Q the expected reward under *rho* (Mudgal et al. 2023, arXiv:2310.17022), as log-probs.

    Not the optimum of J, whose Q is soft; the two agree where one token is left.
    """
    _check_beta(beta)
    return log_softmax(log_softmax(ref_logits) + policy_values(tree, ref_logits, reward)[1] / beta)


def token_local_optimum(tree: Tree, ref_logits: Table, reward: Vector, beta: float, direction: str) -> Table:
    """Where a token-local penalty comes to rest, as log-probs: in each state the best reply to the policy's own later ones.

    `reverse`: rho·exp(Q/beta)/Z; `forward`: beta·rho/(Λ − Q); Q is the expected reward under the policy that results, without
    the KL of later states, which a token-local penalty does not see.
    """
    best = {"reverse": lambda *problem: optimum(*problem).logp, "forward": lambda *problem: forward_optimum(*problem)[0]}
    if direction not in best:
        raise ValueError(f"direction: got {direction!r}, expected one of {', '.join(best)}.")
    log_rho, logp = log_softmax(ref_logits), np.zeros_like(ref_logits)

    def respond(row: int, q: Vector) -> float:
        logp[row] = best[direction](log_rho[row], q, beta)
        return float(np.exp(logp[row]) @ q)

    _backward(tree, reward, respond)
    return logp


# Penalties ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """Of a penalty, on-policy: its expected sum over a sequence, nats, and its expected gradient in the policy's logits."""

    value: float
    gradient: Table


def penalty(problem: Problem, name: str, divergence: str = "reverse_kl", **parameters: float) -> Expectation:
    """The expectation and gradient that the row `name` of the table of penalties states, for a divergence of the states.

    Raises:
        ValueError: where there is no such penalty or divergence.
    """
    d, log_p, log_q = visits(problem.tree, problem.logits), log_softmax(problem.logits), log_softmax(problem.ref_logits)
    p, q, u = np.exp(log_p), np.exp(log_q), log_p - log_q
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence: got {divergence!r}, expected one of {', '.join(DIVERGENCES)}.")
    costs = {"k1": u, "k2": u**2 / 2, "k3": np.expm1(-u) + u}

    def local(divergence: str, **parameters: float) -> Table:
        slope = DIVERGENCES[divergence][1](p, q, **parameters)
        return d[:, None] * p * (slope - np.sum(p * slope, -1, keepdims=True))

    def through_reward(cost: Table) -> Table:
        """Of E[Σ cost] with the costs held fixed: tokens are credited with what they and all later tokens cost."""
        value, to_go = _backward(problem.tree, np.zeros(problem.tree.count), lambda row, after: p[row] @ (after + cost[row]))
        return d[:, None] * p * (to_go + cost - value[:, None])

    state = DIVERGENCES[divergence][0](p, q, **parameters)
    rows: dict[str, tuple[Vector, Callable[[], Table]]] = {
        "exact": (state, lambda: local(divergence, **parameters) + through_reward(np.repeat(state[:, None], p.shape[1], 1))),
        "exact_token": (state, lambda: local(divergence, **parameters)),
        "k1_reward": (np.sum(p * costs["k1"], -1), lambda: through_reward(costs["k1"])),
        "k2_reward": (np.sum(p * costs["k2"], -1), lambda: through_reward(costs["k2"])),
        "k3_reward": (np.sum(p * costs["k3"], -1), lambda: through_reward(costs["k3"])),
        "k1_loss": (np.sum(p * costs["k1"], -1), lambda: np.zeros_like(p)),
        "k2_loss": (np.sum(p * costs["k2"], -1), lambda: local("reverse_kl")),
        "k3_loss": (np.sum(p * costs["k3"], -1), lambda: local("forward_kl")),
        "weighted_k3_loss": (np.sum(p * costs["k3"], -1), lambda: local("reverse_kl")),
    }
    if name not in rows:
        raise ValueError(f"penalty: got {name!r}, expected one of {', '.join(rows)}.")
    per_state, gradient = rows[name]
    return Expectation(float(d @ per_state), gradient())


DIVERGENCES = {
    # name: (value of the rows of p and q, its derivative in each p)
    "reverse_kl": (lambda p, q: np.sum(p * np.log(p / q), -1), lambda p, q: np.log(p / q)),
    "forward_kl": (lambda p, q: np.sum(q * np.log(q / p), -1), lambda p, q: -q / p),
    "jeffreys": (lambda p, q: np.sum((p - q) * np.log(p / q), -1), lambda p, q: np.log(p / q) - q / p),
    "jensen_shannon": (
        lambda p, q, mix=0.5: np.sum(
            mix * q * np.log(q / (mix * q + (1 - mix) * p)) + (1 - mix) * p * np.log(p / (mix * q + (1 - mix) * p)), -1
        ),
        lambda p, q, mix=0.5: (1 - mix) * np.log(p / (mix * q + (1 - mix) * p)),
    ),
    "renyi": (
        lambda p, q, alpha: np.log(np.sum(p**alpha * q ** (1 - alpha), -1)) / (alpha - 1),
        lambda p, q, alpha: (
            alpha / (alpha - 1) * (p / q) ** (alpha - 1) / np.sum(p**alpha * q ** (1 - alpha), -1, keepdims=True)
        ),
    ),
    "alpha_divergence": (
        lambda p, q, alpha: (np.sum(p**alpha * q ** (1 - alpha), -1) - 1) / (alpha * (alpha - 1)),
        lambda p, q, alpha: (p / q) ** (alpha - 1) / (alpha - 1),
    ),
    "chi_squared": (lambda p, q: np.sum((p - q) ** 2 / q, -1), lambda p, q: 2 * p / q),
    "total_variation": (lambda p, q: 0.5 * np.sum(np.abs(p - q), -1), lambda p, q: 0.5 * np.sign(p - q)),
    "squared_hellinger": (lambda p, q: 0.5 * np.sum((p**0.5 - q**0.5) ** 2, -1), lambda p, q: -0.5 * (q / p) ** 0.5),
}
"""The definitions, as written in the literature; for distributions without zeros and away from the limits of α and mix."""


def log_softmax(logits: Float[np.ndarray, "*dims n"]) -> Float[np.ndarray, "*dims n"]:
    """Log-probs of logits over the last axis.

    Raises:
        ValueError: where they are probabilities by their looks: every row >= 0, of sum 1, and not all uniform or one-hot.

    >>> print(np.exp(log_softmax(np.zeros(4))))
    [0.25 0.25 0.25 0.25]
    """
    if _are_probabilities(logits):
        raise ValueError(
            "logits: got probabilities (every row is >= 0 and sums to 1), expected logits; hand over np.log of them, or, if "
            "they are logits, the same less 1."
        )
    return logits - _logsumexp(logits, keepdims=True)


def _logsumexp(x, keepdims: bool = False):
    highest = np.max(x, axis=-1, keepdims=True)
    total = highest + np.log(np.sum(np.exp(x - highest), axis=-1, keepdims=True))
    return total if keepdims else total[..., 0]


def _backward(tree: Tree, reward: Vector, value_of) -> tuple[Float[np.ndarray, "states"], Table]:
    """V(s) = value_of(row of s, Q(s, ·)), Q the reward of a sequence that ends or the V of the state that follows."""
    value, q = np.zeros(len(tree.states)), np.zeros(tree.next.shape)
    for row in reversed(range(len(value))):
        following = tree.next[row]
        q[row] = np.where(following >= 0, value[np.maximum(following, 0)], reward[-1 - np.minimum(following, -1)])
        value[row] = value_of(row, q[row])
    return value, q


def _are_probabilities(x) -> bool:
    if x.size == 0 or x.shape[-1] < 2 or not (x >= 0).all():
        return False
    telling = (x.max(-1) > x.min(-1)) & (np.count_nonzero(x, axis=-1) > 1)
    return bool((np.abs(x.sum(-1) - 1) < 1e-3).all() and telling.any())


def _check_log_probs(**log_probs) -> None:
    for name, logp in log_probs.items():
        if (highest := np.max(logp)) > 1e-6:
            seen = "probabilities; hand over np.log of them" if _are_probabilities(logp) else "no log-probs"
            raise ValueError(
                f"{name}: got {seen}: the largest is {highest:g}, expected <= 0. Of logits, `log_softmax` makes log-probs."
            )
        total = np.exp(logp).sum(-1)
        within = min(1e-6 * np.shape(logp)[-1], 1e-4)  # what float32 leaves of a softmax over a whole vocabulary
        if (wrong := ~(np.abs(total - 1) <= within)).any():  # NaN, too
            raise ValueError(
                f"{name}: got log-probs whose probabilities sum to {np.extract(wrong, total)[0]:g}, expected 1: `log_softmax` "
                "normalises them."
            )


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta: got {beta}, expected a number > 0: without a penalty the optimum is any best outcome.")
