"""Students fitted to the teacher of two dialects: a real decoder, with exact gradients of a divergence between sequences."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.studies.directions import tiny
from experiments.studies.directions.dialects import LENGTH, WORDS
from kljax.devices.state import Architecture, make_optimizer
from kljax.kl.divergences import Divergence
from kljax.models.decoder import Decoder
from kljax.types import Params

BEGIN = len(WORDS)  # the token before the first word


@dataclass(frozen=True)
class Student:
    """`window`: how many words, the last one included, it sees when it chooses the next; 1 makes it a Markov chain."""

    window: int
    width: int = 16
    layers: int = 1

    @property
    def architecture(self) -> Architecture:
        """The decoder behind it."""
        return tiny.decoder(len(WORDS) + 1, LENGTH, self.width, self.layers)


def sequence_logp(model: Decoder, window: int) -> Float[Array, "B"]:
    """log pi of every sequence of LENGTH words, the last word changing fastest."""
    words = len(WORDS)
    before = np.stack(np.unravel_index(np.arange(words ** (LENGTH - 1)), (words,) * (LENGTH - 1)), axis=-1)
    tokens = np.concatenate([np.full((len(before), 1), BEGIN), before], axis=1)
    reach = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    visible = jnp.broadcast_to((reach >= 0) & (reach < window), (len(before), LENGTH, LENGTH))
    hidden, _ = model(jnp.asarray(tokens), jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape), visible)
    logp = jax.nn.log_softmax(model.logits(hidden)[..., :words])  # the beginning is never said
    chosen = jnp.take_along_axis(logp[:, :-1], jnp.asarray(before)[..., None], -1)[..., 0]
    return (chosen.sum(-1)[:, None] + logp[:, -1]).reshape(-1)


def fit(
    student: Student, teacher: Float[np.ndarray, "B"], divergence: Divergence, *, seeds: int, steps: int, rate: float = 1e-2
) -> Float[np.ndarray, "seeds B"]:
    """log pi of all sequences after `steps` of AdamW on divergence(student, teacher), of each seed.

    A distribution over sequences is one over the outcomes of a list, so that the divergences of `kljax.kl` take it as it is.
    """
    architecture, optimizer = student.architecture, make_optimizer(tiny.adamw(rate, "cosine"), steps)

    def logp(params: Params) -> Float[Array, "B"]:
        return sequence_logp(nnx.merge(architecture.graphdef, params), student.window)

    def loss(params: Params) -> Float[Array, ""]:
        return divergence(logp(params), jnp.asarray(teacher, jnp.float32))

    def descend(carry: tuple[Params, Any], _: Any) -> tuple[tuple[Params, Any], None]:
        params, opt_state = carry
        changes, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), None

    @jax.jit
    @jax.vmap
    def fitted(params: Params) -> Float[Array, "B"]:
        (params, _), _ = jax.lax.scan(descend, (params, optimizer.init(params)), length=steps)
        return logp(params)

    found = np.asarray(fitted(tiny.fresh(architecture, seeds)), np.float64)
    return found - np.log(np.exp(found).sum(-1, keepdims=True))  # float32 leaves a sum of 1 ± 1e-6
