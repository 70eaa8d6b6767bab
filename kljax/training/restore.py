"""A run directory back to models: any step, without the config on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from kljax.config import Config, MeshConfig
from kljax.data import tokenizers
from kljax.data.text import load_splits
from kljax.errors import UserError
from kljax.training import mesh as meshes
from kljax.training import run_directory
from kljax.training.adaptation import Adaptation, adaptation, moving_shapes
from kljax.training.checkpoints import Checkpoints, load_frozen
from kljax.training.regularisation import make_controller
from kljax.training.state import Architecture, TrainState, decoder_architecture, rl_optimizer, state_shapes, state_shardings
from kljax.training.task import Task
from kljax.types import Params
from kljax.validation import validate


@dataclass(frozen=True)
class RestoredModels:
    """Policy and reference of one step of a run as plain decoders, and the beta that its controller had reached.

    Under LoRA the frozen `base` and the `adapters` are there by themselves, too; they are None otherwise.
    """

    step: int
    architecture: Architecture
    policy: Params
    reference: Params
    beta: float
    base: Params
    adapters: Params


@dataclass(frozen=True)
class RestoredRun:
    """The models of one step of a run, and the task that they are for."""

    path: Path
    step: int
    task: Task
    policy: Params
    reference: Params
    beta: float
    base: Params
    adapters: Params


def restore(path: Path, step: int | Literal["latest"], mesh: MeshConfig) -> RestoredRun:
    """The run's `step`, on a mesh of one's own choice: it need not be that of training."""
    config = replace(read_config(path), mesh=mesh)
    model, vocab_size = run_directory.read_model(path)
    built = meshes.build(mesh)
    meshes.check_sizes(config, model, vocab_size, built)
    models = restore_models(path, step, built)
    tokenizer = tokenizers.load(path / "tokenizer", field="run")
    task = Task(config, built, load_splits(config.data), tokenizer, model, vocab_size, pretrained=None)
    return RestoredRun(path, models.step, task, models.policy, models.reference, models.beta, models.base, models.adapters)


def restore_models(path: Path, step: int | Literal["latest"], mesh: Mesh) -> RestoredModels:
    """Policy and reference of the run's `step`, without its data."""
    config = read_config(path)
    model, vocab_size = run_directory.read_model(path)
    arch = decoder_architecture(model, vocab_size, mesh)
    adapted = adaptation(arch, config.adapter)
    base, reference, frozen_hash = load_frozen(path, arch.shapes, arch.shardings)
    checkpoints = Checkpoints(path)
    try:
        chosen = _choose(checkpoints.steps(), step, path)
        state = _restore_state(config, checkpoints, chosen, adapted, frozen_hash)
    finally:
        checkpoints.close()
    if state.reference is not None:
        reference = adapted.merged(state.reference, base)
    parts = (base, state.params) if adapted.adapter is not None else (None, None)
    return RestoredModels(chosen, arch, adapted.merged(state.params, base), reference, float(state.controller.beta), *parts)


def read_config(path: Path) -> Config:
    """The config of an RLHF run. UserError where the directory is none."""
    values = run_directory.read_config(path)
    if "rollout" not in values:
        raise UserError(f"run: {path} holds a base model, not an RLHF run; its held-out figures are in {path / 'result.json'}.")
    return validate(values, Config)


def _restore_state(config: Config, checkpoints: Checkpoints, step: int, adapted: Adaptation, frozen_hash: str) -> TrainState:
    optimizer = rl_optimizer(config)
    shapes = state_shapes(adapted.shapes, optimizer, make_controller(config), moving_shapes(adapted, config.reference))
    shardings = state_shardings(shapes, optimizer, adapted.shardings, adapted.architecture.mesh)
    return checkpoints.restore(step, shapes, shardings, frozen_hash)


def _choose(steps: list[int], asked: int | Literal["latest"], path: Path) -> int:
    if not steps:
        raise UserError(f"run: {path} has no checkpoint yet; run.save_every says how often one is written.")
    if asked == "latest":
        return steps[-1]
    if asked not in steps:
        raise UserError(f"step: {path} has no checkpoint of step {asked}; it has: {', '.join(map(str, steps))}.")
    return asked
