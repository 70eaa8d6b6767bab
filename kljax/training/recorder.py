"""Metrics, samples and the bar of a run, written while it runs, and the figures that stop it."""

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kljax.data.tokenizers import completion_ids, completion_texts
from kljax.errors import NotFinite
from kljax.progress import ProgressBar
from kljax.runs import directory
from kljax.runs.best import HELD_OUT
from kljax.runs.setup import Setup
from kljax.runs.trackers.tracker import Tracker
from kljax.training.diagnosis import cause, fetched
from kljax.training.step import Outcome

LOOKED_AT = {"held-out reward": f"{HELD_OUT}reward/mean", "KL": f"{HELD_OUT}kl/reverse_exact_seq"}
SHOWN = 50  # steps of which the bar shows the median


class BudgetExceeded(Exception):
    """The policy of `step` is further from the reference than kl.hard_budget allows."""

    def __init__(self, step: int, kl: float):
        self.step, self.kl = step, kl


@dataclass(frozen=True)
class _Waiting:
    """A step that is under way: when it is ready, and since when nothing but it was to be done."""

    step: int
    metrics: Mapping[str, Any]
    outcome: Outcome
    extras: Mapping[str, list[Any]]
    ready: "Future[float]"
    since: float


class Recorder:
    """Logs and bar of a run. Metrics are fetched one step late, so that the device never waits for the host.

    `time/step` is from the end of the step before, or of what was done between the two (a save, a look by enumeration), to the
    end of the step, which a thread waits for. What was done between has a time of its own, on the line of the step after it.
    """

    def __init__(self, setup: Setup, path: Path, first: int, tracker: Tracker, compiling: float | None = None):
        self._task = setup
        self._run = setup.config.run
        self._metrics = directory.MetricsLog(path, first, tracker)
        self._samples = directory.JsonLines(path / "samples.jsonl", first)
        self._bar = ProgressBar(path.name, first, setup.config.steps, "first step")
        self._waiting: _Waiting | None = None
        self._watch = ThreadPoolExecutor(max_workers=1)
        self._began = self._ready = self._since = time.perf_counter()
        self._between: dict[str, float] = {} if compiling is None else {"time/compile": compiling}
        self._spent = dict(self._between)
        self._seconds: list[float] = []
        self._looked_at: dict[str, float] = {}  # figures of the last look, and after which step it was
        self.beta: float | None = None  # that of the last step written

    def __enter__(self) -> "Recorder":
        self._bar.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._bar.__exit__(kind, error, trace)
        self._watch.shutdown()
        self._metrics.close()
        self._samples.close()

    def record(
        self, step: int, metrics: Mapping[str, Any], outcome: Outcome, extras: Mapping[str, list[Any]] | None = None
    ) -> None:
        """Take note of a step, and write the one before. `extras` are what rewards have logged of each sample."""
        ready, since = self._watch.submit(_ready_at, metrics["kl/beta"]), self._since
        self.flush()
        self._waiting = _Waiting(step, metrics, outcome, extras or {}, ready, since)

    @contextmanager
    def between_steps(self, name: str) -> Iterator[None]:
        """Write what is waiting; what is done within is no step's time, but `time/<name>`, seconds."""
        self.flush()
        began = time.perf_counter()
        yield
        self._since = time.perf_counter()
        for times in (self._between, self._spent):
            times[f"time/{name}"] = times.get(f"time/{name}", 0.0) + self._since - began

    def flush(self) -> None:
        """Write what is waiting."""
        if self._waiting is None:
            return
        now, self._waiting = self._waiting, None
        values = fetched(now.metrics)
        ready = now.ready.result()
        seconds, self._ready = ready - max(self._ready, now.since), ready
        self._seconds.append(seconds)
        tokens = values["rollout/length"] * now.outcome.reward.shape[0]
        values |= {"time/step": seconds, "time/tokens_per_second": tokens / seconds, "time/elapsed": ready - self._began}
        values |= self._between | {"memory/peak_gib": peak_memory()}
        self.beta = values["kl/beta"]
        if now.step % self._run.log_every == 0 or any(name.startswith(HELD_OUT) for name in values):
            self._metrics.write(now.step, values)
            self._between = {}
        if why := cause(values, self._task.config):
            raise NotFinite(f"step {now.step}, counted from 0: {why}")
        if now.step % self._run.sample_every == 0:
            self._samples.write({"step": now.step, "samples": self._shown(now)})
        usual = statistics.median(self._seconds[-SHOWN:])
        shown = {"reward": "reward/mean", "KL": "kl/reverse_exact_seq", "beta": "kl/beta"}
        figures = {label: values[name] for label, name in shown.items()} | {"tok/s": tokens / usual}
        if any(name in values for name in LOOKED_AT.values()):
            looked = {label: values[name] for label, name in LOOKED_AT.items() if name in values}
            self._looked_at = {f"{label} ({now.step})": value for label, value in looked.items()}
        self._bar.show(now.step + 1, figures | self._looked_at)
        self.check_budget(now.step, values["kl/reverse_exact_seq"])

    def write_after_last(self, step: int, figures: Mapping[str, float]) -> None:
        """A line without a training step, of the policy after the last one, with what was done since."""
        self.flush()
        self._metrics.write(step, {**figures, **self._between})
        self._between = {}

    def check_budget(self, step: int, kl: float) -> None:
        """Raises BudgetExceeded where `kl`, of the policy after `step` steps, is above kl.hard_budget."""
        budget = self._task.config.kl.hard_budget
        if budget is not None and kl > budget:
            raise BudgetExceeded(step, kl)

    def summary(self) -> str:
        """How long this launch's steps took, and what else did."""
        if not self._seconds:
            return ""
        usual, low, high = statistics.median(self._seconds), min(self._seconds), max(self._seconds)
        spent = {"compiling": "time/compile", "saving": "time/save", "enumerating": "time/oracle"}
        spent["evaluating"] = "time/evaluation"
        beside = [f"{label} {self._spent[name]:.1f} s" for label, name in spent.items() if name in self._spent]
        steps = f"{len(self._seconds)} steps of {usual:.3g} s in the median ({low:.3g} to {high:.3g})"
        return "; ".join([steps, *beside]) + "."

    def _shown(self, of: _Waiting) -> list[dict[str, Any]]:
        """The first sample of the first few prompts: text, tokens, the KL at each, reward, and what rewards have logged."""
        samples, tokenizer = self._task.config.rollout.samples, self._task.tokenizer
        few = jax.tree.map(lambda x: np.asarray(x)[::samples][: self._run.samples_shown], of.outcome)
        prompts, completions = completion_texts(tokenizer, few.rollout)
        ids = completion_ids(of.outcome.rollout)[::samples]
        return [
            {
                "prompt": prompts[i],
                "completion": completions[i],
                "reward": float(few.reward[i]),
                "token_ids": ids[i],
                "tokens": tokenizer.convert_ids_to_tokens(ids[i]),
                "reverse_kl_exact": [float(kl) for kl in few.reverse_kl[i][few.rollout.mask[i]]],
            }
            | ({"logged": {name: values[i * samples] for name, values in of.extras.items()}} if of.extras else {})
            for i in range(len(prompts))
        ]


def _ready_at(array: jax.Array) -> float:
    array.block_until_ready()
    return time.perf_counter()


def peak_memory() -> float:
    """GiB that the fullest device has held at most; of a CPU what this process has."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    unit = 1 if sys.platform == "darwin" else 1024
    return (max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 2**30
