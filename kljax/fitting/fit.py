"""Maximum likelihood: minimises the forward KL(data‖model) up to the data's own entropy. One loop for every objective.

Early stopping on the held-out rows keeps the best parameters; dropout and decoupled weight decay are the model's and the
optimiser's. (KL to a reference is a preference among distributions, not a cure for overfitting: these are.)
"""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array

from kljax.config import PretrainConfig, to_dict
from kljax.data import tokenizers
from kljax.data.labelled import count, take
from kljax.devices.mesh import batch_sharding, replicated
from kljax.devices.resources import unrolls
from kljax.devices.state import Leaf, finite, make_optimizer, opt_shardings
from kljax.errors import UserError
from kljax.fitting import divergence, objectives
from kljax.fitting.divergence import FitChecks, UpdateCheck
from kljax.fitting.intervals import intervals
from kljax.fitting.metrics import Figures
from kljax.fitting.objective import Objective, Rows, in_units
from kljax.fitting.objectives import kind_of, watched
from kljax.interrupt import Interrupted, StopRequest
from kljax.json_text import json_text
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface.files import CARD, new_directory
from kljax.models.layers import form_of, stack
from kljax.progress import ProgressBar, say, working
from kljax.runs import card, config_file, damaged, digests, directory
from kljax.runs.adapter import cast
from kljax.runs.checkpoints import FITTED, REFERENCE, Checkpoints, Keep, load_fitted, save_params
from kljax.runs.config_file import FIT, IDENTITY
from kljax.runs.export import beginning_of
from kljax.runs.intervals import OF_FIT
from kljax.runs.lock import only_once
from kljax.runs.models import HUGGINGFACE, RESULT
from kljax.runs.setup import Setup, base_identity, base_path, fits_in_float32, is_as_it_is
from kljax.runs.trackers import tracking
from kljax.runs.trackers.tracker import Tracked
from kljax.types import Params, Tokenizer, struct

TITLES = {"held_out": "held-out", "train_rows": "training"}
LOWER_IS_BETTER = ("loss", "rmse", "brier", "calibration_error")  # of what pretrain.watch can name


@struct
class Trained:
    """Parameters, optimiser, the key of a step's noise and the step, from which the data position follows."""

    params: Params
    opt_state: Any
    key: Leaf
    step: Leaf


@struct
class FitState:
    """The trained state, with what early stopping remembers."""

    train: Trained
    best_params: Params
    best: Leaf  # the watched figure, negative where higher is better
    looks_since_best: Leaf


@dataclass(frozen=True)
class Program:
    """The compiled parts of a fit, whose parameters have the form of its step: layers in a loop, or one by one."""

    init: Callable[[], FitState]
    step: Callable[[Trained, Rows], tuple[Trained, dict[str, Array], UpdateCheck]]
    outputs: Callable[[Params, Rows], np.ndarray]
    shapes: FitState
    shardings: FitState


def ensure_base(setup: Setup) -> Path:
    """The directory of the config's fitted model, fitted first where it is not there yet. An interrupted fit goes on.

    It is fitted, and kept, in float32: `load_base` gives it as the run holds it. What is not a decoder is written as a Hugging
    Face directory, too: <directory>/huggingface.
    """
    path = base_path(setup)
    if _is_whole(setup, path):
        return path
    with only_once(path, "the base model") as waited:
        if not _is_whole(setup, path):
            if waited:
                say("It has ended without one: the fit is made here.")
            _fit_base(setup, path)
    return path


def _is_whole(setup: Setup, path: Path) -> bool:
    """Whether all of a finished fit is there. What is missing is made again; whether the rest was changed, its readers see."""
    of_kind = [directory.MODEL, "checkpoints/reference"] if kind_of(setup) == "decoder" else [HUGGINGFACE]
    needed = [RESULT, digests.MANIFEST, config_file.CONFIG, IDENTITY, directory.TOKENIZER, "checkpoints/fitted", *of_kind]
    return all((path / name).exists() for name in needed)


def _fit_base(setup: Setup, path: Path) -> None:
    """Fit a model, or go on with it, until all of it is in its directory."""
    identity, config = base_identity(setup), setup.config
    if note := directory.take_as_it_is(path):
        say(note)
    config_file.check_owner(path, identity)
    directory.check_numerics(path)
    if fits_in_float32(setup):
        setup = replace(setup, model=replace(setup.model, param_dtype="float32"))
    kind = kind_of(setup)
    if kind != "decoder":
        huggingface.check_exportable(setup.model, kind, setup.tokenizer)
    with working("encoding the training rows"):
        objective = objectives.build(setup)
    chosen = {"unroll_layers": _is_unrolled(setup)}
    if note := directory.circumstances_note(path, chosen):  # a fit that was interrupted goes on
        say(note)
    digests.write_text(path, IDENTITY, json_text(identity, indent=2) + "\n")  # before the config: by it the owner is known
    directory.create(path, FIT, to_dict(config), chosen)
    directory.save_tokenizer(path, setup.tokenizer)
    if kind == "decoder":
        _write_model(setup, path)
    outputs = _compile_outputs(setup, objective)
    if setup.config.pretrain.steps:
        params, steps, best_step = _fit(setup, objective, _compile(setup, objective, outputs), path)
    else:
        params, steps, best_step = _start(setup, objective), 0, 0
        if kind == "decoder":
            save_params(path, params)
    looked_at = {} if steps else {"held_out_rows": count(objective.held_out)}  # not all, of a language model
    with working("taking the fitted model's figures"):
        result = {"steps": steps, "best_step": best_step} | looked_at | _result(setup, objective, outputs, params)
    params = in_units(stack(params), *objective.units)
    divergence.check_result(setup, params)
    save_params(path, params, FITTED)
    if kind != "decoder":
        # What reads texts is to read them as it was fitted, wherever it is loaded.
        _save(path / HUGGINGFACE, setup, params, objective.labels, tokenizers.with_ends(setup.tokenizer))
        digests.note(path, [HUGGINGFACE])
    digests.write_text(path, RESULT, json_text(result, indent=2) + "\n")


def _write_model(setup: Setup, path: Path) -> None:
    """Note what the decoder is: a fit is restored as an RL run is, whose reference is the model that it started from."""
    of_reference = {"model": str(setup.pretrained.path) if setup.pretrained else f"fresh, seed {setup.config.pretrain.seed}"}
    not_followed = setup.generation.not_followed(setup.config.rollout)
    ends = setup.generation.ends
    directory.write_model(path, setup.decoder, setup.vocab_size, of_reference, ends=ends, not_followed=not_followed)


def find_base(setup: Setup) -> Path:
    """Where the model is that RL starts from: `ensure_base`, or the files of a model that is taken as it is."""
    return setup.pretrained.path if is_as_it_is(setup) else ensure_base(setup)  # pyright: ignore


def load_base(setup: Setup, path: Path) -> Params:
    """The model in `path`, which `find_base` found, in the precision in which the config holds it."""
    if is_as_it_is(setup):
        arch, files = setup.architecture, setup.pretrained
        return huggingface.load_params(files, "decoder", arch.shapes, arch.shardings)  # pyright: ignore
    params = load_fitted(path, setup.architecture.shapes, setup.architecture.shardings)
    dtype = setup.model.param_dtype
    return params if all(leaf.dtype == dtype for leaf in jax.tree.leaves(params)) else cast(params, dtype)


def read_result(path: Path) -> dict[str, Any]:
    """The figures of a fitted model, held out and on the test rows."""
    way_out = "delete it, and the same command writes it again"
    directory.check_written(path, RESULT, way_out)
    return damaged.read_json(path / RESULT, way_out)


def check_export(setup: Setup) -> None:
    """Refuse a `run.export_to` that cannot be written, before anything is fitted."""
    if (out := setup.config.run.export_to) is None:
        return
    huggingface.check_exportable(setup.model, kind_of(setup), setup.tokenizer)
    if (there := Path(out).expanduser()).exists():
        raise UserError(f"run.export_to: '{there}' is there already, expected a path that is free, or null.")


def export_base(setup: Setup, path: Path) -> None:
    """Write the fitted model in `path` to `run.export_to`, if that is given, as a Hugging Face directory with a card."""
    if (out := setup.config.run.export_to) is None:
        return
    target, kind, result = Path(out).expanduser(), kind_of(setup), read_result(path)
    if (path / HUGGINGFACE).exists():
        with new_directory(target) as partial:
            shutil.copytree(path / HUGGINGFACE, partial, dirs_exist_ok=True)
            (partial / CARD).write_text(card.of_fit(setup.config, kind, result, None), "utf-8")
        return
    arch, beginning = setup.architecture, beginning_of(setup.config, setup.tokenizer)
    tokenizer = setup.tokenizer if beginning is None else beginning.tokenizer
    said = card.of_fit(setup.config, kind, result, beginning)
    _save(target, setup, load_fitted(path, arch.shapes, arch.shardings), (), tokenizer, said)
    if beginning is not None and beginning.sentence is not None:
        say(beginning.sentence)


def _save(
    out: Path, setup: Setup, params: Params, labels: tuple[str, ...], tokenizer: Tokenizer, said: str | None = None
) -> None:
    if not out.exists():  # or else a fit was interrupted after it had written it whole
        ends, dtype = setup.generation.ends, str(jnp.result_type(*jax.tree.leaves(params)))
        kind, model, vocab_size = kind_of(setup), setup.model, setup.vocab_size
        huggingface.save(out, kind, model, vocab_size, params, tokenizer, dtype, labels, ends=ends, card=said)


def _start(setup: Setup, objective: Objective) -> Params:
    """The parameters before the first step: an imported model's as far as it has them, fresh ones for the rest."""
    arch, config = objective.architecture, setup.config.pretrain
    if setup.pretrained is None:
        return arch.init(config.seed)
    kind = kind_of(setup)
    with working(f"reading the weights of {setup.pretrained.path}"):
        given = huggingface.load_params(setup.pretrained, kind, arch.shapes, arch.shardings)
    there = {path for path, _ in tree_leaves_with_path(given)}
    if not config.steps and (lacking := [path for path, _ in tree_leaves_with_path(arch.shapes) if path not in there]):
        raise UserError(
            f"pretrain.steps: got 0 (the model as it is), but '{setup.pretrained.path}' has no "
            f"{keystr(lacking[0], simple=True, separator='.')} for pretrain/objective={config.objective.kind}; expected a "
            "number >= 1, to fit it."
        )
    scale, shift = objective.units
    return arch.complete(in_units(given, 1 / scale, -shift / scale), config.seed)


def _fit(setup: Setup, objective: Objective, program: Program, path: Path) -> tuple[Params, int, int]:
    """The best parameters, how many steps were taken, and after how many these were found."""
    keep, every = setup.config.run.keep, setup.config.pretrain.eval_every
    checkpoints = Checkpoints(path, Keep(keep.last, keep.every * every))
    checks = FitChecks(setup, path, checkpoints)
    last, damages = checkpoints.newest_whole()
    for sentence in damages:
        say(sentence)
    if last is not None:
        directory.check_logs(path, checkpoints.logs(last))
        state = checkpoints.restore(last, program.shapes, program.shardings)
        checks.restored(last, _kept(state))
        if kind_of(setup) == "decoder" and not (path / "checkpoints" / REFERENCE).exists():
            save_params(path, program.init().best_params)
    else:
        state = _begin(setup, objective, program)
        if kind_of(setup) == "decoder":
            save_params(path, state.best_params)
    first = int(state.train.step)
    if first:
        say(f"Going on with the fit of {path} at step {first} of {setup.config.pretrain.steps}.")
    about, bar = Tracked(path, setup.config.name, base_identity(setup), first), f"base model {path.name}"
    try:
        with (
            tracking(setup.config.track, about) as tracker,
            closing(directory.MetricsLog(path, first, tracker)) as log,
            StopRequest() as stop,
            ProgressBar(bar, first, setup.config.pretrain.steps) as shown,
        ):
            state = _take_steps(setup, objective, program, state, checks, log, stop, shown)
        checks.learnt(int(state.train.step), int(state.looks_since_best))
    finally:
        checkpoints.close()
    done = int(state.train.step)
    return state.best_params, done, _best_step(setup.config.pretrain, done, int(state.looks_since_best))


def _best_step(config: PretrainConfig, done: int, looks_since_best: int) -> int:
    """The step of the look that found the best parameters; 0 where none was better than the start."""
    looks = [0, *range(config.eval_every, done + 1, config.eval_every)]
    if done == config.steps and done % config.eval_every:
        looks.append(done)
    return looks[-1 - looks_since_best]


def _take_steps(
    setup: Setup,
    objective: Objective,
    program: Program,
    state: FitState,
    checks: FitChecks,
    log: directory.MetricsLog,
    stop: StopRequest,
    bar: ProgressBar,
) -> FitState:
    config, sharding = setup.config.pretrain, batch_sharding(setup.mesh)
    first, shown, started, unchecked, compiling = int(state.train.step), {}, time.perf_counter(), [], {}
    for step in range(first, config.steps):
        if int(state.looks_since_best) >= config.patience:
            break
        trained, metrics, check = program.step(state.train, jax.device_put(objective.batch(step), sharding))
        state = replace(state, train=trained)
        if step == first:
            compiling = {"time/compile": time.perf_counter() - started}
        unchecked.append((step + 1, check))
        look, stopping = (step + 1) % config.eval_every == 0 or step + 1 == config.steps, stop.asked
        while len(unchecked) > (0 if look or stopping else 1):  # one late: the device never waits for the host
            checks.update(*unchecked.pop(0))
        if look:
            values = {name: float(value) for name, value in metrics.items()}
            values |= _look(objective, program, trained.params, partial(checks.outputs, step + 1), config.train_rows)
            state = _remember(state, values[f"fit/held_out_{watched(setup, objective)}"], setup)
            log.write(step, values | {"time/seconds": time.perf_counter() - started} | compiling)
            compiling = {}
            shown = _shown(values, objective, watched(setup, objective))
        if look or stopping:
            checks.state(step + 1, _kept(state))
            checks.checkpoints.save(step + 1, state)
        bar.show(step + 1, shown)
        if stopping:
            raise Interrupted(
                f"Stopped while fitting the base model, saved at step {step + 1}. The same command goes on from there."
            )
    return state


def _kept(state: FitState) -> tuple[Trained, Params]:
    """All of a state that has to be finite: the best figure is infinite in states of older versions before the first look."""
    return state.train, state.best_params


def _is_unrolled(setup: Setup) -> bool:
    """Whether a fit's program holds each layer by itself."""
    return unrolls(setup.config.run.unroll_layers, setup.model.layers, setup.config.pretrain.steps)


def _begin(setup: Setup, objective: Objective, program: Program) -> FitState:
    """The state before the first update, whose parameters are the best so far."""
    state, name = program.init(), watched(setup, objective)
    with working("compiling the held-out figures"):
        values = _look(objective, program, state.best_params, partial(divergence.check_as_it_is, setup))
    figure = values[f"fit/held_out_{name}"]
    if not math.isfinite(figure):
        raise UserError(
            f"pretrain.watch: {name} is not defined for the held-out rows ({figure}), and no best parameters would be found; "
            "expected other held-out rows (data.held_out_fraction), or another figure."
        )
    return replace(state, best=jax.device_put(_signed(figure, setup), replicated(setup.mesh)))


def _look(
    objective: Objective, program: Program, params: Params, check: Callable[[np.ndarray, str], None], train_rows: int = 0
) -> dict[str, float]:
    """The figures that are single numbers, held out and of `train_rows` training rows; matrices wait for the result.

    `check` is called with all outputs and what their rows are.
    """
    parts = {"held_out": objective.held_out} | ({"train_rows": objective.train(train_rows)} if train_rows else {})
    values = {}
    for part, rows in parts.items():
        outputs = program.outputs(params, rows)
        check(outputs, TITLES[part])
        figures = objective.figures(outputs, rows)
        values |= {f"fit/{part}_{name}": value for name, value in figures.items() if not isinstance(value, list)}
    return values


def _remember(state: FitState, figure: float, setup: Setup) -> FitState:
    """Keep the parameters if they are the best so far."""
    signed = _signed(figure, setup)
    if signed < np.asarray(state.best):
        whole = replicated(setup.mesh)
        best_params = jax.tree.map(jnp.copy, state.train.params)
        best, looks = jax.device_put((signed, np.int32(0)), whole)
        return replace(state, best_params=best_params, best=best, looks_since_best=looks)
    return replace(state, looks_since_best=state.looks_since_best + 1)


def _signed(figure: float, setup: Setup) -> np.float32:
    """The watched figure, negative where higher is better."""
    return np.float32(figure if setup.config.pretrain.watch in LOWER_IS_BETTER else -figure)


def _shown(values: dict[str, float], objective: Objective, watched: str) -> dict[str, float]:
    shown = {"train": values[f"fit/train_{objective.loss_name}"], "held-out": values[f"fit/held_out_{objective.loss_name}"]}
    return shown if watched == objective.loss_name else shown | {watched: values[f"fit/held_out_{watched}"]}


def _compile(setup: Setup, objective: Objective, outputs: Callable[[Params, Rows], np.ndarray]) -> Program:
    config, arch = setup.config.pretrain, objective.architecture
    optimizer = make_optimizer(config.optimizer, config.steps)
    whole = replicated(setup.mesh)

    def begin(params: Params) -> Trained:
        return Trained(params, optimizer.init(params), jax.random.key(config.seed), jnp.zeros((), jnp.int32))

    form = form_of(_is_unrolled(setup), setup.model.layers)
    stacked = jax.eval_shape(begin, arch.shapes)
    moments = opt_shardings(stacked.opt_state, optimizer, arch.shardings, arch.mesh)
    shapes, shardings = form(stacked), form(Trained(arch.shardings, moments, whole, whole))
    number = jax.ShapeDtypeStruct((), jnp.float32)
    counter = jax.ShapeDtypeStruct((), jnp.int32)

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None, None))
    def step(state: Trained, batch: Any):
        key = jax.random.fold_in(state.key, state.step)

        def loss(params):
            return objective.loss(nnx.merge(arch.graphdef, params), batch, key)

        value, gradients = jax.value_and_grad(loss)(state.params)
        changes, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = replace(state, params=optax.apply_updates(state.params, changes), opt_state=opt_state, step=state.step + 1)
        norm = optax.tree.norm(gradients)
        check = UpdateCheck(value, norm, finite((new.params, new.opt_state)))
        return new, {f"fit/train_{objective.loss_name}": value, "fit/grad_norm": norm}, check

    def init() -> FitState:
        params = jax.jit(form, out_shardings=shardings.params)(_start(setup, objective))
        # Copied: a step donates its state, and these parameters are the best ones so far.
        train = jax.jit(lambda params: begin(jax.tree.map(jnp.copy, params)), out_shardings=shardings)(params)
        infinity, zero = jax.device_put((np.float32(np.inf), np.int32(0)), whole)
        return FitState(train, params, infinity, zero)

    return Program(
        init=init,
        step=step,
        outputs=outputs,
        shapes=FitState(shapes, shapes.params, number, counter),
        shardings=FitState(shardings, shardings.params, whole, whole),
    )


def _compile_outputs(setup: Setup, objective: Objective) -> Callable[[Params, Rows], np.ndarray]:
    """The objective's outputs for each row, in batches of one shape: the last is filled up with rows that are not counted."""
    size, sharding = setup.config.pretrain.batch, batch_sharding(setup.mesh)

    @jax.jit
    def outputs(params, batch):
        return objective.outputs(nnx.merge(objective.architecture.graphdef, params), batch)

    def over_rows(params: Params, rows: Rows) -> np.ndarray:
        total, parts = count(rows), []
        for start in range(0, total, size):
            batch = jax.device_put(take(rows, np.arange(start, start + size) % total), sharding)
            parts.append(np.asarray(outputs(params, batch)))
        return np.concatenate(parts)[:total]

    return over_rows


def _result(setup: Setup, objective: Objective, outputs: Callable[[Params, Rows], np.ndarray], params: Params) -> Figures:
    """Figures of the parameters that were kept: held_out_… and test/…, with …_interval; one that is not defined is null."""
    held_out = outputs(params, objective.held_out)
    divergence.check_as_it_is(setup, held_out, "held-out")
    figures = _with_intervals("held_out_", objective, held_out, objective.held_out) | objective.summary(held_out)
    if objective.test is not None:
        of_test = outputs(params, objective.test)
        divergence.check_as_it_is(setup, of_test, "test")
        figures |= _with_intervals("test/", objective, of_test, objective.test)
    if objective.labels:
        figures["labels"] = list(objective.labels)
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in figures.items()}


def _with_intervals(prefix: str, objective: Objective, outputs: np.ndarray, rows: Rows) -> Figures:
    """The figures of some rows, each followed by its interval, where it has one."""
    drawn, found = intervals(objective.resampled, outputs, rows), {}
    for name, value in objective.figures(outputs, rows).items():
        found[prefix + name] = value
        if name in drawn:
            found[prefix + name + OF_FIT] = drawn[name]
    return found
