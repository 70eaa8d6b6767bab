"""Where beta comes from: a pure pair `init() -> state`, `update(state, kl) -> state`, its state arrays.

The state lives in the train state and is checkpointed with it, so that beta survives a resume and a sweep over beta can
be a `vmap`. `kl` is the reverse KL of the step just made, nats per sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kljax.types import struct

CLIP = 0.2  # Ziegler et al.'s bound on the relative error that adaptive control reacts to
SMALLEST_KL = 1e-6  # nats: a sampled KL may be 0 or below, and has no logarithm there


@struct
class ControllerState:
    """beta in reward units per nat (a float32 scalar), and what its controller remembers beside: arrays, or ()."""

    beta: Any
    memory: Any = ()


@dataclass(frozen=True)
class Controller:
    """`update` sees the sequence reverse KL (nats) of the step just made and gives the state of the next step."""

    init: Callable[[], ControllerState]
    update: Callable[[ControllerState, Float[Array, ""]], ControllerState]


def fixed(beta: float) -> Controller:
    """beta as given, for ever.

    >>> control = fixed(0.5)
    >>> print(control.update(control.init(), jnp.array(9.0)).beta)
    0.5
    """

    def update(state: ControllerState, kl: Float[Array, ""]) -> ControllerState:
        return state

    return Controller(lambda: ControllerState(_scalar(beta)), update)


def scheduled(beta: float, schedule: Callable[[Any], Any]) -> Controller:
    """beta·schedule(step), whatever the KL is; `schedule` is an optax schedule of the number of steps made, not below 0.

    Where rounding takes a schedule that ends at 0 below it, beta is 0.

    It remembers the step and the beta that it multiplies, so that a `vmap` over states is a sweep over either.

    >>> control = scheduled(0.5, lambda step: 1 - step / 4)
    >>> state = control.init()
    >>> print(state.beta, control.update(state, jnp.array(9.0)).beta)
    0.5 0.375
    """

    def init() -> ControllerState:
        return ControllerState(_at_least_0(beta * schedule(0)), (jnp.zeros((), jnp.int32), _scalar(beta)))

    def update(state: ControllerState, kl: Float[Array, ""]) -> ControllerState:
        step, unscaled = state.memory[0] + 1, state.memory[1]
        return ControllerState(_at_least_0(unscaled * schedule(step)), (step, unscaled))

    return Controller(init, update)


def adaptive(beta: float, target: float, horizon: float, samples: int) -> Controller:
    """Proportional control of beta (Ziegler et al. 2019, arXiv:1909.08593): beta ← beta·(1 + e·samples/horizon).

    e = clip(kl/target − 1, ±0.2); `samples` sequences a step. It has no fixed point but kl = target, and moves towards it
    at most by the factor 1 + 0.2·samples/horizon a step.

    >>> control = adaptive(1.0, target=2.0, horizon=10_000.0, samples=512)
    >>> print(f"{control.update(control.init(), jnp.array(9.0)).beta:.5f}")  # 1 + 0.2·512/10,000
    1.01024
    """
    _check_positive(beta=beta, target=target, horizon=horizon)
    if horizon <= CLIP * samples:
        raise ValueError(f"horizon: got {horizon}, expected more than {CLIP * samples:g}, or one step could take beta to 0.")

    def update(state: ControllerState, kl: Float[Array, ""]) -> ControllerState:
        error = jnp.clip(kl / target - 1, -CLIP, CLIP)
        return ControllerState(state.beta * (1 + error * samples / horizon))

    return Controller(lambda: ControllerState(_scalar(beta)), update)


def target(beta: float, budget: float, rate: float, gain: float, minimum: float, maximum: float) -> Controller:
    """A dual variable on log beta that holds the sequence KL at `budget` (nats).

    With e = clip(log(kl/budget), ±1): m ← m + rate·e (dual ascent on log beta) and log beta = m + gain·e (which damps it: the
    policy follows beta with a delay). Anti-windup: where beta would leave [minimum, maximum], m is set to what gives the
    bound, so that it turns at once when the error does. Where the KL follows at once as beta^−a, it converges for
    a·(rate + 2·gain) < 2, and is far from oscillating where that is below 1.

    >>> control = target(1.0, budget=2.0, rate=0.1, gain=0.2, minimum=0.01, maximum=10.0)
    >>> for kl in (2.0, 9.0):  # at the budget beta stays; far above it e is 1, and beta grows by e^0.3
    ...     print(f"{control.update(control.init(), jnp.array(kl)).beta:.5f}")
    1.00000
    1.34986
    """
    _check_positive(beta=beta, budget=budget, minimum=minimum)
    if not minimum <= beta <= maximum:
        raise ValueError(f"beta: got {beta}, expected a number between minimum={minimum} and maximum={maximum}.")

    def init() -> ControllerState:
        return ControllerState(_scalar(beta), jnp.log(_scalar(beta)))

    def update(state: ControllerState, kl: Float[Array, ""]) -> ControllerState:
        error = jnp.clip(jnp.log(jnp.maximum(kl, SMALLEST_KL) / budget), -1.0, 1.0)
        wanted = state.memory + rate * error + gain * error
        log_beta = jnp.clip(wanted, jnp.log(minimum), jnp.log(maximum))
        return ControllerState(jnp.exp(log_beta), log_beta - gain * error)

    return Controller(init, update)


def _scalar(value: Any) -> Float[Array, ""]:
    return jnp.asarray(value, jnp.float32)


def _at_least_0(value: Any) -> Float[Array, ""]:
    return jnp.maximum(_scalar(value), 0.0)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: got {value}, expected a number > 0.")
