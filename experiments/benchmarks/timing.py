"""The seconds and the memory of an RLHF step: whole, in parts, its compilation, and what the loop around it costs."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments.benchmarks.process_memory import STATUS, begin_peak, peak
from experiments.benchmarks.work import Sizes
from kljax.config import Config
from kljax.devices.state import TrainState
from kljax.errors import UserError
from kljax.models.huggingface import models as huggingface
from kljax.runs.adapter import Frozen
from kljax.runs.config_file import identity
from kljax.runs.reference import first_reference
from kljax.runs.setup import Setup, prepare
from kljax.runs.trackers import tracking
from kljax.runs.trackers.tracker import Tracked
from kljax.training.recorder import Recorder
from kljax.training.step import Parts, compile_halves, compile_step, score_rollout
from kljax.training.trainer import Trainer, build_trainer
from kljax.types import Params, Prompts, Rollout

WARM = 2  # steps before any that is timed: the first compiles, the memory of the second is watched
ROUNDS = 25  # of steps in the loop and steps alone: with nine, a share of 3 % was anything from -1 to 7


@dataclass(frozen=True)
class Timed:
    """Seconds of the same thing, done several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def min(self) -> float:
        """The fastest."""
        return min(self.seconds)

    @property
    def max(self) -> float:
        """The slowest."""
        return max(self.seconds)


@dataclass(frozen=True)
class Measurement:
    """Seconds, and bytes at the peak of a step (of the process; on an accelerator of the device). None: not known here.

    `scoring` is the forward pass of policy and reference alone; `update` is all that follows the rollout, scoring included.
    """

    step: Timed
    rollout: Timed
    scoring: Timed
    update: Timed
    compile_cold: float
    compile_cached: float
    peak_memory: int | None


@dataclass(frozen=True)
class Loop:
    """Seconds a step: `bare`, the compiled program alone, and `looped`, with its prompts, the log and the samples."""

    bare: Timed
    looped: Timed

    @property
    def overhead(self) -> float:
        """The share of the loop's time that is not the compiled program's; of each turn, since a machine's speed drifts."""
        return median(1 - bare / looped for bare, looped in zip(self.bare.seconds, self.looped.seconds, strict=True))


@dataclass
class Subject:
    """The measured program: a trainer, and the state that each step replaces."""

    trainer: Trainer
    frozen: Frozen
    state: TrainState

    @property
    def sizes(self) -> Sizes:
        """The sizes of its rollouts."""
        return sizes_of(self.trainer.setup.config)

    @property
    def parameters(self) -> int:
        """Numbers in the model, adapters left out."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.trainer.setup.architecture.shapes))

    def take_step(self, step: int) -> Any:
        """Its metrics and outcome; the device may still be at work."""
        trainer = self.trainer
        self.state, *shown = trainer.take_step(self.state, self.frozen, trainer.batch(step))
        return shown


def sizes_of(config: Config) -> Sizes:
    """The sizes of the config's rollouts, the beginning token included."""
    rollout = config.rollout
    return Sizes(rollout.prompts, rollout.samples, config.data.prompt.max_tokens + 1, rollout.max_new_tokens)


def subject(config: Config) -> Subject:
    """The config's trainer with fresh parameters, or those of its Hugging Face model. No base model is fitted for it."""
    setup = prepare(config)
    trainer = build_trainer(setup)
    _check(trainer)
    # Completions of one length make steps of one length: no token ends them.
    parts = replace(trainer.parts, sampler=replace(trainer.parts.sampler, eos_ids=()))
    step = compile_step(parts)
    trainer = replace(trainer, parts=parts, take_step=lambda state, frozen, batch: step(state, frozen, batch.prompts))
    params = _params(setup)
    reference = first_reference(setup, params)
    return Subject(trainer, trainer.freeze(params, reference), trainer.initial_state(params, reference))


def measure(config: Config, steps: int) -> tuple[Measurement, Subject]:
    """Everything about `steps` steps, one kind of program after another; and the subject, for more."""
    it = subject(config)
    step, peak_memory = time_steps(it, steps)
    rollout, scoring, update = time_parts(it, steps)
    cold, cached = compile_seconds(it)
    return Measurement(step, rollout, scoring, update, cold, cached, peak_memory), it


def time_steps(it: Subject, steps: int) -> tuple[Timed, int | None]:
    """Whole steps, the choice of their prompts included, and the memory that one needs."""
    timed_step(it, 0)
    on_host = jax.default_backend() == "cpu"
    if on_host and STATUS.exists():
        begin_peak()
    for step in range(1, WARM):
        timed_step(it, step)
    memory = (peak() if STATUS.exists() else None) if on_host else jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return Timed(tuple(timed_step(it, step) for step in range(WARM, WARM + steps))), memory


def timed_step(it: Subject, step: int) -> float:
    """Seconds until all of a step is there."""
    began = time.perf_counter()
    jax.block_until_ready((it.take_step(step), it.state))
    return time.perf_counter() - began


def time_parts(it: Subject, steps: int) -> tuple[Timed, Timed, Timed]:
    """Rollout, scoring and update, each a program of its own."""
    parts = it.trainer.parts
    rollout_half, update_half = compile_halves(parts)

    @jax.jit
    def scoring(state: TrainState, frozen: Frozen, rollout: Rollout):
        return score_rollout(parts, state.params, frozen, state.reference, rollout)

    seconds: list[list[float]] = []
    for step in range(WARM + steps):
        prompts = it.trainer.batch(step).prompts
        (rollout, terms, known), of_rollout = timed(rollout_half, it.state, it.frozen, prompts)
        _, of_scoring = timed(scoring, it.state, it.frozen, rollout)
        (it.state, *_), of_update = timed(update_half, it.state, it.frozen, rollout, terms, known)
        seconds.append([of_rollout, of_scoring, of_update])
    rollouts, scorings, updates = zip(*seconds[WARM:], strict=True)
    return Timed(rollouts), Timed(scorings), Timed(updates)


def compile_seconds(it: Subject) -> tuple[float, float]:
    """Tracing, lowering and compiling the step: with nothing to begin from, and with the program in the cache on disk."""
    prompts = it.trainer.batch(0).prompts
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        cold, cached = (_compile(it.trainer.parts, it.state, it.frozen, prompts) for _ in range(2))
    return cold, cached


@contextmanager
def _recorder(setup: Setup, path: Path) -> Iterator[Recorder]:
    """That of a run, with the trackers of its config."""
    about = Tracked(path, setup.config.name, identity(setup.config), 0)
    with tracking(setup.config.track, about) as tracker, Recorder(setup, path, 0, tracker) as recorder:
        yield recorder


def time_loop(it: Subject) -> Loop:
    """Steps as the loop of a run takes them (but for checkpoints), and the bare program, in turn.

    Each turn is as long as the log's longest interval, so that its share of everything that a run writes is in it.
    """
    run = it.trainer.setup.config.run
    turn = max(run.sample_every, run.log_every)
    setup = replace(it.trainer.setup, config=replace(it.trainer.setup.config, steps=ROUNDS * turn))
    timed_step(it, 0)
    bare, looped = [], []
    with tempfile.TemporaryDirectory() as folder, _recorder(setup, Path(folder) / "loop") as recorder:
        for first in range(0, ROUNDS * turn, turn):
            bare.append(_bare(it, turn) / turn)
            began = time.perf_counter()
            for step in range(first, first + turn):
                recorder.record(step, *it.take_step(step))
            recorder.flush()
            jax.block_until_ready(it.state)
            looped.append((time.perf_counter() - began) / turn)
    return Loop(Timed(tuple(bare)), Timed(tuple(looped)))


def _check(trainer: Trainer) -> None:
    """Refuse what is not the step whose work is known."""
    config, devices = trainer.setup.config, trainer.setup.mesh.size
    if trainer.reward.host is not None:
        raise UserError("reward: got one that Python computes, expected JAX alone: one compiled step. Give reward=even_tokens.")
    if not trainer.prompts.mask.all():
        raise UserError(
            "data.prompt: got prompts of different lengths, expected one, for which the work is known. Give data/prompt=prefix "
            "with data.prompt.min_tokens = data.prompt.max_tokens, and texts that are longer."
        )
    if config.rollout.updates != 1:
        raise UserError(f"rollout.updates: got {config.rollout.updates}, expected 1, for which the work is known.")
    if devices != 1 and jax.default_backend() != "cpu":  # those of a CPU share what was measured
        raise UserError(f"mesh: got {devices} devices, expected the one whose ceiling is measured. Give mesh.data=1.")


def _params(setup: Setup) -> Params:
    arch, seed = setup.architecture, setup.config.seed
    if setup.pretrained is None:
        return arch.init(seed)
    return arch.complete(huggingface.load_params(setup.pretrained, "decoder", arch.shapes, arch.shardings), seed)


def timed(program: Callable[..., Any], *inputs: Any) -> tuple[Any, float]:
    """A program's result, and the seconds until it is there."""
    began = time.perf_counter()
    result = jax.block_until_ready(program(*inputs))
    return result, time.perf_counter() - began


def _bare(it: Subject, steps: int) -> float:
    """Seconds of the compiled program, on prompts that are there already."""
    batch = it.trainer.batch(0)
    began = time.perf_counter()
    for _ in range(steps):
        it.state, *_ = it.trainer.take_step(it.state, it.frozen, batch)
    jax.block_until_ready(it.state)
    return time.perf_counter() - began


def _compile(parts: Parts, state: TrainState, frozen: Frozen, prompts: Prompts) -> float:
    jax.clear_caches()  # what is remembered of an earlier trace would make this one faster
    began = time.perf_counter()
    compile_step(parts).lower(state, frozen, prompts).compile()  # pyright: ignore
    return time.perf_counter() - began


@contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    """JAX's persistent cache in `folder`, everything kept in it; afterwards what it was before."""
    wanted = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        reset_cache()  # the folder is looked at once only
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
