"""Claim 11: one Gaussian fitted to two modes, by each direction of KL, on quadrature."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize

from experiments.studies.claims.row import Claim, Row, in_float64
from kljax.kl import divergences
from kljax.kl.divergences import Divergence

MODES = Claim(11, "by quadrature")
X = np.linspace(-40.0, 40.0, 8001)  # 12 standard deviations of the widest fit
DIRECTIONS = {"forward": divergences.forward_kl, "reverse": divergences.reverse_kl}
CONVERGED = 1e-6  # of parameters, where the gradient has vanished to 1e-9

Family = Callable[[Float[Array, "2"]], Float[Array, "n"]]
"""(location, log standard deviation) → log densities on the grid, up to a constant."""


def gaussian(parameters: Float[Array, "2"]) -> Float[Array, "n"]:
    """N(location, sd²)."""
    return -0.5 * ((jnp.asarray(X) - parameters[0]) / jnp.exp(parameters[1])) ** 2


def two_modes(parameters: Float[Array, "2"]) -> Float[Array, "n"]:
    """½N(location, sd²) + ½N(−location, sd²)."""
    return jnp.logaddexp(gaussian(parameters), gaussian(parameters * jnp.array([-1.0, 1.0])))


class Fitted(NamedTuple):
    """Of a family to the target: its parameters, and the KL that is left, nats."""

    location: float
    sd: float
    kl: float


@cache
@in_float64
def fit(direction: str, start: float, family: Family = gaussian) -> Fitted:
    """The fit that BFGS finds from (`start`, sd 1.5): forward minimises KL(target‖fit), reverse KL(fit‖target)."""
    divergence: Divergence = DIRECTIONS[direction]
    target = two_modes(jnp.array([3.0, 0.0]))
    value_and_grad = jax.jit(jax.value_and_grad(lambda parameters: divergence(family(parameters), target)))

    def in_numpy(parameters: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        value, gradient = value_and_grad(jnp.asarray(parameters))
        return float(value), np.asarray(gradient)

    first = np.array([start, np.log(1.5)])
    found = optimize.minimize(in_numpy, first, jac=True, method="BFGS", options={"gtol": 1e-9})
    return Fitted(float(found.x[0]), float(np.exp(found.x[1])), float(found.fun))


def covering_and_seeking() -> list[Row]:
    """One Gaussian to ½N(±3, 1): forward KL covers both modes, reverse KL settles on either."""
    forward = fit("forward", 1.0)
    rows = [
        MODES.equal("forward KL: mean", 0, forward.location, CONVERGED),
        MODES.equal("forward KL: variance", 10, forward.sd**2, CONVERGED * 10),
        MODES.figure("forward KL: nats left", ".46199", forward.kl),
    ]
    for sign in (1, -1):
        reverse, label = fit("reverse", 2.0 * sign), f"reverse KL, from {2 * sign:+d}"
        rows += [
            MODES.figure(f"{label}: mean", f"{sign * 2.9843}", reverse.location),
            MODES.figure(f"{label}: sd", "1.0234", reverse.sd),
            MODES.figure(f"{label}: nats left", ".68877", reverse.kl),
        ]
    return rows


def family_that_contains_the_target() -> list[Row]:
    """Two modes, fitted from ±2 with sd 1.5: both directions find ±3, sd 1."""
    rows = []
    for direction in DIRECTIONS:
        found = fit(direction, 2.0, two_modes)
        rows += [
            MODES.equal(f"family of two modes, {direction} KL: location", 3, found.location, CONVERGED),
            MODES.equal(f"family of two modes, {direction} KL: sd", 1, found.sd, CONVERGED),
            MODES.equal(f"family of two modes, {direction} KL: nats left", 0, found.kl, CONVERGED**2),
        ]
    return rows


@in_float64
def maximum_likelihood_is_forward_kl() -> list[Row]:
    """Cross-entropy(data, model) − KL(data‖model) is the data's entropy, whatever the model."""
    data = two_modes(jnp.array([3.0, 0.0]))
    draws = np.random.default_rng(0).normal(size=(20, 2))
    models = [gaussian(jnp.asarray(draw * [2.0, 0.3] + [0.0, 1.0])) for draw in draws]
    constants = [divergences.cross_entropy(data, model) - divergences.forward_kl(model, data) for model in models]
    rest = max(abs(float(constant - divergences.entropy(data))) for constant in constants)
    return [MODES.equal("−E[log model] less forward KL and H(data)", 0, rest, 1e-10)]
