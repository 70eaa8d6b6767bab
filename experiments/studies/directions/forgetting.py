"""Forgetting: what is lost of the old task at equal reward on the new one, against both KLs on the new task (RL's razor).

Shenfeld et al. 2025 (arXiv:2509.04259) find that forward KL(base‖adapted) on the new task predicts it, whatever the method.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from experiments.studies.directions.adapting import Run, answers_logp, architecture, fit_base, reinforced, supervised
from experiments.studies.directions.two_tasks import NEW, OLD, TwoTasks
from kljax.devices.state import Architecture
from kljax.types import Params


@dataclass(frozen=True)
class Settings:
    """Base models, learning rates of all methods, betas of RL; the rewards at which runs are compared, and when they end."""

    seeds: int = 3
    rates: tuple[float, ...] = (1e-3, 2e-3)
    betas: tuple[float, ...] = (0.0, 0.1, 0.3)
    levels: tuple[float, ...] = (0.7, 0.8, 0.9)
    base_steps: int = 600
    most_steps: int = 200
    every: int = 4  # steps from one measurement to the next


@dataclass(frozen=True)
class Point:
    """A run where its reward on the new task first is at `level`: exact, KLs in nats per answer, losses beside the base model.

    `lost_nats` is the rise of the old task's cross-entropy per answer, `lost_accuracy` the fall of its share of right answers.
    """

    method: str
    rate: float
    seed: int
    level: float
    step: int
    reward: float
    forward_kl: float  # KL(base‖adapted)
    reverse_kl: float  # KL(adapted‖base)
    lost_nats: float
    lost_accuracy: float


def study(settings: Settings, *, say: Callable[[str], None]) -> list[Point]:
    """All runs of all methods, and where each first reaches each level of reward."""
    arch = architecture()
    bases = []
    for seed in range(settings.seeds):
        say(f"base model {seed}")
        bases.append((TwoTasks(seed), fit_base(arch, TwoTasks(seed), steps=settings.base_steps)))
    found: list[Point] = []
    for rate in settings.rates:
        for kind, start in (("supervised", supervised), ("RL", reinforced)):
            say(f"{kind}, learning rate {rate:g}")
            runs, state, advance = start(arch, bases, rate, settings)
            found += follow(arch, bases, runs, state, advance, settings)
    return found


def follow(
    arch: Architecture,
    bases: Sequence[tuple[TwoTasks, Params]],
    runs: Sequence[Run],
    state: Any,
    advance: Callable[[Any], Any],
    settings: Settings,
) -> Iterator[Point]:
    """Measure all runs every few steps until each has reached the highest level or the steps are used up."""
    measure, before = measurement(arch, bases, [run.seed for run in runs])
    waiting = {(i, level) for i in range(len(runs)) for level in settings.levels}
    for step in range(0, settings.most_steps + 1, settings.every):
        figures = measure(state)
        for i, level in sorted(waiting):
            reward, forward, reverse, nats, accuracy = (float(values[i]) for values in figures)
            if reward >= level:
                lost = nats - float(before[3][i]), float(before[4][i]) - accuracy
                yield Point(runs[i].method, runs[i].rate, runs[i].seed, level, step, reward, forward, reverse, *lost)
                waiting.remove((i, level))
        if not waiting:
            return
        state = advance(state)


Figures = tuple[Float[Array, "runs"], ...]
"""Reward and both KLs on the new task, cross-entropy and accuracy on the old."""


def measurement(
    arch: Architecture, bases: Sequence[tuple[TwoTasks, Params]], seeds: Sequence[int]
) -> tuple[Callable[[Any], Figures], Figures]:
    """Figures of runs that have these base models, from their state (parameters first), and those of the base models."""
    prompts = {task: jnp.asarray(bases[0][0].prompts(task)) for task in (OLD, NEW)}

    def logp(params: Params, task: str) -> Float[Array, "N V V"]:
        return answers_logp(nnx.merge(arch.graphdef, params), prompts[task])

    tables = [
        (logp(base, NEW), jnp.asarray(tasks.right(NEW)), jnp.asarray(tasks.right(OLD)), jnp.asarray(tasks.before(OLD)))
        for tasks, base in bases
    ]
    base_logp, right, old_right, old_text = (jnp.stack([table[k] for table in tables])[jnp.asarray(seeds)] for k in range(4))

    @jax.jit
    @jax.vmap
    def figures(params, base_logp, right, old_right, old_text):
        new, old = logp(params, NEW), logp(params, OLD)
        forward = jnp.sum(jnp.exp(base_logp) * (base_logp - new), (1, 2)).mean()
        reverse = jnp.sum(jnp.exp(new) * (new - base_logp), (1, 2)).mean()
        reward, accuracy = (jnp.sum(jnp.where(r, jnp.exp(x), 0.0), (1, 2)).mean() for r, x in ((right, new), (old_right, old)))
        return reward, forward, reverse, -jnp.sum(old_text * old, (1, 2)).mean(), accuracy

    def measure(state: Any) -> Figures:
        params = state.params if hasattr(state, "params") else state[0]
        return figures(params, base_logp, right, old_right, old_text)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(bases[seed][1] for seed in seeds))
    return measure, measure((stacked,))


def explained(x: Sequence[float], y: Sequence[float], degree: int) -> float:
    """R² of the least-squares polynomial of this degree: the share of y's variance that it explains."""
    y_values = np.asarray(y, float)
    rest = y_values - np.polyval(np.polyfit(x, y_values, degree), x)
    return float(1 - rest @ rest / np.sum((y_values - y_values.mean()) ** 2))
