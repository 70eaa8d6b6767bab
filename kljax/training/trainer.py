"""Everything that a run needs beside its state: the parts that a config names, and the check that KL is 0 where pi = rho."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kljax.config import Config
from kljax.data.batches import PromptRows, rows_at
from kljax.devices.mesh import batch_sharding, replicated
from kljax.devices.resources import keeps_activations, unrolls
from kljax.devices.state import TrainState, initial_state, rl_learning_rate, rl_optimizer, state_shapes, state_shardings
from kljax.errors import UserError
from kljax.kl.penalties import PENALTIES
from kljax.models.layers import Form, form_of, is_unrolled
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.scaling import REWARD_SCALES
from kljax.progress import working
from kljax.rewards import combination
from kljax.rewards.combination import score_texts
from kljax.rewards.functions import Logged, TrainerState, try_columns
from kljax.runs.adapter import Frozen, adaptation, cast, freeze, make_refresh, moving_shapes
from kljax.runs.regularisation import make_controller, make_divergence
from kljax.runs.setup import Setup
from kljax.tasks.figures import try_out
from kljax.tasks.measuring import measure_of
from kljax.training.diagnosis import cause, fetched
from kljax.training.step import Metrics, Outcome, Parts, compile_halves, compile_step
from kljax.types import Params

MAX_KL_AT_START = {"float32": 1e-6, "bfloat16": 1e-2}  # nats per token, for pi = rho, by the precision of rho's parameters
MAX_LOGP_GAP = {"float32": 1e-3, "bfloat16": 0.3}  # nats, sampler against scorer; bfloat16 rounds each of them


@dataclass(frozen=True)
class Batch:
    """The prompts of a step, the rows that they are from, and what Python rewards log of the step."""

    step: int
    rows: np.ndarray
    prompts: Any
    logged: Logged


TakeStep = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics, Outcome]]


@dataclass(frozen=True)
class Trainer:
    """Everything that a run needs beside its state. `form` is that of its program: layers in a loop, or one by one."""

    setup: Setup
    prompts: PromptRows
    parts: Parts
    reward: combination.Reward
    take_step: TakeStep
    shapes: TrainState
    form: Form

    def initial_state(self, base: Params, reference: Params) -> TrainState:
        """The state before the first step: the policy is the base model."""
        config, parts = self.setup.config, self.parts
        trained, moving = parts.adaptation.init(base, config.seed), None
        if self.shapes.reference is not None:
            moving = cast(reference if parts.adaptation.adapter is None else trained, config.reference.dtype)
        return initial_state(trained, parts.optimizer, parts.controller, config.seed, parts.shardings, moving, self.form)

    def freeze(self, base: Params, reference: Params) -> Frozen:
        """Arguments of the step beside its state."""
        reward = jax.device_put(self.reward.params, replicated(self.setup.mesh))
        ours = self._in_form(base)
        theirs = ours if reference is base else self._in_form(reference)
        return freeze(self.parts.adaptation, self.setup.config.reference, ours, theirs, reward)

    def _in_form(self, params: Params) -> Params:
        if not self.unrolled or is_unrolled(params):
            return params
        return jax.jit(self.form, out_shardings=self.form(self.setup.architecture.shardings))(params)

    @property
    def unrolled(self) -> bool:
        """Whether its program holds each layer by itself."""
        return is_unrolled(self.shapes)

    def batch(self, step: int) -> Batch:
        """The prompts of `step`: a pure function of (seed, step)."""
        config = self.setup.config
        rows = rows_at(config.seed, step, config.rollout.prompts, len(self.prompts.tokens))
        return Batch(step, rows, self.prompts.select(rows, batch_sharding(self.setup.mesh)), Logged())


def _check_sentiment(config: Config) -> None:
    """Refuse the built-in task's reward, which is the default, on other text: it must not stay there unasked."""
    source = config.data.source.kind
    for name, term in config.reward.items():
        if term.kind == "jax" and term.function == "sentiment" and source != "grammar":
            raise UserError(
                f"reward.{name}: sentiment knows the words of the built-in grammar alone, and data/source is {source}. Choose "
                f"the rewards as a whole, as in reward=vader, reward=[vader,length] or reward=python, or leave it out with "
                f"~reward.{name}; +reward.NAME=… adds one."
            )


def build_trainer(setup: Setup) -> Trainer:
    """Choose the parts that the config names, and compile nothing yet."""
    config = setup.config
    _check_sentiment(config)
    optimizer = rl_optimizer(config)
    controller = make_controller(config)
    adapted = adaptation(setup.architecture, config.adapter)
    shapes = state_shapes(adapted.shapes, optimizer, controller, moving_shapes(adapted, config.reference))
    held_out = setup.splits.held_out.column_names  # a file of its own may have others, and its rows are rewarded, too
    columns = [name for name in setup.splits.prompts.column_names if name in held_out]
    with working("reading the rewards"):
        own = setup.own_rewards(config.reward)
        reward = combination.build(config.reward, setup.tokenizer, columns, own)
        for rows in (setup.splits.prompts, setup.splits.held_out):
            try_columns(config.reward, rows, own)
    form = form_of(unrolls(config.run.unroll_layers, setup.decoder.layers, config.steps), setup.decoder.layers)
    parts = Parts(
        adaptation=adapted,
        shardings=form(state_shardings(shapes, optimizer, adapted.shardings, setup.mesh)),
        sampler=setup.sampler(config.rollout.samples),
        reward=reward,
        penalty=PENALTIES[config.kl.penalty],
        divergence=make_divergence(config.kl),
        divergence_name=config.kl.divergence.kind,
        algorithm=ALGORITHMS[config.algorithm],
        reward_scale=REWARD_SCALES[config.reward_scale],
        controller=controller,
        refresh=make_refresh(config.reference),
        optimizer=optimizer,
        learning_rate=rl_learning_rate(config),
        updates=config.rollout.updates,
        microbatches=config.rollout.microbatches,
        keep_activations=keeps_activations(config, setup.decoder, setup.mesh.size),
    )
    prompts = setup.prompts()
    if setup.task is not None:  # what a metric gets wrong would fail after the last step
        try_out(setup.task, measure_of(setup.task, columns), prompts)
    return Trainer(setup, prompts, parts, reward, _step_taker(setup, prompts, parts, reward.host), form(shapes), form)


def _step_taker(setup: Setup, prompts: PromptRows, parts: Parts, host: combination.HostReward | None) -> TakeStep:
    """One compiled program where every reward is on the device; two halves around the host's reward otherwise."""
    if host is None:
        step = compile_step(parts)
        return lambda state, frozen, batch: step(state, frozen, batch.prompts)
    rollout_half, update_half = compile_halves(parts)

    def take_step(state: TrainState, frozen: Frozen, batch: Batch):
        rollout, terms, known = rollout_half(state, frozen, batch.prompts)
        state_of = TrainerState(batch.step, setup.config.steps)
        host_terms = score_texts(host, setup.tokenizer, prompts, batch.rows, rollout, state_of, batch.logged)
        terms = terms | jax.device_put(host_terms, batch_sharding(setup.mesh))
        return update_half(state, frozen, rollout, terms, known)

    return take_step


def check_zero_kl(trainer: Trainer, base: Params, reference: Params) -> float:
    """Refuse to train unless every KL is 0 for pi = rho and sampler and scorer agree, in the very program that trains.

    The step is taken from a state of its own, whose policy is the reference, and thrown away: what is checked is the program
    and the reference, not the state. Returns the largest KL of a state, nats: the noise of a reference in lower precision.
    """
    config = trainer.setup.config
    twin = base if config.reference.path is None else cast(reference, trainer.setup.model.param_dtype)
    state, frozen = trainer.initial_state(twin, reference), trainer.freeze(twin, reference)
    _, metrics, _ = trainer.take_step(state, frozen, trainer.batch(0))
    values = fetched(metrics)
    if why := cause(values, config, begun=False):
        raise UserError(f"before the first step: {why}")
    kl, gap = values["kl/reverse_exact_tok_max"], values["rollout/logp_gap_max"]
    coarsest = "bfloat16" if "bfloat16" in (trainer.setup.model.dtype, config.rollout.cache_dtype) else "float32"
    most, limit = MAX_KL_AT_START[config.reference.dtype], MAX_LOGP_GAP[coarsest]
    if not kl < most:
        raise UserError(
            f"kl: with policy = reference the reverse KL is {kl:.3g} nats per token, expected less than {most:g}. "
            "The likely causes: dropout left on, positions or masks under padding, different dtypes, or the wrong reference."
        )
    if not gap < limit:
        raise UserError(
            f"rollout: sampler and scorer disagree by {gap:.3g} nats on a token's log-prob, expected less than {limit:g}. "
            "The likely causes: a temperature on one side only, positions or masks under padding, different dtypes."
        )
    return kl
