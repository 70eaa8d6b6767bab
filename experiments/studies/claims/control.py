"""Claim 9: the adaptive controller of beta."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.studies.claims.row import Claim, Row, in_float64
from kljax.kl.controllers import adaptive

ZIEGLER = Claim(9, "Ziegler et al. 2019")
SAMPLES, HORIZON, TARGET = 512, 10_000.0, 6.0
SATURATED = 10 * TARGET  # a KL far above the target


def betas(kls: Float[np.ndarray, "steps"], beta: float = 1.0, dtype: type = jnp.float32) -> Float[np.ndarray, "steps"]:
    """beta after each step, by the controller; a training run has float32."""
    controller = adaptive(beta, TARGET, HORIZON, SAMPLES)

    def step(state, kl):
        state = controller.update(state, kl)
        return state, state.beta

    first = jax.tree.map(lambda each: each.astype(dtype), controller.init())
    return np.asarray(jax.lax.scan(step, first, jnp.asarray(kls, dtype))[1], float)


def saturated_controller() -> list[Row]:
    """Its factor a step where the error is clipped, the steps to double beta, and no change on target."""
    up, down = betas(np.full(100, SATURATED)), betas(np.full(1, 0.0))
    return [
        ZIEGLER.figure("saturated above: factor a step", "1.01024", up[0]),
        ZIEGLER.figure("saturated above: steps to double", "68.04", np.interp(np.log(2), np.log(up), np.arange(1, 101))),
        ZIEGLER.equal("saturated below: factor a step", 1 - 0.2 * SAMPLES / HORIZON, down[0], 1e-6),
        ZIEGLER.equal("on target: factor a step", 1, betas(np.full(1, TARGET))[0], 1e-6),
    ]


@in_float64
def trace_of_the_controller() -> list[Row]:
    """100 steps of random KLs against the two lines of the paper in Python's own numbers, relative to beta.

    In float64: 100 products in float32 may lose 100 · 6e-8 by rounding alone.
    """
    kls = TARGET * np.random.default_rng(0).lognormal(sigma=0.3, size=100)
    beta, expected = 0.1, []
    for kl in kls:
        error = min(max(kl / TARGET - 1, -0.2), 0.2)
        beta *= 1 + error * SAMPLES / HORIZON
        expected.append(beta)
    error = np.abs(betas(kls, 0.1, jnp.float64) / expected - 1).max()
    return [ZIEGLER.equal("trace of 100 steps, worst relative error", 0, error, 1e-6)]
