"""The RLHF run: prepare, check that KL is 0 where pi = rho, then step, log and save until done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kljax.config import Config
from kljax.data.batches import PromptRows, rows_at
from kljax.errors import UserError
from kljax.kl.penalties import PENALTIES
from kljax.models import generation_settings
from kljax.models.lora import targets_note
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.scaling import REWARD_SCALES
from kljax.rewards import combination
from kljax.rewards.combination import score_texts
from kljax.rewards.functions import Logged, TrainerState
from kljax.training import run_data, run_directory
from kljax.training.adaptation import Frozen, adaptation, cast, freeze, frozen_reference, make_refresh, moving_shapes
from kljax.training.checkpoints import Checkpoints, save_frozen
from kljax.training.enumeration import Enumeration, completion_tree, enumerate_task
from kljax.training.fitting import ensure_base, load_base
from kljax.training.interrupt import Interrupted, StopRequest
from kljax.training.mesh import batch_sharding, replicated
from kljax.training.progress import console
from kljax.training.recorder import BudgetExceeded, Recorder
from kljax.training.references import check_reference, first_reference
from kljax.training.regularisation import ablation_note, make_controller, make_divergence
from kljax.training.resources import keeps_activations
from kljax.training.state import TrainState, initial_state, rl_optimizer, state_shapes, state_shardings
from kljax.training.step import Metrics, Outcome, Parts, compile_halves, compile_step
from kljax.training.task import Task, prepare, say
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
    """Everything that a run needs beside its state."""

    task: Task
    prompts: PromptRows
    parts: Parts
    reward: combination.Reward
    take_step: TakeStep
    shapes: TrainState

    def initial_state(self, base: Params, reference: Params) -> TrainState:
        """The state before the first step: the policy is the base model."""
        config, parts = self.task.config, self.parts
        trained, moving = parts.adaptation.init(base, config.seed), None
        if self.shapes.reference is not None:
            moving = cast(reference if parts.adaptation.adapter is None else trained, config.reference.dtype)
        return initial_state(trained, parts.optimizer, parts.controller, config.seed, parts.shardings, moving)

    def freeze(self, base: Params, reference: Params) -> Frozen:
        """What the step gets beside its state."""
        reward = jax.device_put(self.reward.params, replicated(self.task.mesh))
        return freeze(self.parts.adaptation, self.task.config.reference, base, reference, reward)

    def batch(self, step: int) -> Batch:
        """The prompts of `step`: a pure function of (seed, step)."""
        config = self.task.config
        rows = rows_at(config.seed, step, config.rollout.prompts, len(self.prompts.tokens))
        return Batch(step, rows, self.prompts.select(rows, batch_sharding(self.task.mesh)), Logged())


def train(config: Config) -> Path:
    """Run the experiment, or go on with it; its run directory."""
    _check_policy(config)
    path = run_directory.run_path(config)
    run_directory.check_owner(path, run_directory.identity(config))
    run_directory.check_numerics(path)
    task = prepare(config)
    run_directory.check_ends(path, task.generation, task.tokenizer)
    trainer = build_trainer(task)
    run_directory.check_model(path, task.decoder, task.vocab_size, trainer.reward.models)
    check_reference(task)
    parts = {"prompts": trainer.prompts, "held_out": task.held_out_prompts()}
    run_data.check(path, parts)
    some = zip(trainer.prompts.tokens[:256], trainer.prompts.mask[:256], strict=True)
    run_directory.check_tokenizer(path, task.tokenizer, [row[mask].tolist() for row, mask in some])
    if config.run.oracle_every:
        completion_tree(task, trainer.prompts)
    adapter = config.adapter
    for note in (ablation_note(config.kl), None if adapter.kind == "none" else targets_note(task.decoder, adapter)):
        if note:
            console.print(note, soft_wrap=True)
    if task.pretrained is not None:
        for sentence in generation_settings.sentences(task.generation, task.tokenizer, config.rollout):
            say(sentence)
    base_path = ensure_base(task)
    base = load_base(task, base_path)
    reference = first_reference(task, base)
    kl_at_start = check_zero_kl(trainer, base, reference)
    state, frozen = trainer.initial_state(base, reference), trainer.freeze(base, reference)
    chosen = {"keep_activations": trainer.parts.keep_activations}
    if other := run_directory.other_circumstances(path, chosen):
        say(f"Other circumstances than at the last launch: {other}. The same steps may differ in their last digits.")
    run_directory.create(path, {**run_directory.identity(config), "run": run_directory.to_dict(config)["run"]}, chosen)
    run_data.record(path, parts, whole=("held_out", "prompts") if config.run.oracle_every else ("held_out",))
    task.tokenizer.save_pretrained(str(path / "tokenizer"))
    frozen_hash = save_frozen(path, reference if frozen.base is None else base, reference)
    about = {
        "model": config.reference.path or str(base_path),
        "sha256": frozen_hash,
        "reverse_kl_at_start_tok_max": kl_at_start,
    }
    samples = {"ends": task.generation.ends, "not_followed": task.generation.not_followed(config.rollout)}
    samples["rewards"] = trainer.reward.models
    run_directory.write_model(path, task.decoder, task.vocab_size, about, **samples)
    checkpoints = Checkpoints(path)
    try:
        if done := checkpoints.steps():
            state = checkpoints.restore(done[-1], trainer.shapes, trainer.parts.shardings, frozen_hash)
        _run(trainer, state, frozen, checkpoints, frozen_hash, path)
    finally:
        checkpoints.close()
    return path


def _check_policy(config: Config) -> None:
    if (objective := config.pretrain.objective.kind) != "next_token":
        raise UserError(
            f"pretrain.objective: got {objective}, whose model writes no text; expected next_token to train a policy. "
            "Other models are fitted with experiments/pretrain.py, and can be rewards (reward=model)."
        )
    needed = ALGORITHMS[config.algorithm].min_samples
    if config.rollout.samples < needed:
        raise UserError(
            f"rollout.samples: got {config.rollout.samples}, expected at least {needed} for algorithm={config.algorithm}. "
            "With one sample a prompt, use algorithm=reinforce."
        )
    if config.rollout.samples < 2 and config.reward_scale == "prompt_std":
        raise UserError("rollout.samples: got 1, expected at least 2 for reward_scale=prompt_std. Use reward_scale=batch_std.")


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


def build_trainer(task: Task) -> Trainer:
    """Choose the parts that the config names, and compile nothing yet."""
    config = task.config
    _check_sentiment(config)
    optimizer = rl_optimizer(config)
    controller = make_controller(config)
    adapted = adaptation(task.architecture, config.adapter)
    shapes = state_shapes(adapted.shapes, optimizer, controller, moving_shapes(adapted, config.reference))
    held_out = task.splits.held_out.column_names  # a file of its own may have others, and its rows are rewarded, too
    columns = [name for name in task.splits.prompts.column_names if name in held_out]
    reward = combination.build(config.reward, task.tokenizer, columns)
    parts = Parts(
        adaptation=adapted,
        shardings=state_shardings(shapes, optimizer, adapted.shardings, task.mesh),
        sampler=task.sampler(config.rollout.samples),
        reward=reward,
        penalty=PENALTIES[config.kl.penalty],
        divergence=make_divergence(config.kl),
        divergence_name=config.kl.divergence.kind,
        algorithm=ALGORITHMS[config.algorithm],
        reward_scale=REWARD_SCALES[config.reward_scale],
        controller=controller,
        refresh=make_refresh(config.reference),
        optimizer=optimizer,
        updates=config.rollout.updates,
        microbatches=config.rollout.microbatches,
        keep_activations=keeps_activations(config, task.decoder, task.mesh.size),
    )
    prompts = task.prompts()
    return Trainer(task, prompts, parts, reward, _step_taker(task, prompts, parts, reward.host), shapes)


def _step_taker(task: Task, prompts: PromptRows, parts: Parts, host: combination.HostReward | None) -> TakeStep:
    """One compiled program where every reward is on the device; two halves around the host's reward otherwise."""
    if host is None:
        step = compile_step(parts)
        return lambda state, frozen, batch: step(state, frozen, batch.prompts)
    rollout_half, update_half = compile_halves(parts)

    def take_step(state: TrainState, frozen: Frozen, batch: Batch):
        rollout, terms, known = rollout_half(state, frozen, batch.prompts)
        state_of = TrainerState(batch.step, task.config.steps)
        host_terms = score_texts(host, task.tokenizer, prompts, batch.rows, rollout, state_of, batch.logged)
        terms = terms | jax.device_put(host_terms, batch_sharding(task.mesh))
        return update_half(state, frozen, rollout, terms, known)

    return take_step


def check_zero_kl(trainer: Trainer, base: Params, reference: Params) -> float:
    """Refuse to train unless every KL is 0 for pi = rho and sampler and scorer agree, in the very program that trains.

    The step is taken from a state of its own, whose policy is the reference, and thrown away: what is checked is the program
    and the reference, not the state. Returns the largest KL of a state, nats: the noise of a reference in lower precision.
    """
    config = trainer.task.config
    twin = base if config.reference.path is None else cast(reference, trainer.task.model.param_dtype)
    state, frozen = trainer.initial_state(twin, reference), trainer.freeze(twin, reference)
    _, metrics, _ = trainer.take_step(state, frozen, trainer.batch(0))
    kl, gap = float(metrics["kl/reverse_exact_tok_max"]), float(metrics["rollout/logp_gap_max"])
    coarsest = "bfloat16" if "bfloat16" in (trainer.task.model.dtype, config.rollout.cache_dtype) else "float32"
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


def _run(trainer: Trainer, state: TrainState, frozen: Frozen, checkpoints: Checkpoints, frozen_hash: str, path: Path) -> None:
    config = trainer.task.config
    first = int(state.step)
    if first:
        console.print(f"Resuming {path} at step {first} of {config.steps}.", soft_wrap=True)
    elif config.kl.hard_budget is not None:
        checkpoints.save(0, state, frozen_hash)  # the reference itself is below any budget
    exact = _enumerate(trainer, frozen) if config.run.oracle_every else None
    try:
        with Recorder(trainer.task, path, first) as recorder, StopRequest() as stop:
            _take_steps(trainer, state, frozen, checkpoints, frozen_hash, recorder, stop, exact)
    except BudgetExceeded as exceeded:
        _keep_below_budget(checkpoints, exceeded, config)
    except Interrupted:
        checkpoints.wait()
        saved = checkpoints.steps()[-1]
        raise Interrupted(
            f"Stopped and saved {path} at step {saved} of {config.steps}. The same command goes on from there."
        ) from None
    checkpoints.wait()


def _enumerate(trainer: Trainer, frozen: Frozen) -> Enumeration:
    return enumerate_task(trainer.task, trainer.prompts, trainer.reward, frozen_reference(frozen))


def _take_steps(
    trainer: Trainer,
    state: TrainState,
    frozen: Frozen,
    checkpoints: Checkpoints,
    frozen_hash: str,
    recorder: Recorder,
    stop: StopRequest,
    exact: Enumeration | None,
) -> None:
    config, adapted = trainer.task.config, trainer.parts.adaptation
    for step in range(int(state.step), config.steps):
        batch = trainer.batch(step)
        known = {}
        if exact is not None and step % config.run.oracle_every == 0:
            known = exact.metrics(adapted.merged(state.params, frozen.base), float(state.controller.beta))
        try:
            state, metrics, outcome = trainer.take_step(state, frozen, batch)
        except UserError:
            # A reward of the user's failed between the halves: the state is whole, and hours of work must not be lost.
            recorder.flush()
            checkpoints.save(step, state, frozen_hash)
            raise
        recorder.record(step, {**metrics, **known, **batch.logged.means()}, outcome, batch.logged.extras)
        if (step + 1) % config.run.save_every == 0 or step + 1 == config.steps or stop.asked:
            recorder.flush()  # a checkpoint never runs ahead of the log
            checkpoints.save(step + 1, state, frozen_hash)
        if stop.asked and step + 1 < config.steps:
            raise Interrupted


def _keep_below_budget(checkpoints: Checkpoints, exceeded: BudgetExceeded, config: Config) -> None:
    """Delete what lies above the budget, so that the last checkpoint is the last one known to lie below."""
    checkpoints.wait()
    for step in checkpoints.steps():
        if step >= exceeded.step:
            checkpoints.delete(step)
    console.print(
        f"kl.hard_budget: KL(policy‖reference) is {exceeded.kl:.3g} nats per sequence at step {exceeded.step} of "
        f"{config.steps}, more than {config.kl.hard_budget:g}. The run stops; its last checkpoint below is step "
        f"{checkpoints.steps()[-1]}.",
        soft_wrap=True,
    )
