"""Claims 4 and 5: bias and variance of the estimates of KL, by quadrature, by sampling and by enumeration."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize

from experiments.studies.claims.gradients import random_trees, scores_of, two_steps
from experiments.studies.claims.row import Claim, Row, in_float64
from kljax.kl import divergences, estimators, oracle
from kljax.kl.penalties import PENALTIES
from kljax.kl.sequences import on_policy

# Claim 4 --------------------------------------------------------------------------------------------------------------

SCHULMAN = Claim(4, "Schulman 2020")
ESTIMATORS = {"k1": estimators.k1, "k2": estimators.k2, "k3": estimators.k3}
VARIANCES = {
    # of samples of N(0, 1) against N(μ, 1)
    "k1": lambda mu: mu**2,
    "k2": lambda mu: mu**4 / 2 + mu**6 / 4,
    "k3": lambda mu: np.exp(mu**2) - 1 - mu**2,
}
TABLE = {
    # μ: (estimator, bias / KL, stdev / KL)
    0.1: (("k1", "0", "20.000"), ("k2", ".0025", "1.41774"), ("k3", "0", "1.41657")),
    1.0: (("k1", "0", "2.000"), ("k2", ".25", "1.73205"), ("k3", "0", "1.69503")),
}
QUADRATURE = 1e-9  # relative: sums over the grid are exact to rounding, log densities of up to 98 nats lose some digits
Z = np.linspace(-14, 14, 7_001)  # standard normal deviates: beyond lie 1e-44 of the mass
Z_MASS = np.exp(oracle.log_softmax(-(Z**2) / 2))

LogRatio = Callable[[Float[np.ndarray, "n"]], Float[np.ndarray, "n"]]
"""u = log pi/rho as a function of a standard normal deviate, which a sample of pi is a function of."""


class Moments(NamedTuple):
    """Of an estimate of KL from one sample, nats."""

    mean: float
    stdev: float


@in_float64
def moments(estimator: str, log_ratio: LogRatio) -> Moments:
    """Mean and standard deviation by quadrature over the normal deviate."""
    values = np.asarray(ESTIMATORS[estimator](jnp.asarray(log_ratio(Z))))
    mean = Z_MASS @ values
    return Moments(float(mean), float(np.sqrt(Z_MASS @ (values - mean) ** 2)))


def unit_normals(mu: float) -> LogRatio:
    """Samples of N(0, 1), reference N(μ, 1): u = μ²/2 − μz, KL = μ²/2."""
    return lambda z: mu**2 / 2 - mu * z


def narrow_policy(z: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Samples x = 0.1 + 0.2z of N(0.1, 0.2²), reference N(0, 1): u = −log 0.2 − z²/2 + x²/2."""
    return -np.log(0.2) - z**2 / 2 + (0.1 + 0.2 * z) ** 2 / 2


def schulmans_table() -> list[Row]:
    """KL, bias and standard deviation at μ = 0.1 and 1; what the table calls 0 is 0 to rounding."""
    rows = []
    for mu, of_mu in TABLE.items():
        kl = moments("k1", unit_normals(mu)).mean
        rows.append(SCHULMAN.equal(f"μ = {mu:g}: KL", mu**2 / 2, kl, QUADRATURE))
        for name, bias, stdev in of_mu:
            found = moments(name, unit_normals(mu))
            what, relative_bias = f"μ = {mu:g}, {name}: bias / KL", found.mean / (mu**2 / 2) - 1
            unbiased = bias == "0"
            rows.append(
                SCHULMAN.equal(what, 0, relative_bias, QUADRATURE) if unbiased else SCHULMAN.figure(what, bias, relative_bias)
            )
            rows.append(SCHULMAN.figure(f"μ = {mu:g}, {name}: stdev / KL", stdev, found.stdev / (mu**2 / 2)))
    return rows


def closed_forms() -> list[Row]:
    """Var k1, k2, k3 and the bias of k2 over a range of μ, and where k3 becomes noisier than k1."""
    mus = (0.1, 0.5, 1.0, 1.5, 2.0)
    rows = []
    for name, variance in VARIANCES.items():
        error = max(abs(moments(name, unit_normals(mu)).stdev ** 2 / variance(mu) - 1) for mu in mus)
        rows.append(SCHULMAN.equal(f"Var {name}, μ = 0.1 … 2, worst relative error", 0, error, QUADRATURE))
    bias = max(abs((moments("k2", unit_normals(mu)).mean - mu**2 / 2) / (mu**4 / 8) - 1) for mu in mus)
    rows.append(SCHULMAN.equal("E k2 − KL = μ⁴/8, worst relative error", 0, bias, 1e-8))  # a difference, 800 times smaller
    return [*rows, SCHULMAN.figure("KL above which k3 is noisier than k1", ".628", crossover() ** 2 / 2)]


@cache
def crossover() -> float:
    """The μ at which k3 and k1 have the same standard deviation."""
    root = optimize.brentq(lambda mu: moments("k3", unit_normals(mu)).stdev - moments("k1", unit_normals(mu)).stdev, 0.5, 2.0)
    return float(root)  # pyright: ignore[reportArgumentType]


SIZES = (1_000, 10_000, 100_000, 1_000_000)
SEEDS = 15


@in_float64
def sampled_stdevs(estimator: str) -> Float[np.ndarray, "seeds sizes"]:
    """Of the narrow policy: the sample standard deviation of the first n of a million samples, for each seed."""
    found = np.empty((SEEDS, len(SIZES)))
    for seed in range(SEEDS):
        u = narrow_policy(np.random.default_rng(seed).standard_normal(SIZES[-1]))
        values = np.asarray(ESTIMATORS[estimator](jnp.asarray(u)))
        found[seed] = [values[:n].std(ddof=1) for n in SIZES]
    return found


def infinite_variance() -> list[Row]:
    """N(0.1, 0.2²) against N(0, 1): k1 has a variance and k3 has none, as χ²(rho‖pi) = Var[rho/pi] is infinite.

    rho/pi grows as exp(0.48 z²): its tail has the index 1/0.96, and the sample standard deviation grows about as √n. Single
    samples jump; the median over seeds is taken.
    """
    k1, k3 = (np.median(sampled_stdevs(name), axis=0) for name in ("k1", "k3"))
    exact = moments("k1", narrow_policy).stdev
    rows = [
        SCHULMAN.figure("N(.1, .2²): stdev of k1", ".679", exact),
        # A standard error of k1's sample stdev at n = 1e6 is about 0.001
        SCHULMAN.equal("N(.1, .2²): stdev of 1e6 samples of k1", exact, k1[-1], tolerance=3e-3),
    ]
    for size, before, after in zip(SIZES[1:], k3[:-1], k3[1:], strict=True):
        what = f"N(.1, .2²): k3, stdev at n = {size:,} over n/10"
        rows.append(SCHULMAN.at_least(what, 1.0, after / before))
    return rows


@in_float64
def ratio_is_chi_squared() -> list[Row]:
    """Var[rho/pi] under pi is χ²(rho‖pi), exp(μ²) − 1 for unit normals: k3's variance has it as a term."""
    mu = 1.0
    u, chi_squared = unit_normals(mu)(Z), divergences.chi_squared(jnp.asarray(-((Z - mu) ** 2) / 2), jnp.asarray(-(Z**2) / 2))
    return [
        SCHULMAN.equal("Var[rho/pi] = exp(μ²) − 1 at μ = 1", np.expm1(mu**2), Z_MASS @ np.expm1(-u) ** 2, QUADRATURE),
        SCHULMAN.equal("χ²(rho‖pi) = exp(μ²) − 1 at μ = 1", np.expm1(mu**2), chi_squared, QUADRATURE),
    ]


# Claim 5 --------------------------------------------------------------------------------------------------------------

RAO_BLACKWELL = Claim(5, "Amini et al. 2025")


class Sums(NamedTuple):
    """Over all sequences of a tree: their probability, Σ u_t and Σ KL of the states, nats."""

    probability: Float[np.ndarray, "B"]
    sampled: Float[np.ndarray, "B"]
    rao_blackwell: Float[np.ndarray, "B"]


@partial(jax.jit, static_argnums=0)
def _both_sums(tree: oracle.Tree, logits: Float[Array, "states V"], ref_logits: Float[Array, "states V"]):
    scores, mask = scores_of(tree, logits, ref_logits), jnp.asarray(tree.mask)
    from_first = PENALTIES["k1_reward"].from_reward(scores, mask, on_policy(mask))[:, 0]
    return from_first, estimators.rao_blackwell_sum(scores.reverse_kl, mask)


@in_float64
def sums(problem: oracle.Problem) -> Sums:
    """Both sums of each sequence, by the real estimators."""
    both = _both_sums(problem.tree, jnp.asarray(problem.logits), jnp.asarray(problem.ref_logits))
    return Sums(np.exp(oracle.sequence_logp(problem.tree, problem.logits)), *map(np.asarray, both))


def mean_and_variance(probability: Float[np.ndarray, "B"], values: Float[np.ndarray, "B"]) -> tuple[float, float]:
    """Under the probabilities."""
    mean = probability @ values
    return float(mean), float(probability @ (values - mean) ** 2)


def rao_blackwell_can_have_more_variance() -> list[Row]:
    """The example of claim 2."""
    found = sums(two_steps())
    rows = []
    for label, values, stated in (
        ("sampled sum", found.sampled, "3.31591"),
        ("Rao–Blackwellised sum", found.rao_blackwell, "5.06974"),
    ):
        mean, variance = mean_and_variance(found.probability, values)
        rows += [
            RAO_BLACKWELL.figure(f"{label}: mean", "2.39545", mean),
            RAO_BLACKWELL.figure(f"{label}: variance", stated, variance),
        ]
    return rows


def rao_blackwell_usually_has_less() -> list[Row]:
    """Var of the sampled sum over Var of the Rao–Blackwellised one, and that the mean stays, on random trees."""
    ratios, shifts = [], []
    for problem in random_trees():
        found = sums(problem)
        mean, variance = mean_and_variance(found.probability, found.sampled)
        exact_mean, exact_variance = mean_and_variance(found.probability, found.rao_blackwell)
        ratios.append(variance / exact_variance)
        shifts.append(abs(mean - exact_mean))
    median, within = np.median(ratios), np.mean([10 <= ratio <= 100 for ratio in ratios])
    shown = f"median of {len(ratios)} ({min(ratios):.1f} … {max(ratios):.0f})"
    return [
        RAO_BLACKWELL.equal("mean of one sum less the other's, random trees", 0, max(shifts), 1e-10),
        RAO_BLACKWELL.at_least(f"variance cut, {shown}", 10, median),
        RAO_BLACKWELL.at_most(f"variance cut, {shown}", 100, median),
        RAO_BLACKWELL.at_least("share of trees where it is 10- to 100-fold", 0.5, within),
    ]
