"""The RLHF run: prepare, check that KL is 0 where pi = rho, then step, log and save until done."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kljax.config import WRITES, Config, to_dict
from kljax.devices.resources import layers_note, unrolls
from kljax.devices.state import TrainState
from kljax.errors import NotFinite, UserError
from kljax.fitting.fit import find_base, load_base
from kljax.interrupt import Interrupted, StopRequest
from kljax.models.huggingface import generation_settings
from kljax.models.layers import stack
from kljax.models.lora import targets_note
from kljax.policy.algorithms import ALGORITHMS
from kljax.progress import console, say, working
from kljax.runs import config_file, directory, going_on, prompt_files
from kljax.runs.adapter import frozen_reference
from kljax.runs.checkpoints import START, Checkpoints, Keep, disk_note, save_frozen, save_params
from kljax.runs.config_file import RL
from kljax.runs.enumeration import Enumeration, check_objective, completion_tree, enumerate_task
from kljax.runs.going_on import Length
from kljax.runs.lock import one_writer
from kljax.runs.reference import check_reference, first_reference
from kljax.runs.regularisation import ablation_note
from kljax.runs.setup import Setup, prepare
from kljax.runs.trackers import tracking
from kljax.runs.trackers.tracker import Tracked, Tracker
from kljax.training.diagnosis import fetched
from kljax.training.epochs import with_steps
from kljax.training.launch import Launch, plan
from kljax.training.looks import Looks
from kljax.training.recorder import BudgetExceeded, Recorder
from kljax.training.trainer import build_trainer, check_zero_kl

AtEnd = Callable[[Path], Mapping[str, float]]
"""The work on the directory of a run after its last step: held-out figures, which trackers get."""


def train(config: Config, at_end: AtEnd = lambda path: {}) -> Path:
    """Run the experiment, or go on with it; its run directory. UserError where another process writes it."""
    with one_writer(config_file.run_path(config)), ExitStack() as opened:
        path, tracker = _train(config, opened)  # what training held in memory is gone when it returns
        tracker.summarise(at_end(path))
    return path


def _train(config: Config, opened: ExitStack) -> tuple[Path, Tracker]:
    _check_policy(config)
    check_objective(config)
    path = config_file.run_path(config)
    if note := directory.take_as_it_is(path):
        say(note)
    config_file.check_format(path)
    config_file.check_owner(path, config_file.identity(config))
    if config.epochs is None:  # otherwise its steps follow from the data
        going_on.check(path, config)
    directory.check_numerics(path)
    setup = with_steps(prepare(config))
    length = going_on.check(path, setup.config)
    setup = _in_its_form(setup, length)
    config = setup.config
    directory.check_ends(path, setup.generation, setup.tokenizer)
    trainer = build_trainer(setup)
    directory.check_model(path, setup.decoder, setup.vocab_size, trainer.reward.models)
    going_on.check_rewards(length, config, trainer.reward.may_ask)
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
    if said := plan(setup, length, path):
        say(said)
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
    length = going_on.check(path, config)
    watches = config.evaluation.every > 0 and config.evaluation.best is not None
    keep = Keep(config.run.keep.last, config.run.keep.every * config.run.save_every, watches)
    kept = [reference] if reference is base else [base, reference]
    say(disk_note(path, keep, config.steps, state=trainer.shapes, frozen=kept))
    directory.create(path, RL, to_dict(config), chosen)
    prompt_files.record(path, parts, digests, whole=("held_out", "prompts") if config.run.oracle_every else ("held_out",))
    directory.save_tokenizer(path, setup.tokenizer)
    with working("saving the reference"):
        frozen_hash = save_frozen(path, reference if frozen.base is None else base, reference)
        moves = config.reference.path is not None or state.reference is not None
        if start := frozen.base is None and reference is not base and moves:
            save_params(path, base, START)  # an evaluation compares with it, too
    about = {
        "model": config.reference.path or str(base_path),
        "sha256": frozen_hash,
        "reverse_kl_at_start_tok_max": kl_at_start,
        "start": start,
    }
    samples = {"ends": setup.generation.ends, "not_followed": setup.generation.not_followed(config.rollout)}
    samples["rewards"] = trainer.reward.models
    directory.write_model(path, setup.decoder, setup.vocab_size, about, **samples)
    checkpoints = Checkpoints(path, keep)
    try:
        last, damages = checkpoints.newest_whole()
        for sentence in damages:
            say(sentence)
        if last is not None:
            directory.check_logs(path, checkpoints.logs(last))
            with working(f"restoring step {last}"):
                state = checkpoints.restore(last, trainer.shapes, trainer.parts.shardings, frozen_hash)
            trainer.reward.asked.update(going_on.asked(path, last) or ())
            if last and last < config.steps:
                console.print(going_on.sentence(length, path, last, config.steps), soft_wrap=True)
        run = Launch(trainer, frozen, checkpoints, frozen_hash, path, base, parts["held_out"])
        about = Tracked(path, config.name, config_file.identity(config), int(state.step))
        tracker = opened.enter_context(tracking(config.track, about))
        _run(run, state, tracker, compiling)
    finally:
        checkpoints.close()
    return path, tracker


def _check_policy(config: Config) -> None:
    if (objective := config.pretrain.objective.kind) not in WRITES:
        raise UserError(
            f"pretrain.objective: got {objective}, whose model writes no text; expected next_token or target for a policy. "
            "Other models are fitted with kljax pretrain, and can be rewards (reward=model)."
        )
    if config.evaluation.best not in (None, "objective") and not config.evaluation.every:
        raise UserError(
            f"evaluation.best: got {config.evaluation.best} with evaluation.every=0, under which nothing is looked at while it "
            "trains; expected evaluation.every=… beside it, the steps between two looks."
        )
    needed = ALGORITHMS[config.algorithm].min_samples
    if config.rollout.samples < needed:
        raise UserError(
            f"rollout.samples: got {config.rollout.samples}, expected at least {needed} for algorithm={config.algorithm}. "
            "With one sample a prompt, use algorithm=reinforce."
        )
    if config.rollout.samples < 2 and config.reward_scale == "prompt_std":
        raise UserError("rollout.samples: got 1, expected at least 2 for reward_scale=prompt_std. Use reward_scale=batch_std.")


def _in_its_form(setup: Setup, length: Length | None) -> Setup:
    """The setup with layers as the run's steps had them: what a launch chooses follows from the steps that it has to take."""
    config, layers = setup.config, setup.decoder.layers
    if config.run.unroll_layers is not None or length is None or not length.taken:
        return setup
    now = unrolls(None, layers, config.steps)
    if (began := directory.last_chosen(length.path).get("unroll_layers", unrolls(None, layers, length.steps))) == now:
        return setup
    how, other = ("one by one", "false") if began else ("as a loop", "true")
    say(
        f"The {layers} layers are compiled {how}, as before in this run: so its steps are, bit for bit, those of one that was "
        f"never stopped. run.unroll_layers={other} changes that."
    )
    return replace(setup, config=replace(config, run=replace(config.run, unroll_layers=began)))


def _run(run: Launch, state: TrainState, tracker: Tracker, compiling: float) -> None:
    config, checkpoints = run.config, run.checkpoints
    first = int(state.step)
    if not first and config.kl.hard_budget is not None:
        run.save(0, state, None)
    exact = _enumerate(run) if config.run.oracle_every else None
    recorder = Recorder(run.trainer.setup, run.path, first, tracker, compiling)
    looks = Looks(run, recorder, first) if config.evaluation.every else None
    try:
        with recorder, StopRequest() as stop:
            state = _take_steps(run, state, recorder, stop, exact, looks)
            if looks is not None:  # whether or not every divides the steps: the last policy, too, can be the best
                recorder.write_after_last(config.steps, looks.at(config.steps, state))
            if config.kl.hard_budget is not None:
                _measure(run, state, recorder)
    except BudgetExceeded as exceeded:
        _keep_below_budget(checkpoints, exceeded, config)
        if looks is not None:
            looks.forget_from(exceeded.step)
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
    for said in (recorder.summary(), looks and looks.sentence):
        if said:
            say(said)


def _enumerate(run: Launch) -> Enumeration:
    trainer = run.trainer
    return enumerate_task(trainer.setup, trainer.prompts, trainer.reward, stack(frozen_reference(run.frozen)))


def _take_steps(
    run: Launch, state: TrainState, recorder: Recorder, stop: StopRequest, exact: Enumeration | None, looks: Looks | None
) -> TrainState:
    config, trainer = run.config, run.trainer
    for step in range(int(state.step), config.steps):
        batch = trainer.batch(step)
        known: Mapping[str, Any] = {"rollout/epoch": (step + 1) * config.rollout.prompts / len(trainer.prompts.tokens)}
        if exact is not None and step % config.run.oracle_every == 0:
            with recorder.between_steps("oracle"):
                policy = trainer.parts.adaptation.merged(state.params, run.frozen.base)
                known |= exact.metrics(policy, float(state.controller.beta))
        if looks is not None and step % config.evaluation.every == 0:
            known |= looks.at(step, state)
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
        if stop.asked:  # after the last step, too: what comes next is not to begin
            raise Interrupted
    return state


def _how_to_go_on(checkpoints: Checkpoints) -> str:
    """Say what a run that stopped at a number that is none has on disk, and what the same command would do."""
    checkpoints.wait()
    if not (saved := checkpoints.steps()):
        return "The run stopped before its first checkpoint; the same command begins again, and comes to the same step."
    return (
        f"The run stopped; its last checkpoint is of step {saved[-1]}, from which the same command goes on, to the same step "
        "if nothing was changed. Another value of the config is another run (name=…)."
    )


def _measure(run: Launch, state: TrainState, recorder: Recorder) -> None:
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
