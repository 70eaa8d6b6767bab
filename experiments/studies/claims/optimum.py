"""Claims 3 and 6: the optimum, its frontier, what sampled penalties converge to, and best of n."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.studies.claims.gradients import expected_loss
from experiments.studies.claims.row import Claim, Row, in_float64
from kljax.kl import divergences, oracle
from kljax.kl.penalties import PENALTIES

EXACT = 1e-12  # what CLAIMS.md asks of two ways to the same float64 number

# Claim 3 --------------------------------------------------------------------------------------------------------------

OPTIMUM = Claim(3, "Korbak et al. 2022")
REF_LOGP, REWARD = np.log([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
TABLE = {
    # β: log Z, E[r], KL(π*‖ρ), J*
    0.25: ("6.41848", "1.97165", "1.46813", "1.60462"),
    0.5: ("2.61274", "1.76411", ".91548", "1.30637"),
    1.0: ("1.02722", "1.35006", ".32283", "1.02722"),
    2.0: (".43066", "1.02838", ".08353", ".86132"),
}
AT_BETA_1 = {"forward": (".21246", ".22166", ".56588"), "reverse": (".17900", ".29194", ".52906")}


@in_float64
def reverse_kl(logp: Float[np.ndarray, "*dims n"], ref_logp: Float[np.ndarray, "*dims n"]) -> Float[np.ndarray, "*dims"]:
    """KL(pi‖rho) by the code under test."""
    return np.asarray(divergences.reverse_kl(jnp.asarray(logp), jnp.asarray(ref_logp)))


def table_of_optima() -> list[Row]:
    """log Z and E[r] by the oracle, KL by the code under test, J* as E[r] − β·KL of the optimal policy."""
    rows = []
    for beta, stated in TABLE.items():
        best = oracle.optimum(REF_LOGP, REWARD, beta)
        kl = reverse_kl(best.logp, REF_LOGP)
        found = (best.log_z, best.reward, kl, best.reward - beta * kl)
        for label, figure, value in zip(("log Z", "E*[r]", "KL(pi*‖rho)", "J*"), stated, found, strict=True):
            rows.append(OPTIMUM.figure(f"β = {beta:g}: {label}", figure, value))
    return rows


def regret_is_a_kl() -> list[Row]:
    """J* − J(pi) = β·KL(pi‖pi*) for random pi, and J* = β·log Z."""
    rng, worst_regret, worst_value = np.random.default_rng(0), 0.0, 0.0
    for beta in TABLE:
        best = oracle.optimum(REF_LOGP, REWARD, beta)
        logp = np.log(rng.dirichlet(np.ones(3), size=50))
        regret = best.objective - np.array([oracle.objective(pi, REF_LOGP, REWARD, beta) for pi in logp])
        kl_to_best = reverse_kl(logp, np.broadcast_to(best.logp, logp.shape))
        worst_regret = max(worst_regret, np.abs(regret - beta * kl_to_best).max())
        worst_value = max(worst_value, abs(oracle.objective(best.logp, REF_LOGP, REWARD, beta) - beta * best.log_z))
    return [
        OPTIMUM.equal("J* − J(pi) less β KL(pi‖pi*), 200 random pi", 0, worst_regret, EXACT),
        OPTIMUM.equal("J(pi*) less β log Z", 0, worst_value, EXACT),
    ]


def slopes_of_the_frontier() -> list[Row]:
    """dE*/dβ = −Var*/β² and dKL/dβ = −Var*/β³ against central differences, and dE/dKL = β.

    With h = 1e-4·β these are right to a few h², relative to the slope.
    """
    betas, rows = np.array(list(TABLE)), []
    closed = oracle.frontier(REF_LOGP, REWARD, betas)
    h = 1e-4 * betas
    above, below = (oracle.frontier(REF_LOGP, REWARD, betas + sign * h) for sign in (1, -1))
    of_reward, of_kl = (above.reward - below.reward) / (2 * h), (above.kl - below.kl) / (2 * h)
    for i, beta in enumerate(betas):
        rows += [
            OPTIMUM.equal(f"β = {beta:g}: dE/dβ over −Var/β²", 1, of_reward[i] / closed.reward_slope[i], 1e-6),
            OPTIMUM.equal(f"β = {beta:g}: dKL/dβ over −Var/β³", 1, of_kl[i] / closed.kl_slope[i], 1e-6),
            OPTIMUM.equal(f"β = {beta:g}: dE/dKL along the frontier", beta, of_reward[i] / of_kl[i], 1e-6 * beta),
        ]
    return rows


def forward_and_reverse_optimum() -> list[Row]:
    """Where E[r] − KL(rho‖pi) and E[r] − KL(pi‖rho) are highest, at β = 1."""
    forward, dual = oracle.forward_optimum(REF_LOGP, REWARD, 1.0)
    found = {"forward": forward, "reverse": oracle.optimum(REF_LOGP, REWARD, 1.0).logp}
    rows = [OPTIMUM.figure("forward KL, β = 1: Λ", "2.35343", dual)]
    for direction, logp in found.items():
        rows += _figures(f"{direction} KL, β = 1", AT_BETA_1[direction], np.exp(logp))
    return rows


def _figures(label: str, stated: tuple[str, ...], probabilities: Float[np.ndarray, "n"]) -> list[Row]:
    pairs = zip(stated, probabilities, strict=True)
    return [OPTIMUM.figure(f"{label}: pi({outcome})", figure, value) for outcome, (figure, value) in enumerate(pairs)]


STEPS, RATE = 10_000, 1.0  # gradient ascent on the logits: enough for 5 digits, and for k1_loss to be near the argmax


@in_float64
def ascend(penalty: str, beta: float = 1.0) -> Float[np.ndarray, "n"]:
    """Log-probs after gradient ascent from rho, by exact expected gradients, with the three outcomes as whole sequences."""
    tree, reference = oracle.Tree(3, 1, ends=()), jnp.asarray(REF_LOGP)[None]
    slope = jax.grad(lambda at: expected_loss(tree, PENALTIES[penalty], at, reference, jnp.asarray(REWARD), beta))
    logits = jax.jit(lambda at: jax.lax.fori_loop(0, STEPS, lambda _, x: x - RATE * slope(x), at))(reference)
    return np.asarray(jax.nn.log_softmax(logits[0]))


def what_sampled_penalties_converge_to() -> list[Row]:
    """k3 in the loss: the forward optimum. k2 in the loss: the reverse one. k1 in the loss: the best outcome alone."""
    drifted = np.exp(ascend("k1_loss"))
    return [
        *_figures("k3_loss, converged", AT_BETA_1["forward"], np.exp(ascend("k3_loss"))),
        *_figures("k2_loss, converged", AT_BETA_1["reverse"], np.exp(ascend("k2_loss"))),
        OPTIMUM.at_least("k1_loss, after 1e4 steps: pi(argmax)", 0.999, drifted[np.argmax(REWARD)]),
    ]


def token_level_is_sequence_level() -> list[Row]:
    """V(s), pi* = rho·exp((Q − V)/β) token by token, against the optimum of the enumerated sequences."""
    worst_value, worst_policy = 0.0, 0.0
    for seed, beta in itertools.product(range(5), TABLE):
        problem = oracle.random_tree(seed, vocab=4, depth=3)
        tree, ref_logits, reward = problem.tree, problem.ref_logits, problem.reward
        best = oracle.optimum(oracle.sequence_logp(tree, ref_logits), reward, beta)
        value, _ = oracle.soft_values(tree, ref_logits, reward, beta)
        token_by_token = oracle.sequence_logp(tree, oracle.optimal_logits(tree, ref_logits, reward, beta))
        worst_value = max(worst_value, abs(value[0] - best.objective))
        worst_policy = max(worst_policy, np.abs(np.exp(token_by_token) - np.exp(best.logp)).max())
    return [
        OPTIMUM.equal("token level: V(start) less J* of sequences", 0, worst_value, EXACT),
        OPTIMUM.equal("token level: pi* less pi* of sequences", 0, worst_policy, EXACT),
    ]


# Claim 6 --------------------------------------------------------------------------------------------------------------

BEST_OF_N = Claim(6, "Beirami et al. 2024")
BOUNDS = {4: ".63629", 16: "1.83509", 64: "3.17451", 1000: "5.90876"}
UNIFORM = {2: ".1893", 4: ".6288", 10: "1.3611"}


def bounds_of_best_of_n() -> list[Row]:
    """log n − (n − 1)/n as stated, and that no KL(best of n‖rho) of a random problem is above it."""
    rows = [BEST_OF_N.figure(f"n = {n}: bound", stated, oracle.best_of_n_kl_bound(n)) for n, stated in BOUNDS.items()]
    rng, excess = np.random.default_rng(0), -np.inf
    for n in (1, 2, 4, 16, 64, 1000):
        for _ in range(20):
            ref_logp, reward = np.log(rng.dirichlet(np.ones(12))), rng.integers(0, 8, size=12).astype(float)  # with ties
            kl = reverse_kl(oracle.best_of_n(ref_logp, reward, n), ref_logp)
            excess = max(excess, float(kl) - oracle.best_of_n_kl_bound(n))
    return [*rows, BEST_OF_N.at_most("KL less the bound, highest of 120 problems", 0.0, excess, EXACT)]


def best_of_n_of_a_uniform() -> list[Row]:
    """KL(best of n‖rho) of 10 outcomes alike under rho: below the bound, and log 10 in the limit."""
    ref_logp, reward = np.full(10, -np.log(10)), np.arange(10.0)

    def kl(n: int) -> float:
        return float(reverse_kl(oracle.best_of_n(ref_logp, reward, n), ref_logp))

    rows = [BEST_OF_N.figure(f"uniform over 10, n = {n}: KL", stated, kl(n)) for n, stated in UNIFORM.items()]
    # At n = 1000 all but 0.9¹⁰⁰⁰ = 2e-46 lies on the best outcome
    return [*rows, BEST_OF_N.equal("uniform over 10, n = 1000: KL, towards log 10", np.log(10), kl(1000), EXACT)]


def pmf_of_best_of_n() -> list[Row]:
    """F(y)ⁿ − F⁻(y)ⁿ against the best of all 5³ triples, each weighed by its probability."""
    rho, n = np.random.default_rng(1).dirichlet(np.ones(5)), 3
    brute = np.zeros(5)
    for triple in itertools.product(range(5), repeat=n):
        brute[max(triple)] += rho[list(triple)].prod()
    found = np.exp(oracle.best_of_n(np.log(rho), np.arange(5.0), n))
    return [BEST_OF_N.equal("pmf of best of 3 less enumeration's", 0, np.abs(found - brute).max(), EXACT)]


def win_rate(ref_logp: Float[np.ndarray, "n"], n: int) -> float:
    """P(best of n beats one sample of rho), a tie counted half; outcomes in the order of their reward."""
    rho = np.exp(ref_logp)
    lower = np.cumsum(rho) - rho / 2
    return float(np.exp(oracle.best_of_n(ref_logp, np.arange(len(rho), dtype=float), n)) @ lower)


def win_rates() -> list[Row]:
    """At most n/(n + 1), and that where no two samples tie."""
    rng, fine = np.random.default_rng(2), np.full(4000, -np.log(4000))
    excess = max(win_rate(np.log(rng.dirichlet(np.ones(12))), n) - n / (n + 1) for n in (1, 2, 4, 16, 64) for _ in range(20))
    rows = [BEST_OF_N.at_most("win rate less n/(n + 1), highest of 100", 0.0, excess, EXACT)]
    for n in (4, 16):  # 4000 outcomes: ties have a probability of 1/4000, counted half they cost about n/4000²/12
        rows.append(BEST_OF_N.equal(f"win rate without ties, n = {n}", n / (n + 1), win_rate(fine, n), 1e-6))
    return rows
