"""The RLHF run: prepare, check that KL is 0 where pi = rho, then step, log and save until done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kljax.config import Config
from kljax.data import tokenizers
from kljax.devices.resources import layers_note
from kljax.devices.state import TrainState, all_finite
from kljax.errors import NotFinite, UserError
from kljax.fitting.fit import find_base, load_base
from kljax.interrupt import Interrupted, StopRequest
from kljax.models.huggingface import generation_settings
from kljax.models.layers import stack
from kljax.models.lora import targets_note
from kljax.policy.algorithms import ALGORITHMS
from kljax.progress import console, working
from kljax.runs import config_file, directory, prompt_files
from kljax.runs.adapter import Frozen, frozen_reference
from kljax.runs.checkpoints import START, Checkpoints, check_version, save_frozen, save_params
from kljax.runs.enumeration import Enumeration, check_objective, completion_tree, enumerate_task
from kljax.runs.lock import one_writer
from kljax.runs.reference import check_reference, first_reference
from kljax.runs.regularisation import ablation_note
from kljax.runs.setup import prepare, say
from kljax.training.diagnosis import AFTER_UPDATE, fetched
from kljax.training.epochs import with_steps
from kljax.training.recorder import BudgetExceeded, Recorder
from kljax.training.trainer import Trainer, build_trainer, check_zero_kl


def train(config: Config) -> Path:
    """Run the experiment, or go on with it; its run directory. UserError where another process writes it."""
    with one_writer(config_file.run_path(config)):
        return _train(config)


def _train(config: Config) -> Path:
    _check_policy(config)
    check_objective(config)
    path = config_file.run_path(config)
    if config.epochs is None:  # otherwise its steps follow from the data
        config_file.check_owner(path, config_file.identity(config))
    directory.check_numerics(path)
    check_version(path)
    setup = with_steps(prepare(config))
    config = setup.config
    config_file.check_owner(path, config_file.identity(config))
    directory.check_ends(path, setup.generation, setup.tokenizer)
    trainer = build_trainer(setup)
    directory.check_model(path, setup.decoder, setup.vocab_size, trainer.reward.models)
    check_reference(setup)
    parts = {"prompts": trainer.prompts, "held_out": setup.held_out_prompts()}
    digests = prompt_files.check(path, parts)
    some = zip(trainer.prompts.tokens[:256], trainer.prompts.mask[:256], strict=True)
    directory.check_tokenizer(path, setup.tokenizer, [row[mask].tolist() for row, mask in some])
    if config.run.oracle_every:
        completion_tree(setup, trainer.prompts)
    adapter = config.adapter
    of_adapter = None if adapter.kind == "none" else targets_note(setup.decoder, adapter)
    of_layers = layers_note(config.run.unroll_layers, setup.decoder.layers, config.steps)
    for note in (ablation_note(config.kl), of_adapter, of_layers):
        if note:
            console.print(note, soft_wrap=True)
    if setup.pretrained is not None:
        for sentence in generation_settings.sentences(setup.generation, setup.tokenizer, config.rollout):
            say(sentence)
    base_path = find_base(setup)
    with working("reading the base model" + (" and the reference" if config.reference.path else "")):
        base = load_base(setup, base_path)
        reference = first_reference(setup, base)
    began = time.perf_counter()
    with working("compiling the training step"):
        kl_at_start = check_zero_kl(trainer, base, reference)
    compiling = time.perf_counter() - began  # but for the one step that it takes
    state, frozen = trainer.initial_state(base, reference), trainer.freeze(base, reference)
    chosen = {"keep_activations": trainer.parts.keep_activations, "unroll_layers": trainer.unrolled}
    if note := directory.circumstances_note(path, chosen):
        say(note)
    config_file.check_owner(path, config_file.identity(config))  # again: a command beside this one may have been faster
    directory.create(path, {**config_file.identity(config), "run": directory.to_dict(config)["run"]}, chosen)
    prompt_files.record(path, parts, digests, whole=("held_out", "prompts") if config.run.oracle_every else ("held_out",))
    tokenizers.save(setup.tokenizer, path / "tokenizer")
    with working("saving the reference"):
        frozen_hash = save_frozen(path, reference if frozen.base is None else base, reference)
        if frozen.base is None and reference is not base and (config.reference.path is not None or state.reference is not None):
            save_params(path, base, START)  # an evaluation compares with it, too
    about = {
        "model": config.reference.path or str(base_path),
        "sha256": frozen_hash,
        "reverse_kl_at_start_tok_max": kl_at_start,
    }
    samples = {"ends": setup.generation.ends, "not_followed": setup.generation.not_followed(config.rollout)}
    samples["rewards"] = trainer.reward.models
    directory.write_model(path, setup.decoder, setup.vocab_size, about, **samples)
    checkpoints = Checkpoints(path)
    try:
        if done := checkpoints.steps():
            with working(f"restoring step {done[-1]}"):
                state = checkpoints.restore(done[-1], trainer.shapes, trainer.parts.shardings, frozen_hash)
        _run(_Run(trainer, frozen, checkpoints, frozen_hash, path), state, compiling)
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


@dataclass(frozen=True)
class _Run:
    """What a run has beside its state, and where it saves it."""

    trainer: Trainer
    frozen: Frozen
    checkpoints: Checkpoints
    frozen_hash: str
    path: Path

    @property
    def config(self) -> Config:
        return self.trainer.setup.config

    def save(self, step: int, state: TrainState, beta: float | None) -> None:
        """A state that is whole, with the beta that the step before it used; a UserError where a number in it is not finite."""
        if not all_finite(state):
            raise NotFinite(f"step {step - 1}, counted from 0: {AFTER_UPDATE}")
        self.checkpoints.save(step, state, {"reference": self.frozen_hash, "beta": beta})


def _run(run: _Run, state: TrainState, compiling: float) -> None:
    config, checkpoints = run.config, run.checkpoints
    first = int(state.step)
    if first:
        console.print(f"Resuming {run.path} at step {first} of {config.steps}.", soft_wrap=True)
    elif config.kl.hard_budget is not None:
        run.save(0, state, None)
    exact = _enumerate(run) if config.run.oracle_every else None
    recorder = Recorder(run.trainer.setup, run.path, first, compiling)
    try:
        with recorder, StopRequest() as stop:
            state = _take_steps(run, state, recorder, stop, exact)
            if config.kl.hard_budget is not None:
                _measure(run, state, recorder)
    except BudgetExceeded as exceeded:
        _keep_below_budget(checkpoints, exceeded, config)
    except NotFinite as found:
        raise UserError(f"{found} {_how_to_go_on(checkpoints)}") from None
    except Interrupted:
        checkpoints.wait()
        saved = checkpoints.steps()[-1]
        raise Interrupted(
            f"Stopped and saved {run.path} at step {saved} of {config.steps}. The same command goes on from there."
        ) from None
    with working("saving the last checkpoint"):
        checkpoints.wait()
    if said := recorder.summary():
        console.print(said, soft_wrap=True)


def _enumerate(run: _Run) -> Enumeration:
    trainer = run.trainer
    return enumerate_task(trainer.setup, trainer.prompts, trainer.reward, stack(frozen_reference(run.frozen)))


def _take_steps(run: _Run, state: TrainState, recorder: Recorder, stop: StopRequest, exact: Enumeration | None) -> TrainState:
    config, trainer = run.config, run.trainer
    for step in range(int(state.step), config.steps):
        batch = trainer.batch(step)
        known: Mapping[str, Any] = {"rollout/epoch": (step + 1) * config.rollout.prompts / len(trainer.prompts.tokens)}
        if exact is not None and step % config.run.oracle_every == 0:
            with recorder.between_steps("oracle"):
                policy = trainer.parts.adaptation.merged(state.params, run.frozen.base)
                known |= exact.metrics(policy, float(state.controller.beta))
        try:
            state, metrics, outcome = trainer.take_step(state, run.frozen, batch)
        except UserError as failed:
            # A reward of the user's failed between the halves: the state is whole, and hours of work must not be lost.
            recorder.flush()
            run.save(step, state, recorder.beta)
            raise UserError(
                f"{failed} That was in step {step}, counted from 0; the {step} before it are saved. When it is mended the same "
                "command goes on from there."
            ) from failed
        recorder.record(step, {**metrics, **known, **batch.logged.means()}, outcome, batch.logged.extras)
        if (step + 1) % config.run.save_every == 0 or step + 1 == config.steps or stop.asked:
            with recorder.between_steps("save"):  # a checkpoint never runs ahead of the log
                run.save(step + 1, state, recorder.beta)
        if stop.asked and step + 1 < config.steps:
            raise Interrupted
    return state


def _how_to_go_on(checkpoints: Checkpoints) -> str:
    """What a run that stopped at a number that is none has on disk, and what the same command would do."""
    checkpoints.wait()
    if not (saved := checkpoints.steps()):
        return "The run stopped before its first checkpoint; the same command begins again, and comes to the same step."
    return (
        f"The run stopped; its last checkpoint is of step {saved[-1]}, from which the same command goes on, to the same step "
        "if nothing was changed. Another value of the config is another run (name=…)."
    )


def _measure(run: _Run, state: TrainState, recorder: Recorder) -> None:
    """Hold the policy after the last step, too, to the budget: by a step that is thrown away."""
    batch = run.trainer.batch(run.config.steps)
    _, metrics, _ = run.trainer.take_step(jax.tree.map(jnp.copy, state), run.frozen, batch)
    recorder.check_budget(run.config.steps, fetched(metrics)["kl/reverse_exact_seq"])


def _keep_below_budget(checkpoints: Checkpoints, exceeded: BudgetExceeded, config: Config) -> None:
    """Delete what lies above the budget, so that the last checkpoint is the last one known to lie below."""
    checkpoints.wait()
    steps, budget = checkpoints.steps(), f"{config.kl.hard_budget:g}"
    above = f"KL(policy‖reference) is {exceeded.kl:.3g} nats per sequence at step {exceeded.step} of {config.steps}"
    if not (below := [step for step in steps if step < exceeded.step]):
        raise UserError(
            f"kl.hard_budget: got {budget}, but {above}, and no earlier checkpoint lies below; expected more than the policy "
            "starts with. A reference.path other than the base model is at a distance from the start."
        )
    for step in set(steps) - set(below):
        checkpoints.delete(step)
    console.print(
        f"kl.hard_budget: {above}, more than {budget}. The run stops; its last checkpoint below is step {below[-1]}. "
        f"run.save_every, now {config.run.save_every}, says how near to it one is.",
        soft_wrap=True,
    )
