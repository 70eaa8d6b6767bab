"""The RLHF run: prepare, check that KL is 0 where pi = rho, then step, log and save until done."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.config import Config
from kljax.data.batches import PromptRows, rows_at
from kljax.data.tokenizers import decode
from kljax.errors import UserError
from kljax.kl import controllers
from kljax.kl.penalties import PENALTIES
from kljax.policy.algorithms import ALGORITHMS
from kljax.rewards import combination
from kljax.training import run_directory
from kljax.training.checkpoints import Checkpoints, load_reference, save_reference
from kljax.training.fitting import ensure_base
from kljax.training.interrupt import Interrupted, StopRequest
from kljax.training.mesh import batch_sharding
from kljax.training.progress import ProgressBar, console
from kljax.training.state import TrainState, initial_state, make_optimizer, state_shapes, state_shardings
from kljax.training.step import Metrics, Outcome, Parts, compile_halves, compile_step
from kljax.training.task import Task, prepare
from kljax.types import Params, Rollout

MAX_KL_AT_START = 1e-6  # nats per token, for pi = rho
MAX_LOGP_GAP = {"float32": 1e-3, "bfloat16": 0.3}  # nats, sampler against scorer; bfloat16 rounds each of them


@dataclass(frozen=True)
class Batch:
    """The prompts of a step and the rows that they are from."""

    rows: np.ndarray
    prompts: Any


TakeStep = Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics, Outcome]]


@dataclass(frozen=True)
class Trainer:
    """Everything that a run needs beside its state."""

    task: Task
    prompts: PromptRows
    parts: Parts
    take_step: TakeStep
    shapes: TrainState

    def batch(self, step: int) -> Batch:
        """The prompts of `step`: a pure function of (seed, step)."""
        config = self.task.config
        rows = rows_at(config.seed, step, config.rollout.prompts, len(self.prompts.tokens))
        return Batch(rows, jax.device_put(self.prompts.select(rows), batch_sharding(self.task.mesh)))


def train(config: Config) -> Path:
    """Run the experiment, or go on with it; its run directory."""
    algorithm = ALGORITHMS[config.algorithm]
    if config.rollout.samples < algorithm.min_samples:
        raise UserError(
            f"rollout.samples: got {config.rollout.samples}, expected at least {algorithm.min_samples} for "
            f"algorithm={config.algorithm}. With one sample a prompt, use algorithm=reinforce."
        )
    path = run_directory.run_path(config)
    run_directory.check_owner(path, run_directory.identity(config))
    task = prepare(config)
    trainer = build_trainer(task)
    base = ensure_base(task)
    arch = task.architecture
    reference, reference_hash = load_reference(base, arch.shapes, arch.shardings)
    state = initial_state(reference, trainer.parts.optimizer, trainer.parts.controller, config.seed, trainer.parts.shardings)
    check_zero_kl(trainer, state, reference)
    run_directory.create(path, {**run_directory.identity(config), "run": run_directory.to_dict(config)["run"]})
    task.tokenizer.save_pretrained(str(path / "tokenizer"))
    save_reference(path, reference)
    checkpoints = Checkpoints(path)
    try:
        if done := checkpoints.steps():
            state = checkpoints.restore(done[-1], trainer.shapes, trainer.parts.shardings, reference_hash)
        _run(trainer, state, reference, checkpoints, reference_hash, path)
    finally:
        checkpoints.close()
    return path


def build_trainer(task: Task) -> Trainer:
    """Choose the parts that the config names, and compile nothing yet."""
    config = task.config
    optimizer = make_optimizer(config.optimizer, config.steps)
    controller = controllers.fixed(config.kl.beta)
    shapes = state_shapes(task.architecture.shapes, optimizer, controller)
    reward = combination.build(config.reward, task.tokenizer)
    parts = Parts(
        architecture=task.architecture,
        shardings=state_shardings(shapes, optimizer, task.architecture),
        sampler=task.sampler(config.rollout.samples),
        reward=reward.device,
        penalty=PENALTIES[config.kl.penalty],
        algorithm=ALGORITHMS[config.algorithm],
        controller=controller,
        optimizer=optimizer,
    )
    prompts = task.prompts()
    return Trainer(task, prompts, parts, _step_taker(task, prompts, parts, reward.host), shapes)


def _step_taker(task: Task, prompts: PromptRows, parts: Parts, host: combination.HostReward | None) -> TakeStep:
    """One compiled program where every reward is on the device; two halves around the host's reward otherwise."""
    if host is None:
        step = compile_step(parts)
        return lambda state, reference, batch: step(state, reference, batch.prompts)
    rollout_half, update_half = compile_halves(parts)

    def take_step(state: TrainState, reference: Params, batch: Batch):
        rollout, device_reward = rollout_half(state, batch.prompts)
        texts = completion_texts(task, rollout)
        host_reward = host(*texts, prompts.columns(batch.rows, parts.sampler.samples))
        reward = device_reward + jax.device_put(host_reward, batch_sharding(task.mesh))
        return update_half(state, reference, rollout, reward)

    return take_step


def completion_texts(task: Task, rollout: Rollout) -> tuple[list[str], list[str]]:
    """Prompts and completions as text."""
    tokens, prompt_mask, mask = (np.asarray(x) for x in (rollout.tokens, rollout.prompt_mask, rollout.mask))
    width = prompt_mask.shape[1]
    prompts = decode(task.tokenizer, (row[:width][m] for row, m in zip(tokens, prompt_mask, strict=True)))
    return prompts, decode(task.tokenizer, (row[width:][m] for row, m in zip(tokens, mask, strict=True)))


def check_zero_kl(trainer: Trainer, state: TrainState, reference: Params) -> None:
    """Refuse to train unless every KL is 0 for pi = rho and sampler and scorer agree, in the very program that trains.

    The step is taken on a copy of the state and thrown away. After a resume the parameters are the reference's, too: what
    is checked is the program and the reference, not the state.
    """
    _, metrics, _ = trainer.take_step(jax.tree.map(jnp.copy, state), reference, trainer.batch(0))
    kl, gap = float(metrics["kl/reverse_exact_tok_max"]), float(metrics["rollout/logp_gap_max"])
    limit = MAX_LOGP_GAP[trainer.task.config.model.dtype]
    if not kl < MAX_KL_AT_START:
        raise UserError(
            f"kl: with policy = reference the reverse KL is {kl:.3g} nats per token, expected less than {MAX_KL_AT_START:g}. "
            "The likely causes: dropout left on, positions or masks under padding, different dtypes, or the wrong reference."
        )
    if not gap < limit:
        raise UserError(
            f"rollout: sampler and scorer disagree by {gap:.3g} nats on a token's log-prob, expected less than {limit:g}. "
            "The likely causes: a temperature on one side only, positions or masks under padding, different dtypes."
        )


def _run(
    trainer: Trainer, state: TrainState, reference: Params, checkpoints: Checkpoints, reference_hash: str, path: Path
) -> None:
    config = trainer.task.config
    first = int(state.step)
    if first:
        console.print(f"Resuming {path} at step {first} of {config.steps}.", soft_wrap=True)
    with _Recorder(trainer, path, first) as recorder, StopRequest() as stop:
        for step in range(first, config.steps):
            batch = trainer.batch(step)
            try:
                state, metrics, outcome = trainer.take_step(state, reference, batch)
            except UserError:
                # A reward of the user's failed between the halves: the state is whole, and hours of work must not be lost.
                recorder.flush()
                checkpoints.save(step, state, reference_hash)
                raise
            recorder.record(step, metrics, outcome)
            if (step + 1) % config.run.save_every == 0 or step + 1 == config.steps or stop.asked:
                recorder.flush()  # a checkpoint never runs ahead of the log
                checkpoints.save(step + 1, state, reference_hash)
            if stop.asked and step + 1 < config.steps:
                checkpoints.wait()
                raise Interrupted(
                    f"Stopped and saved {path} at step {step + 1} of {config.steps}. The same command goes on from there."
                )
    checkpoints.wait()


class _Recorder:
    """Logs and bar of a run. Metrics are fetched one step late, so that the device never waits for the host."""

    def __init__(self, trainer: Trainer, path: Path, first: int):
        self._trainer = trainer
        self._run = trainer.task.config.run
        self._metrics = run_directory.MetricsLog(path, first)
        self._samples = run_directory.JsonLines(path / "samples.jsonl", first)
        self._bar = ProgressBar(path.name, first, trainer.task.config.steps)
        self._waiting: tuple[int, Metrics, Outcome] | None = None
        self._clock = time.perf_counter()

    def __enter__(self) -> "_Recorder":
        self._bar.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._bar.__exit__(kind, error, trace)
        self._metrics.close()
        self._samples.close()

    def record(self, step: int, metrics: Metrics, outcome: Outcome) -> None:
        """Take note of a step, and write the one before."""
        self.flush()
        self._waiting = step, metrics, outcome

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting is None:
            return
        step, metrics, outcome = self._waiting
        self._waiting = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        batch = outcome.reward.shape[0]
        values |= {"time/step": seconds, "time/tokens_per_second": values["rollout/length"] * batch / seconds}
        self._refuse_divergence(step, values)
        if step % self._run.log_every == 0:
            self._metrics.write(step, values)
        if step % self._run.sample_every == 0:
            self._samples.write({"step": step, "samples": self._shown(outcome)})
        shown = {
            "reward": "reward/mean",
            "KL": "kl/reverse_exact_seq",
            "beta": "kl/beta",
            "tok/s": "time/tokens_per_second",
        }
        self._bar.show(step + 1, {label: values[name] for label, name in shown.items()})

    def _refuse_divergence(self, step: int, values: dict[str, float]) -> None:
        for name in ("policy/grad_norm", "kl/reverse_exact_seq", "reward/mean"):
            if not math.isfinite(values[name]):
                raise UserError(
                    f"step {step}: {name} is {values[name]}, expected a finite number; the run stopped, "
                    "its checkpoints are kept. A lower optimizer.learning_rate or a higher kl.beta usually helps."
                )

    def _shown(self, outcome: Outcome) -> list[dict[str, Any]]:
        """The first sample of the first few prompts: text, reward, and KL token by token."""
        samples = self._trainer.parts.sampler.samples
        few = jax.tree.map(lambda x: np.asarray(x)[::samples][: self._run.samples_shown], outcome)
        prompts, completions = completion_texts(self._trainer.task, few.rollout)
        return [
            {
                "prompt": prompts[i],
                "completion": completions[i],
                "reward": float(few.reward[i]),
                "reverse_kl_exact": [float(kl) for kl in few.reverse_kl[i][few.rollout.mask[i]]],
            }
            for i in range(len(prompts))
        ]
