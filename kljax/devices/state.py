"""All that a resumed run needs, and how it lies on the mesh."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path
from jaxtyping import Array, Bool, Key

from kljax.config import Config, DecoderConfig, OptimizerConfig
from kljax.devices.mesh import batch_sharding, param_shardings, replicated
from kljax.kl.controllers import Controller, ControllerState
from kljax.models.decoder import Decoder
from kljax.models.layers import Form, rank
from kljax.types import Params, struct

Leaf = Any
"""An array, its shape or its sharding: a state's layout is a tree of the same kind as the state."""


@struct
class TrainState:
    """Trained parameters, optimiser, beta's controller, PRNG key and step; the data position follows from the step.

    `reference` is there where it moves, and None where it stays.
    """

    params: Params
    opt_state: Any
    controller: ControllerState
    key: Leaf
    step: Leaf
    reference: Params


@dataclass(frozen=True)
class Architecture:
    """A model without its parameters: structure, parameter shapes and shardings."""

    make: Callable[[nnx.Rngs], nnx.Module]
    graphdef: nnx.GraphDef
    shapes: Params
    shardings: Params
    mesh: Mesh
    fresh: Callable[[Key[Array, ""]], Params]

    def init(self, seed: int) -> Params:
        """Fresh parameters, made where they shall lie."""
        return self.fresh(jax.random.key(seed))

    def complete(self, given: Params, seed: int) -> Params:
        """`given`, a part of the parameters, with fresh ones for the rest."""
        if not (absent := [path for path, _ in tree_leaves_with_path(self.shapes) if not _has(given, path)]):
            return given
        shardings = dict(tree_leaves_with_path(self.shardings))

        def make(key: Any) -> list[Any]:
            fresh = dict(tree_leaves_with_path(nnx.to_pure_dict(nnx.state(self.make(nnx.Rngs(key))))))  # pyright: ignore
            return [fresh[path] for path in absent]

        made = jax.jit(make, out_shardings=[shardings[path] for path in absent])(jax.random.key(seed))
        fresh = dict(zip(absent, made, strict=True))
        return tree_map_with_path(lambda path, _: fresh[path] if path in fresh else _at(given, path), self.shapes)


def architecture(make: Callable[[nnx.Rngs], nnx.Module], mesh: Mesh) -> Architecture:
    """The structure of the model that `make` makes, on this mesh; nothing is computed."""
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    shardings = param_shardings(abstract, mesh)
    fresh = jax.jit(lambda key: nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)))), out_shardings=shardings)  # pyright: ignore
    return Architecture(make, graphdef, nnx.to_pure_dict(abstract), shardings, mesh, fresh)  # pyright: ignore


@lru_cache(maxsize=8)  # the jobs of a sweep share theirs
def decoder_architecture(config: DecoderConfig, vocab_size: int, mesh: Mesh) -> Architecture:
    """A decoder whose activations lie as the batch does."""
    rows = batch_sharding(mesh)
    return architecture(lambda rngs: Decoder(config, vocab_size, rngs=rngs, activations=rows), mesh)


def _has(params: Params, path: tuple[Any, ...]) -> bool:
    for step in path:
        if step.key not in params:
            return False
        params = params[step.key]
    return True


def _at(params: Params, path: tuple[Any, ...]) -> Any:
    for step in path:
        params = params[step.key]
    return params


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The rate of each of `steps` updates, by the number of those before it (0, 1, …).

    Warm-up: rate/warmup_steps at the first update, the rate at the warmup_steps-th. The schedule begins after it, at the rate.
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    main = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, steps - warmup),
        "cosine": optax.cosine_decay_schedule(rate, steps - warmup),
    }[config.schedule]
    return optax.join_schedules([lambda count: rate * (count + 1) / warmup, main], [warmup]) if warmup else main


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; weight decay on matrices only, as biases and norms need none."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: tree_map_with_path(lambda path, p: rank(path, p) >= 2, params),
        ),
    )


def rl_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimiser of the RLHF steps; its schedule ends with the last update of the last step."""
    return make_optimizer(config.optimizer, config.steps * config.rollout.updates)


def rl_learning_rate(config: Config) -> optax.Schedule:
    """Its learning rate at each update."""
    return learning_rate(config.optimizer, config.steps * config.rollout.updates)


def initial_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    controller: Controller,
    seed: int,
    shardings: TrainState,
    reference: Params = None,
    form: Form = lambda tree: tree,
) -> TrainState:
    """The state before the first step, in the form of its program. The parameters are copied: a step may donate its state."""

    @partial(jax.jit, out_shardings=shardings)
    def make(params, reference):
        copied, copied_reference = jax.tree.map(jnp.copy, form((params, reference)))
        key, step = jax.random.key(seed), jnp.zeros((), jnp.int32)
        return TrainState(copied, optimizer.init(copied), controller.init(), key, step, copied_reference)

    return make(params, reference)


def state_shapes(
    shapes: Params, optimizer: optax.GradientTransformation, controller: Controller, reference: Params = None
) -> TrainState:
    """Shapes and types of a train state; nothing is computed. `reference`: the shapes of one that moves."""

    def make(params, reference):
        key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
        return TrainState(params, optimizer.init(params), controller.init(), key, step, reference)

    return jax.eval_shape(make, shapes, reference)


def state_shardings(shapes: TrainState, optimizer: optax.GradientTransformation, params: Params, mesh: Mesh) -> TrainState:
    """Moments and a moving reference lie where their parameters do, by the shardings `params`; all else is replicated."""
    whole = replicated(mesh)
    opt_state = opt_shardings(shapes.opt_state, optimizer, params, mesh)
    controller = jax.tree.map(lambda _: whole, shapes.controller)
    return TrainState(params, opt_state, controller, whole, whole, None if shapes.reference is None else params)


def opt_shardings(shapes: Any, optimizer: optax.GradientTransformation, params: Params, mesh: Mesh) -> Any:
    """Of an optimiser's state: moments lie where their parameters do."""
    whole = replicated(mesh)
    return optax.tree.map_params(optimizer, lambda _, sharding: sharding, shapes, params, transform_non_params=lambda _: whole)


def finite(tree: Any) -> Bool[Array, ""]:
    """Whether every floating-point number of the tree is finite; keys and whole numbers are not looked at. To be traced."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all() if leaves else jnp.ones((), bool)


_finite = jax.jit(finite)


def all_finite(tree: Any) -> bool:
    """The same, asked by the host: one small compiled program, run where the arrays lie, and one wait for it."""
    return bool(_finite(tree))


def not_finite(tree: Any) -> str | None:
    """The first array, by its place in the tree, that holds a number which is not finite; None where there is none."""
    if all_finite(tree):
        return None
    paths = (path for path, leaf in tree_leaves_with_path(tree) if not all_finite(leaf))
    return keystr(next(paths), simple=True, separator=".")


def params_hash(params: Params) -> str:
    """SHA-256 of all parameters with their names and shapes: what a reference is known by."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # no copy
    return digest.hexdigest()
