"""A run directory back to models: any step, without the config on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kljax.config import Config, MeshConfig
from kljax.data import tokenizers
from kljax.data.text import load_splits
from kljax.errors import UserError
from kljax.training import mesh as meshes
from kljax.training import run_directory
from kljax.training.checkpoints import Checkpoints, load_reference
from kljax.training.regularisation import make_controller
from kljax.training.state import architecture, rl_optimizer, state_shapes, state_shardings
from kljax.training.task import Task
from kljax.types import Params
from kljax.validation import validate


@dataclass(frozen=True)
class RestoredRun:
    """Policy and reference of one step of a run, the beta that its controller had reached, and the task they are for."""

    path: Path
    step: int
    task: Task
    policy: Params
    reference: Params
    beta: float


def restore(path: Path, step: int | Literal["latest"], mesh: MeshConfig) -> RestoredRun:
    """The run's `step`, on a mesh of one's own choice: it need not be that of training."""
    values = run_directory.read_config(path)
    if "rollout" not in values:
        raise UserError(f"run: {path} holds a base model, not an RLHF run; its held-out figures are in {path / 'result.json'}.")
    config = replace(validate(values, Config), mesh=mesh)
    task = _task(config, path)
    optimizer = rl_optimizer(config)
    shapes = state_shapes(task.architecture.shapes, optimizer, make_controller(config))
    shardings = state_shardings(shapes, optimizer, task.architecture)
    reference, reference_hash = load_reference(path, task.architecture.shapes, task.architecture.shardings)
    checkpoints = Checkpoints(path)
    try:
        chosen = _choose(checkpoints.steps(), step, path)
        state = checkpoints.restore(chosen, shapes, shardings, reference_hash)
    finally:
        checkpoints.close()
    return RestoredRun(path, chosen, task, state.params, reference, float(state.controller.beta))


def _task(config: Config, path: Path) -> Task:
    mesh = meshes.build(config.mesh)
    tokenizer = tokenizers.load(path / "tokenizer", field="run")
    meshes.check_sizes(config, len(tokenizer), mesh)
    return Task(config, mesh, load_splits(config.data), tokenizer, architecture(config.model, len(tokenizer), mesh))


def _choose(steps: list[int], asked: int | Literal["latest"], path: Path) -> int:
    if not steps:
        raise UserError(f"run: {path} has no checkpoint yet; run.save_every says how often one is written.")
    if asked == "latest":
        return steps[-1]
    if asked not in steps:
        raise UserError(f"step: {path} has no checkpoint of step {asked}; it has: {', '.join(map(str, steps))}.")
    return asked
