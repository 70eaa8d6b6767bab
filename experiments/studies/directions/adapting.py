"""A base model that can do the old task, adapted to the new one: by maximum likelihood on chosen answers, or by RL.

RL is the project's own step (`kljax.training.step`): samples, rewards 1 or 0, the exact reverse-KL penalty. Many runs at once:
their states are stacked, and a step is one `vmap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.studies.directions import tiny, two_tasks
from experiments.studies.directions.two_tasks import ANSWER, NEW, OLD, WORDS, Answers, TwoTasks
from kljax.config import NoAdapter
from kljax.devices.state import Architecture, TrainState, make_optimizer, state_shapes, state_shardings
from kljax.kl import controllers, divergences
from kljax.kl.controllers import ControllerState
from kljax.kl.penalties import PENALTIES
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.sampling import Sampler
from kljax.models.scoring import token_logp
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.scaling import unscaled
from kljax.rewards.combination import Reward, Terms
from kljax.runs.adapter import Frozen, adaptation
from kljax.training.step import Parts, roll_out, update
from kljax.types import Params, Prompts, Rollout

SAMPLES = 8  # answers a prompt in each step, of all methods


@dataclass(frozen=True)
class Run:
    """One of the runs that are stacked: how it learns, its learning rate, and whose base model it has."""

    method: str
    rate: float
    seed: int


Bases = Sequence[tuple[TwoTasks, Params]]
Started = tuple[list[Run], Any, Callable[[Any], Any]]
"""Runs, their stacked state, and what takes it some steps further."""


def stacked(trees: Sequence[Any]) -> Any:
    """Trees as one, with a first axis more."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _many(step: Callable[[Any], Any], steps: int) -> Callable[[Any], Any]:
    return jax.jit(lambda state: jax.lax.scan(lambda s, _: (step(s), None), state, length=steps)[0])


def architecture(width: int = 32, layers: int = 1) -> Architecture:
    """The decoder of this study."""
    return tiny.decoder(len(WORDS), 3 + ANSWER, width, layers)


def answers_logp(model: Decoder, prompts: Int[Array, "N P"]) -> Float[Array, "N V V"]:
    """log pi(first word, second word | prompt) of every pair of words."""
    words, count = len(WORDS), len(prompts)
    first = jnp.tile(jnp.arange(words), count)[:, None]
    tokens = jnp.concatenate([jnp.repeat(prompts, words, axis=0), first], axis=1)
    mask = jnp.ones(tokens.shape, bool)
    hidden, _ = model(tokens, positions_of(mask), causal_mask(mask))
    logp = jax.nn.log_softmax(model.logits(hidden[:, -2:])).reshape(count, words, 2, words)
    return logp[:, 0, 0, :, None] + logp[:, :, 1]


# Supervised -----------------------------------------------------------------------------------------------------------

TARGETS: dict[str, Callable[..., Answers]] = {
    "nearest": lambda right, base, seed: two_tasks.nearest(right, base),
    "uniform": lambda right, base, seed: two_tasks.uniform(right),
    "one for all": lambda right, base, seed: two_tasks.one_for_all(right),
    "at random": lambda right, base, seed: two_tasks.at_random(right, seed),
    "farthest": lambda right, base, seed: two_tasks.farthest(right, base),
}
"""Distributions of answers that all solve the new task, from (right, base, seed)."""

Fit = tuple[Params, Any, Any]
"""Parameters, the optimiser's state and a key; of many runs, stacked."""


def supervised_step(
    arch: Architecture, optimizer: optax.GradientTransformation, prompts: Int[Array, "N P"], samples: int = SAMPLES
) -> Callable[[Fit, Float[Array, "N V V"]], Fit]:
    """A step of maximum likelihood on `samples` answers a prompt, drawn from the target: forward KL(target‖model)."""
    given = jnp.repeat(prompts, samples, axis=0)

    def loss(params: Params, answers: Int[Array, "B T"]) -> Float[Array, ""]:
        tokens = jnp.concatenate([given, answers], axis=1)
        logp = token_logp(nnx.merge(arch.graphdef, params), tokens, jnp.ones(tokens.shape, bool))
        return -logp[:, -ANSWER:].sum(-1).mean()

    def step(state: Fit, target: Float[Array, "N V V"]) -> Fit:
        params, opt_state, key = state
        key, now = jax.random.split(key)
        logits = jnp.repeat(jnp.log(target).reshape(len(prompts), -1), samples, axis=0)
        drawn = jax.random.categorical(now, logits)
        gradient = jax.grad(loss)(params, jnp.stack(jnp.divmod(drawn, len(WORDS)), axis=-1))
        changes, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, key

    return step


def fit_base(arch: Architecture, tasks: TwoTasks, *, steps: int, rate: float = 3e-3) -> Params:
    """A model that does the old task and talks, right or wrong, in the new one."""
    optimizer = make_optimizer(tiny.adamw(rate, "cosine"), steps)
    prompts = jnp.asarray(np.concatenate([tasks.prompts(OLD), tasks.prompts(NEW)]))
    target = jnp.asarray(np.concatenate([tasks.before(OLD), tasks.before(NEW)]), jnp.float32)
    step = supervised_step(arch, optimizer, prompts, samples=4)
    params = arch.init(tasks.seed)
    start = params, optimizer.init(params), jax.random.key(tasks.seed)
    return _many(lambda state: step(state, target), steps)(start)[0]


def supervised(arch: Architecture, bases: Bases, rate: float, settings: Any) -> Started:
    """Every base model with every target of TARGETS."""
    optimizer = make_optimizer(tiny.adamw(rate), 1)
    prompts = jnp.asarray(bases[0][0].prompts(NEW))
    step = supervised_step(arch, optimizer, prompts)
    runs, targets = [], []
    for seed, (tasks, params) in enumerate(bases):
        base = np.exp(np.asarray(answers_logp(nnx.merge(arch.graphdef, params), prompts), np.float64))
        for name, target in TARGETS.items():
            runs.append(Run(f"SFT, {name}", rate, seed))
            targets.append(target(tasks.right(NEW), base, seed))
    chosen = jnp.asarray(np.stack(targets), jnp.float32)
    params = stacked([bases[run.seed][1] for run in runs])
    keys = jax.random.split(jax.random.key(0), len(runs))
    return runs, (params, jax.vmap(optimizer.init)(params), keys), _many(lambda s: jax.vmap(step)(s, chosen), settings.every)


# RL -------------------------------------------------------------------------------------------------------------------


def reinforced(arch: Architecture, bases: Bases, rate: float, settings: Any) -> Started:
    """Every base model with every beta, by RLOO."""
    parts = rl_parts(arch, "rloo", rate)
    prompts = jnp.asarray(bases[0][0].prompts(NEW))
    asked = Prompts(prompts, jnp.ones(prompts.shape, bool))
    runs, betas = [], []
    for seed in range(len(bases)):
        runs += [Run(f"RL, β = {beta:g}", rate, seed) for beta in settings.betas]
        betas += settings.betas
    frozen = stacked(
        [Frozen(None, bases[run.seed][1], {"right": bases[run.seed][0].right(NEW).astype(np.float32)}) for run in runs]
    )

    def begin(params: Params, beta: Float[Array, ""], key: Any) -> TrainState:
        control = ControllerState(beta, ())
        return TrainState(params, parts.optimizer.init(params), control, key, jnp.zeros((), jnp.int32), None)

    def step(state: TrainState, frozen: Frozen) -> TrainState:
        return update(parts, state, frozen, *roll_out(parts, state, frozen, asked))[0]

    keys = jax.random.split(jax.random.key(1), len(runs))
    state = jax.vmap(begin)(frozen.reference, jnp.asarray(betas, jnp.float32), keys)
    return runs, state, _many(lambda s: jax.vmap(step)(s, frozen), settings.every)


def rl_parts(arch: Architecture, algorithm: str, rate: float) -> Parts:
    """The project's step: exact reverse-KL penalty, a reward of 1 for a right answer (its table is the reward's parameters)."""
    optimizer, control = make_optimizer(tiny.adamw(rate), 1), controllers.fixed(0.0)
    adapted = adaptation(arch, NoAdapter(kind="none"))

    def right(params: dict[str, Params], rollout: Rollout) -> Terms:
        prompt = jnp.arange(len(rollout.tokens)) // SAMPLES
        return {"right": params["right"][prompt, rollout.completion[:, 0], rollout.completion[:, 1]]}

    return Parts(
        adaptation=adapted,
        shardings=state_shardings(state_shapes(arch.shapes, optimizer, control), optimizer, arch.shardings, arch.mesh),
        sampler=Sampler(SAMPLES, ANSWER, temperature=1.0, top_k=0, top_p=1.0, eos_ids=(), pad_id=0),
        reward=Reward({"right": 1.0}, {}, right, None),
        penalty=PENALTIES["exact"],
        divergence=divergences.reverse_kl,
        divergence_name="reverse_kl",
        algorithm=ALGORITHMS[algorithm],
        reward_scale=unscaled,
        controller=control,
        refresh=lambda reference, trained, done: reference,
        optimizer=optimizer,
        learning_rate=optax.constant_schedule(rate),
        updates=1,
        microbatches=1,
        keep_activations=False,
    )
