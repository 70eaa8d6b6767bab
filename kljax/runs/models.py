"""Policy and reference of a run as plain decoders, and a run in the place of a Hugging Face directory: `runs/x@200`."""

from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from kljax.config import Config
from kljax.devices.mesh import replicated
from kljax.devices.state import Architecture, decoder_architecture
from kljax.errors import UserError
from kljax.kl.controllers import ControllerState
from kljax.models.huggingface import models as huggingface
from kljax.runs import config_file, damaged, digests, directory
from kljax.runs.adapter import Adaptation, adaptation, moving_shapes
from kljax.runs.best import best_step
from kljax.runs.checkpoints import TRAIN, Checkpoints, check_finite, load_fitted, load_frozen, load_params, load_start
from kljax.runs.config_file import BEST, FIT, LATEST, Step, run_and_step
from kljax.runs.lock import only_once
from kljax.runs.regularisation import make_controller
from kljax.types import Params

RESULT, HUGGINGFACE = "result.json", "huggingface"
"""Of a fit: its figures, and the model where it is no decoder."""
EXPORTED = "exported"
"""Where a run keeps those of its steps that other runs begin from, as Hugging Face directories."""


@dataclass(frozen=True)
class RestoredModels:
    """Policy and reference of one step of a run as plain decoders, and the `beta` that the step before it used.

    A `reference` that moves is the one in force during that step. `base` is the model that the policy started from: the very
    object that `reference` is, where they are one, and None of an older run that has not kept it. `adapters` are LoRA's.
    """

    step: int
    architecture: Architecture
    policy: Params
    reference: Params
    beta: float
    base: Params
    adapters: Params


@dataclass(frozen=True)
class _Parts:
    """Those fields of a train state that make models."""

    params: Params
    controller: ControllerState
    reference: Params


def as_directory(path: str, field: str, mesh: Mesh) -> str:
    """A run's policy as a Hugging Face directory, written into the run once for each step; any other path as it is."""
    if (found := run_and_step(path, field)) is None:
        return path
    run, step = found
    if not (run / directory.MODEL).exists():
        return _fitted(run, path, field)
    chosen = _steps(run, step, field)
    out = run / EXPORTED / str(chosen)
    with only_once(out.parent, f"the model of step {chosen}"):
        if out.exists():
            directory.check_written(run, f"{EXPORTED}/{chosen}", f"delete {out}: it is made again")
        else:
            _export(run, chosen, mesh, out, field)
            if config_file.has_digests(run):
                digests.note(run, [f"{EXPORTED}/{chosen}"])
    return str(out)


def _export(run: Path, step: int, mesh: Mesh, out: Path, field: str) -> None:
    config = config_file.read_run_config(run)
    models = restore_models(run, step, mesh)
    model, vocab_size = directory.read_model(run)
    tokenizer = directory.load_tokenizer(run, field)
    huggingface.save(
        out, "decoder", model, vocab_size, models.policy, tokenizer, "float32",  # merged adapters are
        ends=directory.read_ends(run), rollout=config.rollout,
    )  # fmt: skip


def _fitted(run: Path, path: str, field: str) -> str:
    """The Hugging Face directory of a fit that is no decoder, or of an older one."""
    if path.rpartition("@")[0] and not Path(path).expanduser().exists():
        raise UserError(f"{field}: {run} is a fit of which only the best step is kept; expected {run} without '@'.")
    if (run / HUGGINGFACE).is_dir():
        directory.check_written(run, HUGGINGFACE)
        return str(run / HUGGINGFACE)
    raise UserError(
        f"{field}: {run} is a fit of an older version of kljax, or was interrupted before its first step; expected a finished "
        "run, or a Hugging Face directory (kljax pretrain … run.export_to=DIR)."
    )


def _steps(run: Path, asked: Step, field: str) -> int:
    if asked in (LATEST, BEST) and config_file.kind_of(run) == FIT:
        return _best_step(run)
    checkpoints = Checkpoints(run)
    try:
        return _choose(checkpoints.steps(), asked, run, field)
    finally:
        checkpoints.close()


def restore_models(path: Path, step: Step, mesh: Mesh) -> RestoredModels:
    """Policy and reference of the run's `step`, without its data."""
    config = config_file.read_run_config(path)
    model, vocab_size = directory.read_model(path)
    arch = decoder_architecture(model, vocab_size, mesh)
    if config_file.kind_of(path) == FIT:
        return _of_fit(path, step, arch)
    adapted = adaptation(arch, config.adapter)
    base, reference, frozen_hash = load_frozen(path, arch.shapes, arch.shardings)
    checkpoints = Checkpoints(path)
    try:
        chosen = _choose(checkpoints.steps(), step, path)
        state = _restore_parts(config, checkpoints, chosen, adapted, frozen_hash)
        others = ", ".join(str(other) for other in checkpoints.steps() if other < chosen)
        way_out = f"Choose an earlier step ({others})" if others else "Restore the file, or run it anew (name=…)"
        check_finite(path / "checkpoints" / str(chosen), (state.params, state.reference), way_out)
        beta = _beta(checkpoints, chosen, state)
    finally:
        checkpoints.close()
    lora = adapted.adapter is not None
    start = base if lora else _start(config, path, arch, reference)
    if state.reference is not None:
        reference = adapted.merged(state.reference, base)
    adapters = state.params if lora else None
    return RestoredModels(chosen, arch, adapted.merged(state.params, base), reference, beta, start, adapters)


def _of_fit(path: Path, step: Step, arch: Architecture) -> RestoredModels:
    """The best that a fit came to, or what it was after so many steps, beside the model that it started from."""
    start = load_params(path, arch.shapes, arch.shardings)
    if step in (LATEST, BEST) or ((path / RESULT).exists() and step == _best_step(path)):
        best = load_fitted(path, arch.shapes, arch.shardings)
        return RestoredModels(_best_step(path), arch, best, start, beta=0.0, base=start, adapters=None)
    checkpoints = Checkpoints(path)
    try:
        chosen = _choose(checkpoints.steps(), step, path)
        shapes, shardings = ({TRAIN: {"params": each}} for each in (arch.shapes, arch.shardings))
        state = checkpoints.restore_parts(chosen, shapes, shardings, None)
    finally:
        checkpoints.close()
    return RestoredModels(chosen, arch, state[TRAIN]["params"], start, beta=0.0, base=start, adapters=None)


def _best_step(path: Path) -> int:
    """After how many steps a finished fit was at its best, which is what it has kept."""
    if not (path / RESULT).exists():
        raise UserError(f"run: {path} is a fit that is not finished; the same command goes on with it, or choose a step=….")
    directory.check_written(path, RESULT)
    return int(damaged.read_json(path / RESULT, digests.WRITTEN_AGAIN)["best_step"])


def _beta(checkpoints: Checkpoints, step: int, state: _Parts) -> float:
    """That of the last step; of an older checkpoint, and before the first step, that of the next one."""
    used = checkpoints.about(step).get("beta")
    return max(float(state.controller.beta if used is None else used), 0.0)


def _start(config: Config, path: Path, arch: Architecture, reference: Params) -> Params:
    """The base model of a run without adapters: what was saved as such, or else the first reference, where that is it."""
    start = load_start(path, arch.shapes, arch.shardings)
    if start is None and directory.has_start(path):
        raise UserError(
            f"run: {path / 'checkpoints' / 'start'} is missing, the model that the policy started from; restore it from a "
            "copy, or give the command that began the run again: it writes it."
        )
    return reference if start is None and config.reference.path is None else start


def _restore_parts(config: Config, checkpoints: Checkpoints, step: int, adapted: Adaptation, frozen_hash: str) -> _Parts:
    """Of the state what makes models: the optimiser's moments, two thirds of it, stay on disk."""
    controller = jax.eval_shape(make_controller(config).init)
    whole = replicated(adapted.architecture.mesh)
    shapes = {"params": adapted.shapes, "controller": controller}
    shardings = {"params": adapted.shardings, "controller": jax.tree.map(lambda _: whole, controller)}
    if (moving := moving_shapes(adapted, config.reference)) is not None:
        shapes["reference"], shardings["reference"] = moving, adapted.shardings
    found = checkpoints.restore_parts(step, shapes, shardings, frozen_hash)
    return _Parts(found["params"], found["controller"], found.get("reference"))


def _choose(steps: list[int], asked: Step, path: Path, field: str = "step") -> int:
    if not steps:
        raise UserError(f"run: {path} has no checkpoint yet; run.save_every says how often one is written.")
    if asked == LATEST:
        return steps[-1]
    if asked == BEST:
        return best_step(path, steps, field)
    if asked not in steps:
        raise UserError(f"{field}: {path} has no checkpoint of step {asked}; it has: {', '.join(map(str, steps))}.")
    return asked
