"""What a run writes down while it runs: metrics, samples and the bar; and what it stops at."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kljax.data.tokenizers import completion_texts
from kljax.errors import UserError
from kljax.training import run_directory
from kljax.training.progress import ProgressBar
from kljax.training.step import Outcome
from kljax.training.task import Task


class BudgetExceeded(Exception):
    """The policy of `step` is further from the reference than kl.hard_budget allows."""

    def __init__(self, step: int, kl: float):
        self.step, self.kl = step, kl


class Recorder:
    """Logs and bar of a run. Metrics are fetched one step late, so that the device never waits for the host."""

    def __init__(self, task: Task, path: Path, first: int):
        self._task = task
        self._run = task.config.run
        self._metrics = run_directory.MetricsLog(path, first)
        self._samples = run_directory.JsonLines(path / "samples.jsonl", first)
        self._bar = ProgressBar(path.name, first, task.config.steps)
        self._waiting: tuple[int, Mapping[str, Any], Outcome, Mapping[str, list[Any]]] | None = None
        self._clock = time.perf_counter()

    def __enter__(self) -> "Recorder":
        self._bar.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._bar.__exit__(kind, error, trace)
        self._metrics.close()
        self._samples.close()

    def record(
        self, step: int, metrics: Mapping[str, Any], outcome: Outcome, extras: Mapping[str, list[Any]] | None = None
    ) -> None:
        """Take note of a step, and write the one before. `extras` are what rewards have logged of each sample."""
        self.flush()
        self._waiting = step, metrics, outcome, extras or {}

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting is None:
            return
        step, metrics, outcome, extras = self._waiting
        self._waiting = None
        values = {name: np.asarray(value).tolist() for name, value in jax.device_get(metrics).items()}
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        batch = outcome.reward.shape[0]
        values |= {"time/step": seconds, "time/tokens_per_second": values["rollout/length"] * batch / seconds}
        self._refuse_divergence(step, values)
        if step % self._run.log_every == 0:
            self._metrics.write(step, values)
        if step % self._run.sample_every == 0:
            self._samples.write({"step": step, "samples": self._shown(outcome, extras)})
        shown = {
            "reward": "reward/mean",
            "KL": "kl/reverse_exact_seq",
            "beta": "kl/beta",
            "tok/s": "time/tokens_per_second",
        }
        self._bar.show(step + 1, {label: values[name] for label, name in shown.items()})
        budget = self._task.config.kl.hard_budget
        if budget is not None and values["kl/reverse_exact_seq"] > budget:
            raise BudgetExceeded(step, values["kl/reverse_exact_seq"])

    def _refuse_divergence(self, step: int, values: dict[str, Any]) -> None:
        for name, term in self._task.config.reward.items():
            mean = values.get(f"reward/terms/{name}", 0.0)
            if term.kind == "jax" and term.weight and not math.isfinite(mean):
                raise UserError(
                    f"step {step}: reward.{name} is {mean} in the mean of its samples, expected finite numbers; the run "
                    "stopped, its checkpoints are kept."
                )
        for name in ("policy/grad_norm", "kl/reverse_exact_seq", "reward/mean"):
            if not math.isfinite(values[name]):
                raise UserError(
                    f"step {step}: {name} is {values[name]}, expected a finite number; the run stopped, "
                    "its checkpoints are kept. A lower optimizer.learning_rate or a higher kl.beta usually helps."
                )

    def _shown(self, outcome: Outcome, extras: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        """The first sample of the first few prompts: text, reward, KL token by token, and what rewards have logged of it."""
        samples = self._task.config.rollout.samples
        few = jax.tree.map(lambda x: np.asarray(x)[::samples][: self._run.samples_shown], outcome)
        prompts, completions = completion_texts(self._task.tokenizer, few.rollout)
        return [
            {
                "prompt": prompts[i],
                "completion": completions[i],
                "reward": float(few.reward[i]),
                "reverse_kl_exact": [float(kl) for kl in few.reverse_kl[i][few.rollout.mask[i]]],
            }
            | ({"logged": {name: values[i * samples] for name, values in extras.items()}} if extras else {})
            for i in range(len(prompts))
        ]
