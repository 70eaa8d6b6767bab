"""All that a resumed run needs, and how it lies on the mesh."""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from kljax.config import Config, ModelConfig, OptimizerConfig
from kljax.kl.controllers import Controller, ControllerState
from kljax.models.decoder import Decoder
from kljax.training.mesh import param_shardings, replicated
from kljax.types import Params, struct

Leaf = Any
"""An array, its shape or its sharding: a state's layout is a tree of the same kind as the state."""


@struct
class TrainState:
    """Parameters, optimiser, beta's controller, PRNG key and step; the data position follows from the step."""

    params: Params
    opt_state: Any
    controller: ControllerState
    key: Leaf
    step: Leaf


@dataclass(frozen=True)
class Architecture:
    """A decoder without its parameters: structure, parameter shapes and shardings."""

    graphdef: nnx.GraphDef
    shapes: Params
    shardings: Params
    mesh: Mesh
    vocab_size: int

    def init(self, config: ModelConfig, seed: int) -> Params:
        """Fresh parameters, made where they shall lie."""

        def make(key):
            return nnx.to_pure_dict(nnx.state(Decoder(config, self.vocab_size, rngs=nnx.Rngs(key))))  # pyright: ignore

        return jax.jit(make, out_shardings=self.shardings)(jax.random.key(seed))


def architecture(config: ModelConfig, vocab_size: int, mesh: Mesh) -> Architecture:
    """The decoder's structure on this mesh; nothing is computed."""
    model = nnx.eval_shape(lambda: Decoder(config, vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(model)
    return Architecture(graphdef, nnx.to_pure_dict(abstract), param_shardings(abstract, mesh), mesh, vocab_size)  # pyright: ignore


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; weight decay on matrices only, as biases and norms need none."""
    after = steps - config.warmup_steps
    main = {
        "constant": optax.constant_schedule(config.learning_rate),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, after),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, after),
    }[config.schedule]
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    schedule = optax.join_schedules([warmup, main], [config.warmup_steps]) if config.warmup_steps else main
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
        ),
    )


def rl_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimiser of the RLHF steps; its schedule ends with the last update of the last step."""
    return make_optimizer(config.optimizer, config.steps * config.rollout.updates)


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, controller: Controller, seed: int, shardings: TrainState
) -> TrainState:
    """The state before the first step. The parameters are copied: a step may donate its state."""

    @partial(jax.jit, out_shardings=shardings)
    def make(params):
        copied = jax.tree.map(jnp.copy, params)
        return TrainState(copied, optimizer.init(params), controller.init(), jax.random.key(seed), jnp.zeros((), jnp.int32))

    return make(params)


def state_shapes(shapes: Params, optimizer: optax.GradientTransformation, controller: Controller) -> TrainState:
    """Shapes and types of a train state; nothing is computed."""

    def make(params):
        return TrainState(params, optimizer.init(params), controller.init(), jax.random.key(0), jnp.zeros((), jnp.int32))

    return jax.eval_shape(make, shapes)


def state_shardings(shapes: TrainState, optimizer: optax.GradientTransformation, arch: Architecture) -> TrainState:
    """Optimiser moments lie where their parameters lie; all else is replicated."""
    whole = replicated(arch.mesh)
    opt_state = optax.tree.map_params(
        optimizer, lambda _, sharding: sharding, shapes.opt_state, arch.shardings, transform_non_params=lambda _: whole
    )
    controller = jax.tree.map(lambda _: whole, shapes.controller)
    return TrainState(arch.shardings, opt_state, controller, whole, whole)


def params_hash(params: Params) -> str:
    """SHA-256 of all parameters with their names and shapes: what a reference is known by."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
