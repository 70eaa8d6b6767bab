"""A step on an accelerator in little time: every program compiled once, all of them at the same time, then timed in turn."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from statistics import median
from typing import Any

import jax

from experiments.benchmarks.machine import measure_ceiling
from experiments.benchmarks.timing import Subject, subject, timed
from experiments.benchmarks.work import step_work
from kljax.config import Config
from kljax.training.step import compile_halves, compile_step, score_rollout

Figures = dict[str, Any]
Compiled = Callable[..., Any]

WARM = 1  # calls of each program before those that are timed: nothing compiles any more

FIGURES = {
    "size": "{size}",
    "dtype": "{dtype}",
    "step, s": "{seconds[step]:.4g}",
    "rollout": "{seconds[rollout]:.4g}",
    "scoring": "{seconds[scoring]:.4g}",
    "update": "{seconds[update]:.4g}",
    "tokens/s": "{tokens_per_second:,.0f}",
    "update, TFLOP/s": "{update_tflops:.3g}",
    "MFU": "{update_mfu:.0%}",
    "decoding, bandwidth": "{decode_bandwidth:.0%}",
    "peak, MiB": "{peak_mib}",
    "compile, s": "{compile_seconds[step]:.3g}",
    "KL at start": "{kl_at_start:.1e}",
    "log-prob gap": "{logp_gap:.1e}",
}
"""Of the table: what each row shows of `measure`'s figures."""


def measure(config: Config, steps: int) -> Figures:
    """Seconds of the whole step and of its parts, medians of `steps`, beside what this device can do.

    `update_mfu` is of the fastest large product in the same precision, measured here; `decode_bandwidth` the bytes that
    decoding must move over the rollout's time, as a share of what a copy moves. Policy and reference are one model at first,
    so the first step's KL is the noise of this device's arithmetic, and `logp_gap` the sampler's against the scorer's.
    """
    it = subject(config)
    programs, compile_seconds = compile_all(it)
    first, seconds = time_steps(it, programs["step"], steps)
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")  # before any other program has run
    seconds |= time_parts(it, programs, steps)
    ceiling, sizes, setup = measure_ceiling(config.model.dtype), it.sizes, it.trainer.setup
    work = step_work(setup.decoder, setup.vocab_size, sizes, cache_dtype=config.rollout.cache_dtype)
    update = (work["reference"].flops + work["update"].flops) / seconds["update"]
    return {
        "dtype": config.model.dtype,
        "parameters": it.parameters,
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "tokens_per_second": sizes.rows * sizes.new_tokens / seconds["step"],
        "update_tflops": update / 1e12,
        "update_mfu": update / ceiling.flops_per_second,
        "decode_bandwidth": work["decode"].bytes / seconds["rollout"] / ceiling.bytes_per_second,
        "peak_mib": None if peak is None else peak // 2**20,
        "kl_at_start": float(first["kl/reverse_exact_tok_max"]),
        "logp_gap": float(first["rollout/logp_gap_max"]),
        "ceiling": asdict(ceiling),
        "sizes": asdict(sizes),
    }


def compile_all(it: Subject) -> tuple[dict[str, Compiled], dict[str, float]]:
    """The step and its parts as programs, and the seconds to trace, lower and compile each while the others compile, too."""
    parts, state, frozen, prompts = it.trainer.parts, it.state, it.frozen, it.trainer.batch(0).prompts
    rollout_half, update_half = compile_halves(parts)
    rolled_out = jax.eval_shape(rollout_half, state, frozen, prompts)

    @jax.jit
    def scoring(state: Any, frozen: Any, rollout: Any) -> Any:
        return score_rollout(parts, state.params, frozen, state.reference, rollout)

    jobs: Mapping[str, tuple[Any, ...]] = {
        "step": (compile_step(parts), state, frozen, prompts),
        "rollout": (rollout_half, state, frozen, prompts),
        "scoring": (scoring, state, frozen, rolled_out[0]),
        "update": (update_half, state, frozen, *rolled_out),
    }
    with ThreadPoolExecutor(len(jobs)) as threads:
        compiled = dict(zip(jobs, threads.map(_compiled, jobs.values()), strict=True))
    return {name: program for name, (program, _) in compiled.items()}, {name: taken for name, (_, taken) in compiled.items()}


def time_steps(it: Subject, step: Compiled, steps: int) -> tuple[Mapping[str, Any], dict[str, float]]:
    """The metrics of the very first step, and the median seconds of those after the warm-up."""
    taken, first = [], None
    for i in range(WARM + steps):
        prompts = it.trainer.batch(i).prompts
        (it.state, metrics, _), seconds = timed(step, it.state, it.frozen, prompts)
        first = metrics if first is None else first
        taken.append(seconds)
    assert first is not None
    return first, {"step": median(taken[WARM:])}


def time_parts(it: Subject, programs: Mapping[str, Compiled], steps: int) -> dict[str, float]:
    """Median seconds of rollout, scoring and update, one after another."""
    taken = []
    for i in range(WARM + steps):
        (rollout, *rest), of_rollout = timed(programs["rollout"], it.state, it.frozen, it.trainer.batch(i).prompts)
        _, of_scoring = timed(programs["scoring"], it.state, it.frozen, rollout)
        (it.state, *_), of_update = timed(programs["update"], it.state, it.frozen, rollout, *rest)
        taken.append((of_rollout, of_scoring, of_update))
    columns = zip(*taken[WARM:], strict=True)
    return dict(zip(("rollout", "scoring", "update"), map(median, columns), strict=True))


def table(found: list[Figures]) -> list[list[str]]:
    """A measurement a column, so that all of them fit on a terminal."""
    return [[label, *(form.format(**figures) for figures in found)] for label, form in FIGURES.items()]


def _compiled(job: tuple[Any, ...]) -> tuple[Compiled, float]:
    program, *inputs = job
    began = time.perf_counter()
    return program.lower(*inputs).compile(), time.perf_counter() - began
