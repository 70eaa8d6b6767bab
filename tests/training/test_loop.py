"""A run: it starts only where KL is 0 for pi = rho, loses nothing when a reward fails, and is what its files say."""

import json
import shutil
import sys
from concurrent.futures import Future
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.config import LettersSource
from kljax.errors import UserError
from kljax.interrupt import Interrupted, StopRequest
from kljax.models import scoring
from kljax.runs import config_file, directory
from kljax.runs.checkpoints import FITTED, Checkpoints, save_params
from kljax.runs.setup import prepare
from kljax.training import loop, recorder, trainer
from kljax.training.launch import Launch
from kljax.training.loop import train
from kljax.training.trainer import MAX_KL_AT_START, build_trainer, check_zero_kl

STEPS = 6


def at_start(trainer):
    reference = trainer.setup.architecture.init(0)
    return trainer.initial_state(reference, reference), reference


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_kl_is_zero_at_the_start_for_every_left_padding(tiny, family, temperature):
    widest = 4
    overrides = [f"model={family}", "model.dropout=0.3", f"rollout.temperature={temperature}", "rollout.prompts=32"]
    trainer = build_trainer(prepare(tiny(*overrides, "data.prompt.min_tokens=0", f"data.prompt.max_tokens={widest}")))
    padding = (~trainer.batch(0).prompts.mask).sum(axis=1)
    assert set(np.asarray(padding)) == set(range(widest + 1))
    state, reference = at_start(trainer)
    check_zero_kl(trainer, reference, reference)
    _, metrics, _ = trainer.take_step(state, trainer.freeze(reference, reference), trainer.batch(0))
    assert float(metrics["kl/reverse_exact_tok_max"]) < MAX_KL_AT_START["float32"]
    assert abs(float(metrics["kl/reverse_k1_tok"])) < MAX_KL_AT_START["float32"]
    assert float(metrics["rollout/logp_gap_max"]) < 1e-5


def test_another_reference_is_noticed_at_the_start(tiny):
    trainer = build_trainer(prepare(tiny()))
    _, reference = at_start(trainer)
    other = jax.tree.map(lambda p: p + 0.01 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), reference)
    with pytest.raises(UserError, match=r"with policy = reference the reverse KL is .* expected less than 1e-06"):
        check_zero_kl(trainer, reference, other)


def test_a_temperature_on_one_side_only_is_noticed_at_the_start(tiny):
    """Policy and reference are alike, so KL is 0; but what is scored is not what was sampled."""
    trainer = build_trainer(prepare(tiny("rollout.temperature=0.5")))
    _, reference = at_start(trainer)
    sharp = jax.tree.map(lambda p: 8 * p, reference)

    def cold_sampler(state, frozen, batch):
        state, metrics, outcome = trainer.take_step(state, frozen, batch)
        scores = scoring.score(
            *[nnx.merge(trainer.setup.architecture.graphdef, sharp)] * 2, outcome.rollout, 2, temperature=1.0
        )
        gap = jnp.max(jnp.where(outcome.rollout.mask, jnp.abs(scores.logp - outcome.rollout.behaviour_logp), 0.0))
        return state, metrics | {"rollout/logp_gap_max": gap}, outcome

    check_zero_kl(trainer, sharp, sharp)
    with pytest.raises(UserError, match="sampler and scorer disagree by"):
        check_zero_kl(replace(trainer, take_step=cold_sampler), sharp, sharp)


def test_a_run_writes_what_its_readers_need(tiny, capsys):
    path = train(tiny())
    assert "ablation" not in capsys.readouterr().out
    assert path.parts[-2:] == ("grammar", path.name)
    metrics = directory.read_lines(path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(STEPS))
    assert all(len(line["kl/reverse_exact_by_position"]) == 8 for line in metrics)
    samples = directory.read_lines(path / "samples.jsonl")
    assert [line["step"] for line in samples] == [0, 2, 4]
    shown = samples[1]["samples"][0]
    assert set(shown) == {"prompt", "completion", "reward", "token_ids", "tokens", "reverse_kl_exact"}
    assert len(shown["token_ids"]) == len(shown["tokens"]) == len(shown["reverse_kl_exact"]) > 1
    assert " ".join(token for token in shown["tokens"] if token != "<eos>").endswith(shown["completion"].strip())
    launch = json.loads((path / "environment.json").read_text())["launches"][0]
    assert launch["versions"]["jax"] == jax.__version__
    assert launch["chosen"] == {"keep_activations": True, "unroll_layers": True}
    assert list((path / "tensorboard").iterdir())
    checkpoints = Checkpoints(path)
    assert checkpoints.steps() == [2, 4, 6]
    checkpoints.close()


def test_a_step_is_under_way_before_the_metrics_of_the_last_are_fetched(tiny, monkeypatch):
    """A checkpoint alone waits for them."""
    order, write = [], directory.MetricsLog.write

    def watched(setup):
        trainer = build_trainer(setup)
        return replace(trainer, take_step=lambda *given: order.append("take") or trainer.take_step(*given))

    monkeypatch.setattr(loop, "build_trainer", watched)
    monkeypatch.setattr(directory.MetricsLog, "write", lambda log, *line: order.append(line[0]) or write(log, *line))
    train(tiny("steps=4", "run.save_every=4"))
    of_run = order[order.index("take") :]  # the base model was fitted before
    assert of_run == ["take", "take", "take", 0, "take", 1, "take", 2, 3]  # the first looks whether KL is 0 at the start


def test_a_finished_run_is_left_as_it_is(tiny):
    path = train(tiny())
    before = (path / "metrics.jsonl").read_text()
    assert train(tiny()) == path
    assert (path / "metrics.jsonl").read_text() == before


def test_a_run_directory_of_another_config_is_refused(tiny):
    train(tiny("run.variant=mine"))
    with pytest.raises(UserError, match=r"belongs to another config: kl.beta is 0.5 there, 0.7 here"):
        train(tiny("run.variant=mine", "kl.beta=0.7"))


def test_another_base_model_under_a_resumed_run_is_refused(tiny):
    """After a resume the reference must be what it was, or KL means something else."""
    config = tiny("steps=4")
    path = train(config)
    base = next((path.parents[1] / "bases").iterdir())
    (path / "checkpoints" / "reference").rename(path / "checkpoints" / "kept")
    trained = build_trainer(prepare(config))
    other = trained.setup.architecture.init(123)
    shutil.rmtree(base / "checkpoints" / "fitted")
    save_params(base, other, FITTED)
    with pytest.raises(UserError, match="was trained against the reference"):
        train(config)


def failing_reward(tmp_path, monkeypatch, body):
    (tmp_path / "their_reward.py").write_text(f"calls = []\ndef reward(prompts, completions, **columns):\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_reward", raising=False)
    return ["reward=[vader]", "reward.vader.function=their_reward.reward"]


def test_a_reward_that_fails_at_once_leaves_no_run_directory(tiny, tmp_path, monkeypatch):
    config = tiny(*failing_reward(tmp_path, monkeypatch, "    return [1.0]"))
    with pytest.raises(UserError, match=r"reward.vader: the reward function returned 1 rewards, expected 16"):
        train(config)
    assert not config_file.run_path(config).exists()


def test_a_reward_that_fails_later_loses_nothing(tiny, tmp_path, monkeypatch):
    body = (
        "    calls.append(0)\n"
        "    return [float(len(c)) if len(calls) != 5 or i != 3 else float('nan') for i, c in enumerate(completions)]"
    )
    config = tiny(*failing_reward(tmp_path, monkeypatch, body), "run.save_every=100")
    with pytest.raises(UserError, match=r"reward.vader: the reward of sample 3 is nan, expected a finite number"):
        train(config)
    path = config_file.run_path(config)
    done = 3  # the first call is the check before the start, the fifth fails
    assert [line["step"] for line in directory.read_lines(path / "metrics.jsonl")] == list(range(done))
    checkpoints = Checkpoints(path)
    assert checkpoints.steps() == [done]
    checkpoints.close()
    train(config)
    assert [line["step"] for line in directory.read_lines(path / "metrics.jsonl")] == list(range(STEPS))


def test_the_built_in_reward_is_refused_on_other_text(tiny):
    """Even where the tokenizer happens to have all of its words: it is the default and must not stay unasked."""
    config = tiny()
    source = LettersSource(kind="letters", letters=4, sentences=50, seed=0)
    with pytest.raises(UserError, match=r"^reward\.sentiment: .* data/source is letters.* ~reward\.sentiment"):
        build_trainer(prepare(replace(config, data=replace(config.data, source=source))))


def test_one_sample_a_prompt_is_refused_for_rloo(tiny):
    with pytest.raises(UserError, match=r"rollout.samples: got 1, expected at least 2 for algorithm=rloo"):
        train(tiny("rollout.samples=1"))


def test_a_python_reward_gets_prompts_completions_and_columns(tiny, tmp_path, monkeypatch):
    body = (
        "    assert len(prompts) == len(completions) == len(columns['text']) == 16\n"
        "    assert all(t.startswith(p) for t, p in zip(columns['text'], prompts))\n"
        "    assert prompts[0] == prompts[1]\n"
        "    return [1.0] * 16"
    )
    path = train(tiny(*failing_reward(tmp_path, monkeypatch, body)))
    assert {line["reward/mean"] for line in directory.read_lines(path / "metrics.jsonl")} == {1.0}


def test_a_diverging_run_stops_and_keeps_its_checkpoints(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "initial_state", poisoned_after_check(trainer.initial_state))
    config = tiny()
    with pytest.raises(UserError, match="expected a finite number"):
        train(config)


def poisoned_after_check(initial_state):
    """An initial state whose optimiser moments are NaN: the first update makes the parameters NaN."""

    def make(*arguments):
        state = initial_state(*arguments)
        nan = jax.tree.map(lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x, state.opt_state)
        return replace(state, opt_state=nan)

    return make


def test_a_hard_budget_stops_the_run_and_keeps_the_last_checkpoint_below(tiny, capsys):
    """Without a penalty KL grows from step to step; the budget lies between that of two steps."""
    unbounded = tiny("kl.beta=0", "optimizer.learning_rate=0.02", "steps=12", "run.variant=unbounded")
    kls = [line["kl/reverse_exact_seq"] for line in directory.read_lines(train(unbounded) / "metrics.jsonl")]
    over = next(step for step in range(5, 12) if kls[step] > max(kls[:step]))
    budget = (kls[over] + max(kls[:over])) / 2
    bounded = [*("kl.beta=0", "optimizer.learning_rate=0.02", "steps=12"), "run.variant=bounded", "run.save_every=1"]
    bounded += ["run.keep.last=20"]
    path = train(tiny(*bounded, f"kl.hard_budget={budget}"))
    checkpoints = Checkpoints(path)
    assert checkpoints.steps() == list(range(over))
    checkpoints.close()
    assert [line["step"] for line in directory.read_lines(path / "metrics.jsonl")] == list(range(over + 1))
    assert f"its last checkpoint below is step {over - 1}." in " ".join(capsys.readouterr().out.split())


def test_a_budget_exceeded_before_the_first_checkpoint_leaves_the_reference(tiny):
    path = train(tiny("kl.beta=0", "optimizer.learning_rate=0.02", "run.save_every=100", "kl.hard_budget=1e-5"))
    checkpoints = Checkpoints(path)
    assert checkpoints.steps() == [0]
    checkpoints.close()


def test_the_policy_after_the_last_step_is_held_to_the_budget_too(tiny, capsys):
    """It has been saved, and no step after it measures it: KL grows without a penalty, the budget is above all but that one."""
    options = ["kl.beta=0", "optimizer.learning_rate=0.02", "run.save_every=1", "run.keep.last=20"]
    longer = directory.read_lines(train(tiny(*options, "steps=12", "run.variant=longer")) / "metrics.jsonl")
    kls = [line["kl/reverse_exact_seq"] for line in longer]
    last = next(step for step in range(5, 12) if kls[step] > max(kls[:step]))
    budget = f"kl.hard_budget={(kls[last] + max(kls[:last])) / 2}"
    path = train(tiny(*options, budget, f"steps={last}", "run.variant=bounded"))
    assert states(path) == list(range(last))
    assert f"at step {last} of {last}, more than" in " ".join(capsys.readouterr().out.split())


def test_a_budget_below_the_start_is_refused_and_the_start_is_kept(tiny):
    """With another reference the policy begins at a distance: there is no checkpoint below, and none is deleted."""
    other = train(tiny("kl.beta=0", "optimizer.learning_rate=0.02", "run.variant=other"))
    config = tiny(f"reference.path={other}", "kl.hard_budget=1e-5", "run.variant=far")
    with pytest.raises(
        UserError, match=r"kl.hard_budget: got 1e-05, but KL.* at step 0 of 6, and no earlier checkpoint lies below"
    ):
        train(config)
    assert states(config_file.run_path(config)) == [0]


def states(path):
    checkpoints = Checkpoints(path)
    found = checkpoints.steps()
    checkpoints.close()
    return found


def test_a_save_is_no_steps_time_and_has_its_own(tiny, monkeypatch):
    """By a clock of its own: a step takes 1 s, a save 100, a look by enumeration none here."""
    now = [0.0]
    take = trainer.compile_step

    def slow(parts):
        step = take(parts)
        return lambda *given: now.__setitem__(0, now[0] + 1) or step(*given)

    save = Launch.save
    monkeypatch.setattr(Launch, "save", lambda *given: now.__setitem__(0, now[0] + 100) or save(*given))
    monkeypatch.setattr(trainer, "_step_taker", lambda setup, prompts, parts, host: _plain_taker(slow(parts)))
    monkeypatch.setattr(recorder, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: now[0])
    lines = directory.read_lines(train(tiny()) / "metrics.jsonl")
    assert {line["time/step"] for line in lines} == {1.0}
    assert [line.get("time/save") for line in lines] == [None, None, 100, None, 100, None]
    assert lines[0]["time/compile"] == 1.0
    assert all(line["time/tokens_per_second"] == line["rollout/length"] * line["rollout/sequences"] for line in lines)
    assert all(0 < line["memory/peak_gib"] < 1000 for line in lines)


class AtOnce:
    """In place of the thread that waits for the end of a step: waits at once, so that the clock stands still meanwhile."""

    def __init__(self, max_workers):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self):
        pass


def _plain_taker(step):
    return lambda state, frozen, batch: step(state, frozen, batch.prompts)


def test_an_ablation_says_so_at_launch(tiny, capsys):
    train(tiny("kl.penalty=k1_loss", "steps=2"))
    assert "kl.penalty=k1_loss is an ablation" in capsys.readouterr().out


def test_beta_moves_with_its_controller_and_survives_a_resume(tiny):
    overrides = ["kl/controller=target", "run.save_every=3"]
    whole = directory.read_lines(train(tiny(*overrides, "run.variant=whole")) / "metrics.jsonl")
    betas = [line["kl/beta"] for line in whole]
    assert betas[0] == 0.5
    assert len(set(betas)) == STEPS
    path = train(tiny(*overrides, "run.variant=resumed"))
    shutil.rmtree(path / "checkpoints" / str(STEPS))
    train(tiny(*overrides, "run.variant=resumed"))
    resumed = directory.read_lines(path / "metrics.jsonl")
    assert [line["kl/beta"] for line in resumed] == betas


class AskedAtOnce(StopRequest):
    """Stands in for a Ctrl-C during the last step."""

    asked = True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def test_a_stop_during_the_last_step_keeps_what_comes_next_from_beginning(tiny, monkeypatch):
    """Which is the evaluation, and the other jobs of a sweep."""
    config = tiny("steps=1", "optimizer.warmup_steps=0")
    monkeypatch.setattr(loop, "StopRequest", AskedAtOnce)
    with pytest.raises(Interrupted, match=r"Stopped and saved .* at step 1 of 1"):
        train(config)
    monkeypatch.undo()
    assert states(train(config)) == [1]
