"""Where beta comes from: a pure pair `init() -> state`, `update(state, kl) -> state`, its state an array.

The state lives in the train state and is checkpointed with it, so that beta survives a resume and a sweep over beta can
be a `vmap`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kljax.types import struct


@struct
class ControllerState:
    """beta in reward units per nat: a float32 scalar."""

    beta: Any


@dataclass(frozen=True)
class Controller:
    """`update` sees the sequence reverse KL (nats) of the step just made and gives the state of the next step."""

    init: Callable[[], ControllerState]
    update: Callable[[ControllerState, Float[Array, ""]], ControllerState]


def fixed(beta: float) -> Controller:
    """beta as given, for ever."""

    def init() -> ControllerState:
        return ControllerState(jnp.asarray(beta, jnp.float32))

    def update(state: ControllerState, kl: Float[Array, ""]) -> ControllerState:
        return state

    return Controller(init, update)
