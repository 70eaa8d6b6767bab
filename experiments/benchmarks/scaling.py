"""How the cost of a step grows: with batch, length and model, with runs side by side, and over devices.

Steps are timed in turn (A B C, A B C, …), so that what else the machine does falls on all of them. Over devices nothing is
timed: simulated ones share the cores. What is counted there is what the compiled program communicates and holds.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.collectives import KINDS, Collectives, Traffic, count_collectives, total
from experiments.benchmarks.compilation import seconds_to_compile
from experiments.benchmarks.series import BASE, DISTRIBUTED, MESHES, RUNS, SERIES, SMALL, Overrides
from experiments.benchmarks.tables import Rows
from experiments.benchmarks.timing import WARM, Subject, Timed, subject, timed_step
from experiments.benchmarks.work import Sizes, step_work
from kljax.config import Config
from kljax.devices.resources import divide_cpu
from kljax.devices.state import TrainState
from kljax.models.sampling import rooms
from kljax.runs.adapter import Frozen
from kljax.runs.setup import prepare
from kljax.training.step import compile_step
from kljax.training.trainer import Batch, build_trainer
from kljax.types import Params, Prompts

Compose = Callable[[Overrides], Config]
"""From overrides to the config: command_line.compose, which is above this room. Processes are sent it: no lambda."""


@dataclass(frozen=True)
class Program:
    """A compiled program, and the bytes of its temporaries."""

    run: Callable[..., Any]
    temporaries: int


@dataclass(frozen=True)
class Cost:
    """Time and memory of a step of one member of a series; `flops` are those of its matrix products, as they must be done."""

    label: str
    sizes: Sizes
    parameters: int
    flops: int
    step: Timed
    compile_seconds: float
    temporaries: int


@dataclass(frozen=True)
class Runs:
    """A step of so many runs: in one program (`together`), and by the program of one run, one after another (`in_turn`)."""

    runs: int
    together: Timed
    in_turn: Timed
    compile_seconds: float
    temporaries: int


@dataclass(frozen=True)
class Layout:
    """The step on a mesh: what it communicates, and bytes on one device. `arguments`: train state, what is frozen, prompts."""

    label: str
    collectives: Collectives
    parameters: int
    arguments: int
    temporaries: int


def measure_series(compose: Compose, name: str, steps: int, changed: Overrides = ()) -> list[Cost]:
    """The members of a series, `steps` steps of each in turn; `changed` is changed in all of them."""
    members = [(*BASE, *changed, *overrides) for overrides in SERIES[name].values()]
    seconds = seconds_to_compile([partial(_one_step, compose, overrides) for overrides in members])
    steppers = compiled([as_configured(compose, overrides) for overrides in members])
    timed = in_turn([partial(timed_step, it) for it, _ in steppers], steps)
    return [
        _cost(label, it, program, step, took)
        for label, (it, program), step, took in zip(SERIES[name], steppers, timed, seconds, strict=True)
    ]


def measure_runs(compose: Compose, steps: int, changed: Overrides = (), counts: Sequence[int] = RUNS) -> list[Runs]:
    """Runs of one config that differ in their noise and prompts."""
    overrides = *SMALL, *changed
    seconds = seconds_to_compile([partial(_steps_side_by_side, compose, overrides, runs) for runs in counts])
    ((it, one),) = compiled([on_one_device(compose, overrides)])
    alone = [several(it, runs) for runs in counts]
    together = [(stack(states), stack(prompts)) for states, prompts in alone]
    programs = [_build(side_by_side(it), states, it.frozen, prompts) for states, prompts in together]
    ways = []
    for program, (states, prompts), (stacked, their_prompts) in zip(programs, alone, together, strict=True):
        ways += [_stepper([stacked], it, program, [their_prompts]), _stepper(states, it, one, prompts)]
    timed = in_turn(ways, steps)
    return [
        Runs(runs, together, after_one_another, took, program.temporaries)
        for runs, together, after_one_another, took, program in zip(
            counts, timed[::2], timed[1::2], seconds, programs, strict=True
        )
    ]


def several(it: Subject, runs: int) -> tuple[list[TrainState], list[Prompts]]:
    """Copies of the state with noise of their own, and prompts for each."""
    states = [replace(jax.tree.map(jnp.copy, it.state), key=jax.random.fold_in(it.state.key, run)) for run in range(runs)]
    return states, [it.trainer.batch(run).prompts for run in range(runs)]


def stack(trees: Sequence[Any]) -> Any:
    """One tree for several of one kind, the runs in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def side_by_side(it: Subject) -> Any:
    """One program for the states and prompts of several runs; what is frozen they share."""
    step = compile_step(it.trainer.parts)
    return jax.jit(
        jax.vmap(lambda state, frozen, prompts: step(state, frozen, prompts), in_axes=(0, None, 0)), donate_argnums=0
    )


def lay_out(compose: Compose, label: str, changed: Overrides = ()) -> Layout:
    """The step compiled for a mesh of MESHES, from shapes alone: no parameter is made, so that models of any size fit."""
    mesh = [f"mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), MESHES[label], strict=True)]
    config = compose((*DISTRIBUTED, *changed, *mesh))
    trainer = build_trainer(prepare(config))
    arch = trainer.setup.architecture
    params = _abstract(trainer.form(arch.shapes), trainer.form(arch.shardings))
    reference = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, config.reference.dtype, sharding=p.sharding), params)
    state, frozen = _abstract(trainer.shapes, trainer.parts.shardings), trainer.freeze(params, reference)
    step = compile_step(trainer.parts).lower(state, frozen, trainer.batch(0).prompts).compile()  # pyright: ignore
    memory = step.memory_analysis()
    return Layout(
        label,
        count_collectives(step.as_text(), np.diff([0, *rooms(config.rollout.max_new_tokens - 1)]).tolist()),
        sum(_bytes_on_one(leaf) for leaf in jax.tree.leaves(params)),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
    )


def in_turn(ways: Sequence[Callable[[int], float]], rounds: int) -> list[Timed]:
    """Seconds that each way says, called with the number of the round; the first rounds, in which it warms up, left out."""
    seconds = [[way(turn) for way in ways] for turn in range(WARM + rounds)]
    return [Timed(column) for column in zip(*seconds[WARM:], strict=True)]


def cost_table(costs: Sequence[Cost]) -> Rows:
    """A member a row; × is the multiple of the first one."""
    head = ["", "completions", "prompt", "new tokens", "parameters", "operations ×"]
    head += ["s, median", "min", "max", "seconds ×", "compile, s", "temporaries, MiB"]
    first = costs[0]
    return [
        head,
        *(
            [
                cost.label,
                *(f"{size:,}" for size in (cost.sizes.rows, cost.sizes.prompt_length, cost.sizes.new_tokens, cost.parameters)),
                f"{cost.flops / first.flops:.2f}",
                *(f"{seconds:.3g}" for seconds in (cost.step.median, cost.step.min, cost.step.max)),
                f"{cost.step.median / first.step.median:.2f}",
                f"{cost.compile_seconds:.3g}",
                _mib(cost.temporaries),
            ]
            for cost in costs
        ),
    ]


def runs_table(found: Sequence[Runs]) -> Rows:
    """So many runs a row; seconds are of a step of all of them."""
    head = ["runs", "together, s, median", "min", "max", "one after another, s, median", "min", "max"]
    head += ["together / one after another", "compile, s", "temporaries, MiB"]
    return [
        head,
        *(
            [
                str(each.runs),
                *(f"{x:.3g}" for way in (each.together, each.in_turn) for x in (way.median, way.min, way.max)),
                f"{each.together.median / each.in_turn.median:.2f}",
                f"{each.compile_seconds:.3g}",
                _mib(each.temporaries),
            ]
            for each in found
        ),
    ]


def layout_tables(layouts: Sequence[Layout]) -> list[Rows]:
    """Memory of one device, and what it communicates: number of collectives and MiB of their results, by kind."""
    memory = [["MiB on a device", "parameters", "all arguments", "temporaries"]]
    traffic = [["collectives a step (MiB)", "where", *KINDS, "all"]]
    for layout in layouts:
        sizes = [_mib(size) for size in (layout.parameters, layout.arguments, layout.temporaries)]
        memory.append([layout.label, *sizes])
        for where, by_kind in (("sampling", layout.collectives.sampling), ("elsewhere", layout.collectives.elsewhere)):
            kinds = [_traffic(by_kind.get(kind, Traffic(0, 0))) for kind in KINDS]
            traffic.append([layout.label, where, *kinds, _traffic(total(by_kind))])
    return [memory, traffic]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _traffic(traffic: Traffic) -> str:
    return f"{traffic.number:,} ({_mib(traffic.bytes)})" if traffic.number else "–"


def as_configured(compose: Compose, overrides: Overrides) -> Subject:
    """On the devices that the config has, in a process that has begun to use no others."""
    config = compose(overrides)
    divide_cpu(config)
    return subject(config)


def on_one_device(compose: Compose, overrides: Overrides) -> Subject:
    """On the first device, which is the whole CPU in a process that has not divided it."""
    return subject(compose((*overrides, "mesh.data=1")))


def compiled(subjects: Sequence[Subject]) -> list[tuple[Subject, Program]]:
    """Their steps, compiled anew; each subject takes its steps by that very program."""
    programs = [_build(*_step_and_inputs(it)) for it in subjects]
    for it, program in zip(subjects, programs, strict=True):
        it.trainer = replace(it.trainer, take_step=partial(_step_by, program))
    return list(zip(subjects, programs, strict=True))


def _step_by(program: Program, state: TrainState, frozen: Frozen, batch: Batch) -> Any:
    return program.run(state, frozen, batch.prompts)


def _build(program: Any, *inputs: Any) -> Program:
    built = program.lower(*inputs).compile()
    return Program(built, built.memory_analysis().temp_size_in_bytes)


def _one_step(compose: Compose, overrides: Overrides) -> tuple[Any, ...]:
    return _step_and_inputs(as_configured(compose, overrides))


def _steps_side_by_side(compose: Compose, overrides: Overrides, runs: int) -> tuple[Any, ...]:
    it = on_one_device(compose, overrides)
    states, prompts = several(it, runs)
    return side_by_side(it), stack(states), it.frozen, stack(prompts)


def _step_and_inputs(it: Subject) -> tuple[Any, ...]:
    return compile_step(it.trainer.parts), it.state, it.frozen, it.trainer.batch(0).prompts


def _cost(label: str, it: Subject, program: Program, step: Timed, compile_seconds: float) -> Cost:
    setup = it.trainer.setup
    work = step_work(setup.decoder, setup.vocab_size, it.sizes)
    flops = sum(part.flops for part in work.values())
    return Cost(label, it.sizes, it.parameters, flops, step, compile_seconds, program.temporaries)


def _stepper(states: list[TrainState], it: Subject, program: Program, prompts: list[Prompts]) -> Callable[[int], float]:
    """Seconds of a step of each state, which the next one replaces."""

    def step(_: int) -> float:
        began = time.perf_counter()
        for i, given in enumerate(prompts):
            states[i] = program.run(states[i], it.frozen, given)[0]
        jax.block_until_ready(states)
        return time.perf_counter() - began

    return step


def _abstract(shapes: Params, shardings: Params) -> Any:
    """Arrays that are not there, and where they would lie."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, shardings)


def _bytes_on_one(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize  # pyright: ignore
