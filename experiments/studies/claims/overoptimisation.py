"""Claims 7 and 8: the square-root law and overoptimisation, on a Gaussian proxy reward and a heavy-tailed one.

The Gaussian is a fine grid, as a finite problem of the oracle; d = √KL(pi‖rho).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

from experiments.studies.claims.row import Claim, Row
from kljax.kl import oracle

Vector = Float[np.ndarray, "n"]
X = np.arange(-14.0, 24.0, 5e-3)  # the proxy reward, which is N(0, 1) under rho; wide enough for a mean of 12
LOG_RHO = oracle.log_softmax(-(X**2) / 2)

# Claim 7 --------------------------------------------------------------------------------------------------------------

SQUARE_ROOT = Claim(7, "Gaussian identities")


def square_root_law() -> list[Row]:
    """E[r] = 1/β, KL = 1/(2β²) and so E[r] = √(2 KL) for a tilted Gaussian; best of 4 is short of it."""
    rows = []
    for beta in (0.25, 0.5, 1.0, 2.0):
        best = oracle.optimum(LOG_RHO, X, beta)
        rows += [
            SQUARE_ROOT.equal(f"β = {beta:g}: E[r] = 1/β", 1 / beta, best.reward, 1e-9),
            SQUARE_ROOT.equal(f"β = {beta:g}: KL = 1/(2β²)", 1 / (2 * beta**2), best.kl, 1e-9),
            SQUARE_ROOT.equal(f"β = {beta:g}: E[r] over √(2 KL)", 1, best.reward / np.sqrt(2 * best.kl), 1e-9),
        ]
    logp = oracle.best_of_n(LOG_RHO, X, 4)
    share = np.exp(logp) @ X / np.sqrt(2 * oracle.kl(logp, LOG_RHO))
    return [*rows, SQUARE_ROOT.figure("best of 4: E[r] over √(2 KL)", ".9125", share)]


# Claim 8 --------------------------------------------------------------------------------------------------------------

GAO, KWA = Claim(8, "Gao et al. 2022"), Claim(8, "Kwa et al. 2024")
CURVATURE = 0.25  # c of the quadratic gold reward: its peak, d = 1/(2√2·c) = √2, lies in reach of best of n
PEAK, LEAST = 5.0, 2.0  # of the logarithmic gold reward: the proxy mean at its peak, and from where it has its form


def quadratic_gold(x: Vector) -> Vector:
    """x − c·x². Under the tilted rho, N(m, 1) with m = √2·d, its mean is √2·d − 2c·d² − c: d(α − βd) with α = √2, β = 2c.

    The constant −c is the mean under rho itself, which `Curve.gained` takes off.
    """
    return x - CURVATURE * x**2


def logarithmic_gold(x: Vector) -> Vector:
    """x(1 − b·log|x|), b = 1/(1 + log PEAK). Under N(m, 1) its mean is m(1 − b·log m) + O(1/m): about d(α − β log d).

    With m = √2·d: α = √2(1 − ½b·log 2), β = √2·b. The remainder, −b/(2m), is small from m = LEAST on; below it there is no
    such form, nor can there be: a mean over a Gaussian is smooth at m = 0, m·log m is not.
    """
    return x - special.xlogy(x, np.abs(x)) / (1 + np.log(PEAK))


GOLD = {"quadratic": quadratic_gold, "logarithmic": logarithmic_gold}
SECOND = {"quadratic": lambda d: d**2, "logarithmic": lambda d: special.xlogy(d, d)}
"""The term that β multiplies: R(d) = α·d − β·SECOND(d)."""
PEAK_OF_FIT = {"quadratic": lambda a, b: a / (2 * b), "logarithmic": lambda a, b: np.exp(a / b - 1)}


@dataclass(frozen=True)
class Curve:
    """Along a family of policies: d = √KL(pi‖rho), the mean proxy reward, and what the mean gold reward gained over rho's."""

    d: Vector
    proxy: Vector
    gained: Vector


def curve(gold: str, policies: Iterable[Vector]) -> Curve:
    """The policies are log-probs on the grid."""
    values, base = GOLD[gold](X), np.exp(LOG_RHO) @ GOLD[gold](X)
    points = [(np.sqrt(max(oracle.kl(p, LOG_RHO), 0.0)), np.exp(p) @ X, np.exp(p) @ values - base) for p in policies]
    return Curve(*np.array(points).T)


@cache
def tilted(gold: str, lowest: float, highest: float) -> Curve:
    """By the optimal policies of the proxy, from 1/β = `lowest` to `highest`, which is their mean proxy reward."""
    return curve(gold, (oracle.optimum(LOG_RHO, X, 1 / mean).logp for mean in np.linspace(lowest, highest, 100)))


@cache
def best_of(gold: str, largest: int = 1000) -> Curve:
    """By best of n by the proxy, every n to 100 and then some."""
    sizes = np.unique([*range(1, 101), *np.geomspace(100, largest, 40).astype(int)])
    return curve(gold, (oracle.best_of_n(LOG_RHO, X, int(n)) for n in sizes))


@dataclass(frozen=True)
class Fit:
    """R(d) = α·d − β·SECOND(d) by least squares, the share of R's variance that it explains, and where it peaks."""

    alpha: float
    beta: float
    explained: float
    peak: float


def fit(form: str, along: Curve) -> Fit:
    """Linear in α and β."""
    columns = np.stack([along.d, -SECOND[form](along.d)], axis=-1)
    alpha, beta = np.linalg.lstsq(columns, along.gained, rcond=None)[0]
    rest = along.gained - columns @ [alpha, beta]
    explained = 1 - np.sum(rest**2) / np.sum((along.gained - along.gained.mean()) ** 2)
    return Fit(float(alpha), float(beta), float(explained), float(PEAK_OF_FIT[form](alpha, beta)))


def peak_of_tilting(gold: str, highest: float) -> float:
    """The d at which the gold reward of the optimal policies is highest, searched for without any form."""
    values = GOLD[gold](X)
    found = optimize.minimize_scalar(
        lambda mean: -float(np.exp(oracle.optimum(LOG_RHO, X, 1 / mean).logp) @ values),
        bounds=(0.1, highest),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.sqrt(oracle.optimum(LOG_RHO, X, 1 / found.x).kl))  # pyright: ignore[reportAttributeAccessIssue]


def quadratic_form() -> list[Row]:
    """R(d) = d(α − βd) with its peak at α/2β: exactly under exponential tilting, about under best of n."""
    exact, sampled = fit("quadratic", tilted("quadratic", 0.1, 5.0)), fit("quadratic", best_of("quadratic"))
    by_n = best_of("quadratic")
    found = peak_of_tilting("quadratic", 5.0)
    return [
        GAO.equal("d(α − βd), tilting: α = √2", np.sqrt(2), exact.alpha, 1e-6),
        GAO.equal("d(α − βd), tilting: β = 2c", 2 * CURVATURE, exact.beta, 1e-6),
        GAO.equal("d(α − βd), tilting: peak at α/2β", exact.peak, found, 1e-5),  # a flat maximum: √ε of it is lost
        GAO.at_least("d(α − βd), best of n: share explained", 0.99, sampled.explained),
        # Its form is approximate, so 5 % is what "about" is taken to mean
        GAO.equal("d(α − βd), best of n: peak at α/2β", sampled.peak, by_n.d[np.argmax(by_n.gained)], 0.05 * sampled.peak),
    ]


def logarithmic_form() -> list[Row]:
    """R(d) = d(α − β log d) with its peak at exp(α/β − 1), under exponential tilting of a gold reward that bends so."""
    fitted, found = fit("logarithmic", tilted("logarithmic", LEAST, 12.0)), peak_of_tilting("logarithmic", 12.0)
    return [
        GAO.at_least("d(α − β log d), tilting: share explained", 0.99, fitted.explained),
        # The remainder is 2 % of the reward at the peak, and flat peaks move more than they rise
        GAO.equal("d(α − β log d), tilting: peak at exp(α/β − 1)", fitted.peak, found, 0.05 * found),
    ]


@dataclass(frozen=True)
class TailPolicy:
    """KL(pi‖rho), nats, and the mean reward of a policy that moves mass above a threshold."""

    kl: float
    mean: float


def tail_policy(threshold: float, degrees: float = 3.0) -> TailPolicy:
    """rho Student-t, pi with the mass t^−0.8 above t and rho's shape on either side: two outcomes, below and above.

    E[X; X > t] = f(t)·(ν + t²)/(ν − 1) for a Student-t with density f and ν degrees, and E[X; X <= t] its negative.
    """
    above = stats.t.sf(threshold, degrees)
    partial_mean = stats.t.pdf(threshold, degrees) * (degrees + threshold**2) / (degrees - 1)
    reward = partial_mean * np.array([-1 / (1 - above), 1 / above])
    moved = threshold**-0.8
    logp, ref_logp = np.array([np.log1p(-moved), np.log(moved)]), np.array([np.log1p(-above), np.log(above)])
    return TailPolicy(float(oracle.kl(logp, ref_logp)), float(np.exp(logp) @ reward))


def heavy_tail() -> list[Row]:
    """Student-t(3): a reward without bound at a KL that vanishes."""
    at, further = tail_policy(1e6), tail_policy(1e9)
    return [
        KWA.figure("Student-t(3), t = 1e6: KL", "4.64e-4", at.kl),
        KWA.figure("Student-t(3), t = 1e6: mean reward", "23.8", at.mean),
        KWA.at_most("Student-t(3), t = 1e9 over 1e6: KL", 1.0, further.kl / at.kl),
        KWA.at_least("Student-t(3), t = 1e9 over 1e6: mean reward", 1.0, further.mean / at.mean),
    ]
