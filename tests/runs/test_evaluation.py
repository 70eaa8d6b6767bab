"""Held-out figures of a restored run, against sums made by hand."""

import json
import math
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

from kljax.analysis import tables
from kljax.command_line import compose
from kljax.config import Config, EvaluationConfig, MeshConfig, RewardTerm
from kljax.devices.state import params_hash
from kljax.errors import UserError
from kljax.fitting.fit import ensure_base
from kljax.rewards import combination
from kljax.rewards.user_code import custom_terms
from kljax.runs import evaluation, evaluation_files
from kljax.runs.checkpoints import Checkpoints, load_fitted
from kljax.runs.config_file import find_runs
from kljax.runs.looking import _noise, look_at
from kljax.runs.restore import restore
from kljax.runs.setup import prepare
from kljax.training.loop import train

ONE = MeshConfig(data=1, fsdp=1, tensor=1)


@pytest.fixture(scope="module")
def run(tiny_in, tmp_path_factory):
    config = compose([*tiny_in(tmp_path_factory.mktemp("evaluation")), "optimizer.learning_rate=0.01"], Config)
    return restore(train(config), "latest", ONE)


@pytest.fixture(scope="module")
def look(run):
    """look(sampled, *others, prompts=16, **settings): what a model writes, two completions a prompt."""

    def sequences(sampled, *others, prompts=16, **settings):
        config = EvaluationConfig(prompts=prompts, samples=2, seed=0, **settings)
        return look_at(run, run.held_out_prompts(), config)(sampled, others)

    return sequences


@pytest.fixture(scope="module")
def result(run):
    """Two completions of each of eight prompts."""
    return evaluated(run)


def evaluated(run, prompts=8, samples=2, seed=0, **settings):
    return evaluation.evaluate(run, EvaluationConfig(prompts=prompts, samples=samples, seed=seed, **settings))


def but_time(result):
    return replace(result, metrics={name: x for name, x in result.metrics.items() if not name.startswith("time/")})


def test_each_kl_is_taken_on_samples_of_its_own_first_argument(run, look):
    result = evaluated(run, prompts=16).metrics
    by_policy, by_reference = look(run.policy, run.reference), look(run.reference, run.policy)
    assert result["kl/reverse_exact_seq"] == pytest.approx(by_policy.kls[0].mean(), rel=1e-5)
    assert result["kl/reverse_exact_tok"] == pytest.approx(by_policy.kls[0].sum() / by_policy.length.sum(), rel=1e-5)
    assert result["kl/forward_exact_seq"] == pytest.approx(by_reference.kls[0].mean(), rel=1e-5)
    assert result["reward/mean"] == pytest.approx(by_policy.reward.mean(), rel=1e-5)
    assert result["reward/reference_mean"] == pytest.approx(by_reference.reward.mean(), rel=1e-5)
    assert result["kl/reverse_exact_seq"] > 0
    assert result["time/evaluation"] > 0


def test_a_policy_that_is_the_reference_has_no_kl(run):
    result = evaluated(replace(run, policy=run.reference)).metrics
    assert abs(result["kl/reverse_exact_seq"]) < 1e-6
    assert abs(result["kl/forward_exact_seq"]) < 1e-6
    assert result["reward/mean"] == result["reward/reference_mean"]
    assert result["reward/gain"] == result["reward/gain_se"] == 0.0


def test_prompts_that_do_not_fill_the_last_batch_are_each_counted_once(run, look):
    """16 of 20 held-out prompts in batches of 8; 13 leave the last batch part full."""
    sequences = look(run.policy, run.reference, prompts=13)
    assert len(sequences.reward) == len(sequences.completions) == 26
    rows = run.setup.splits.held_out["text"][:13]
    assert all(text.startswith(prompt) for text, prompt in zip(rows, sequences.prompts[::2], strict=True))


def test_more_prompts_than_there_are_is_said(run):
    result = evaluated(run, prompts=50)
    assert result.of["prompts"] == 20 and result.settings["prompts"] == 50
    assert any("evaluation.prompts=50, and there are 20 held-out prompts" in note for note in result.notes)


def test_evaluation_is_a_function_of_its_seed(run, result):
    first, other = (but_time(evaluated(run, seed=seed)) for seed in (0, 1))
    assert first == but_time(result)
    assert first.samples != other.samples


def test_noise_is_of_both_seeds_and_of_no_training_step(run, result):
    """Runs of other seeds are evaluated on other noise; with equal seeds the first batch is not that of the first step."""
    other = replace(run, setup=replace(run.setup, config=replace(run.setup.config, seed=1)))
    assert result.samples != evaluated(other).samples
    keys = {tuple(jax.random.key_data(_noise(0, seed)).tolist()) for seed in (0, 1, 2**32 - 1)}
    steps = {tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(0), step)).tolist()) for step in range(100)}
    assert len(keys) == 3 and not keys & steps


def test_errors_are_of_distinct_prompts(run):
    """Ten rows of two prompts: the error is that of two groups, and the gain's is of pairs."""
    held_out = run.held_out_prompts()
    rows = np.array([0, 1] * 5)
    doubled = replace(held_out, tokens=held_out.tokens[rows], mask=held_out.mask[rows], rows=held_out.rows.select(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run), "held_out_prompts", lambda self: doubled)
        result = evaluated(run, prompts=10, samples=3)
        policy, reference = (
            look_at(run, doubled, EvaluationConfig(prompts=10, samples=3, seed=0))(*models)
            for models in ((run.policy, (run.reference,)), (run.reference, (run.policy,)))
        )
    assert (result.of["prompts"], result.of["distinct_prompts"]) == (10, 2)

    def error(values):
        means = values.reshape(5, 2, 3).mean(axis=(0, 2))
        return means.std(ddof=1) / math.sqrt(2)

    assert result.metrics["reward/mean_se"] == pytest.approx(error(policy.reward))
    assert result.metrics["kl/reverse_exact_seq_se"] == pytest.approx(error(policy.kls[0]))
    assert result.metrics["reward/gain"] == pytest.approx(np.mean(policy.reward - reference.reward))
    assert result.metrics["reward/gain_se"] == pytest.approx(error(policy.reward - reference.reward))
    by_prompt = policy.reward.reshape(5, 2, 3).mean(axis=(0, 2))
    assert [entry["completions"] for entry in result.by_prompt] == [15, 15]
    np.testing.assert_allclose([entry["reward/mean"] for entry in result.by_prompt], by_prompt, rtol=1e-6)
    assert [entry["prompt"] for entry in result.by_prompt] == policy.prompts[:6:3]


def test_one_prompt_has_the_error_of_its_completions(run):
    held_out = run.held_out_prompts()
    rows = np.zeros(8, int)
    alike = replace(held_out, tokens=held_out.tokens[rows], mask=held_out.mask[rows], rows=held_out.rows.select(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run), "held_out_prompts", lambda self: alike)
        result = evaluated(run)
    policy = look_at(run, alike, EvaluationConfig(prompts=8, samples=2, seed=0))(run.policy, ())
    assert result.metrics["reward/mean_se"] == pytest.approx(policy.reward.std(ddof=1) / 4)
    assert any("All prompts are the same" in note for note in result.notes)


def test_files_say_how_they_differ_from_the_runs_own(result, tmp_path):
    own = EvaluationConfig(prompts=8, samples=2, seed=0)
    file = evaluation_files.save_own(result, tmp_path)
    assert file.name == "step_000006.json"
    before = file.read_bytes()
    assert json.loads(before)["metrics"] == result.metrics

    assert evaluation_files.save_analysis(replace(result, notes=["again"]), tmp_path, own) == file
    assert file.read_bytes() == before
    other = replace(result, settings=result.settings | {"prompts": 16, "seed": 3})
    assert evaluation_files.save_analysis(other, tmp_path, own).name == "step_000006_prompts-16_seed-3.json"
    assert evaluation_files.save_analysis(replace(result, step=4), tmp_path, own).name == "step_000004.json"
    found = evaluation_files.load_all(tmp_path)
    assert [(each["step"], each["settings"]["prompts"]) for each in found] == [(4, 8), (6, 8), (6, 16)]


def test_what_an_older_version_wrote_is_kept(result, tmp_path):
    (tmp_path / "evaluation").mkdir()
    older = tmp_path / "evaluation" / "step_000006.json"
    older.write_text('{"step": 6, "metrics": {"reward/mean_se": NaN}, "samples": []}')
    file = evaluation_files.save_analysis(result, tmp_path, EvaluationConfig(prompts=8, samples=2, seed=0))
    assert file.name == "step_000006_prompts-8_samples-2_seed-0_top_k-0_top_p-1.0.json"
    assert "settings" not in json.loads(older.read_text())


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "step_000006.json").write_text('{"step": 6')
    with pytest.raises(UserError, match=r"step_000006.json cannot be read as an evaluation; remove it"):
        evaluation_files.load_all(tmp_path)


@pytest.mark.parametrize("model", ["policy", "reference"])
def test_parameters_that_are_not_finite_are_refused_by_name(run, model):
    broken = jax.tree.map(lambda p: p.at[(0,) * p.ndim].set(jnp.nan), getattr(run, model))
    with pytest.raises(UserError, match=rf"the {model}'s parameters of step 6 in .* are not finite"):
        evaluated(replace(run, **{model: broken}))


def test_a_reward_that_is_not_finite_is_named_with_its_completion(run, monkeypatch):
    reward = combination.build(run.setup.config.reward, run.setup.tokenizer)
    broken = replace(reward, device=lambda params, rollout: {"sentiment": jnp.full(len(rollout.mask), jnp.inf)})
    monkeypatch.setattr(combination, "build", lambda *_: broken)
    with pytest.raises(
        UserError, match=r"evaluation: reward.sentiment of the policy's completion '.*' of the prompt .* is inf"
    ):
        evaluated(run)


def test_a_cut_policy_is_the_one_that_is_judged(run, look):
    """Greedy in effect: KL of a point mass is the reference's surprise, whatever the temperature's rest."""
    cut = look(run.policy, run.reference, top_k=1)
    again = look(run.policy, run.reference, top_p=1e-6)
    np.testing.assert_allclose(cut.kls[0], again.kls[0])
    assert cut.completions == again.completions
    result = evaluated(run, top_k=1)
    assert result.metrics["kl/reverse_exact_seq"] == pytest.approx(cut.kls[0][:16].mean())
    assert "every KL is that of the cut, renormalised distribution" in " ".join(result.notes)
    assert (result.of["top_k"], result.of["top_p"]) == (1, 1.0)


def test_any_mesh_restores_a_run(run):
    """Trained on one device, restored on eight."""
    config = EvaluationConfig(prompts=16, samples=2, seed=0)
    spread = restore(run.path, "latest", MeshConfig(data=2, fsdp=2, tensor=2))
    one, eight = evaluation.evaluate(run, config).metrics, evaluation.evaluate(spread, config).metrics
    assert eight["kl/reverse_exact_seq"] == pytest.approx(one["kl/reverse_exact_seq"], rel=1e-4)


@pytest.mark.parametrize("said, expected", [({"beta": 0.25}, 0.25), ({"beta": -1.5e-9}, 0.0), ({}, 0.5), ({"beta": None}, 0.5)])
def test_beta_is_the_one_that_the_last_step_used(run, monkeypatch, said, expected):
    """An older checkpoint does not say it, nor one before the first step: then it is the controller's."""
    found = {"reference": params_hash(run.reference)} | said
    monkeypatch.setattr(Checkpoints, "about", lambda self, step: found)
    assert restore(run.path, "latest", ONE).beta == expected


def test_a_step_that_was_not_saved_is_refused_with_those_that_were(run):
    with pytest.raises(UserError, match=r"has no checkpoint of step 3; it has: 2, 4, 6"):
        restore(run.path, 3, ONE)
    with pytest.raises(UserError, match="is not a run directory"):
        restore(run.path.parent, "latest", ONE)


def test_a_fit_is_a_run_whose_reference_is_the_model_that_it_started_from(tiny):
    setup = prepare(tiny())
    path = ensure_base(setup)
    arch = setup.architecture
    fit = restore(path, "latest", ONE)
    assert (fit.step, fit.beta) == (20, 0.0)
    assert params_hash(fit.policy) == params_hash(load_fitted(path, arch.shapes, arch.shardings))
    assert params_hash(fit.reference) == params_hash(arch.init(setup.config.pretrain.seed))
    found = evaluation.evaluate(fit, fit.setup.config.evaluation)
    assert found.metrics["kl/reverse_exact_seq"] > 0.01
    assert found.metrics["kl/forward_exact_seq"] > 0.01
    started = evaluation.evaluate(replace(fit, policy=fit.reference), fit.setup.config.evaluation).metrics
    assert started["kl/reverse_exact_seq"] == started["kl/forward_exact_seq"] == 0
    assert started["reward/mean"] == found.metrics["reward/reference_mean"]
    assert restore(path, 10, ONE).step == 10
    assert params_hash(restore(path, 20, ONE).policy) == params_hash(fit.policy)  # the best step is the last one here
    for given in (path, path.parent):
        with pytest.raises(UserError, match="whose KL is to the model that each started from; expected RL runs"):
            find_runs([given])


@pytest.fixture(scope="module")
def moved(tiny_in, tmp_path_factory):
    """moved(*overrides): a short run whose reference is not, or not for long, the model that it started from."""

    def train_and_restore(*overrides):
        root = tmp_path_factory.mktemp("moved")
        config = compose([*tiny_in(root), "optimizer.learning_rate=0.01", *overrides], Config)
        return restore(train(config), "latest", ONE)

    return train_and_restore


EVERY = ("reference/refresh=every", "reference.refresh.steps=2", "steps=4")


@pytest.mark.parametrize("begins", ["with another checkpoint", "with the base, under LoRA"])
def test_a_reference_that_moves_is_reported_beside_the_base(moved, run, begins, capsys):
    """The KL to the base is that of the models themselves, and is not that to the reference."""
    found = moved(*EVERY, *(["adapter=lora"] if "LoRA" in begins else [f"reference.path={run.path}"]))
    result = evaluated(found, prompts=16)
    config = EvaluationConfig(prompts=16, samples=2, seed=0)
    look = look_at(found, found.held_out_prompts(), config)
    by_policy, by_base = look(found.policy, (found.base,)), look(found.base, (found.policy,))
    expected = {
        "reward/base_mean": by_base.reward.mean(),
        "rollout/base_length": by_base.length.mean(),
        "reward/base_terms/sentiment": by_base.terms["sentiment"].mean(),
        "reward/gain_over_base": (by_policy.reward - by_base.reward).mean(),
        "kl/reverse_exact_to_base_seq": by_policy.kls[0].mean(),
        "kl/reverse_exact_to_base_tok": by_policy.kls[0].sum() / by_policy.length.sum(),
        "kl/forward_exact_to_base_seq": by_base.kls[0].mean(),
        "kl/forward_exact_to_base_tok": by_base.kls[0].sum() / by_base.length.sum(),
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, rel=1e-5), name
        assert result.metrics[f"{name}_se"] > 0, name
    # the base is the model that was fitted, whatever moved since
    fitted = jax.tree.leaves(run.reference)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found.base), fitted, strict=True))
    assert abs(result.metrics["kl/reverse_exact_to_base_seq"] - result.metrics["kl/reverse_exact_seq"]) > 1e-6
    tables.show_evaluation(result, found.path)
    shown = capsys.readouterr().out
    assert "base" in shown and f"{result.metrics['kl/reverse_exact_to_base_seq']:.3f} ± " in shown
    assert any("reference.refresh=every" in note for note in result.notes)


def test_a_base_that_an_older_run_did_not_keep_is_said(run):
    found = evaluated(replace(run, base=None))
    assert "reward/base_mean" not in found.metrics
    assert any("The base model is not kept" in note for note in found.notes)


def test_the_table_shows_what_each_model_is(run, result, capsys):
    tables.show_evaluation(result, run.path)
    tables.show_samples(result, 1)
    shown = capsys.readouterr().out
    assert "2 completions of each of 8 held-out prompts" in shown
    assert f"{result.metrics['reward/mean']:.3f} ± " in shown
    half = t.ppf(0.975, result.of["distinct_prompts"] - 1) * result.metrics["reward/mean_se"]
    assert f"{result.metrics['reward/mean']:.3f} ± {half:.3f}" in shown
    assert f"{result.metrics['reward/gain']:.3f} ± " in shown
    assert repr(result.samples[0]["policy"])[:20] in shown


def test_the_report_says_what_its_figures_do_not(run):
    def said(**changes):
        found = replace(run, setup=replace(run.setup, config=replace(run.setup.config, **changes)))
        return evaluation.notes(found, run.setup.config.evaluation, {"prompts": 16, "distinct_prompts": 9})

    assert said() == []
    (ablation,) = said(kl=replace(run.setup.config.kl, penalty="k3_reward"))
    assert "kl.penalty=k3_reward is an ablation" in ablation
    (scaled,) = said(reward_scale="prompt_std")
    assert "kl/beta_effective" in scaled


def test_notes_are_shown(run, result, capsys):
    tables.show_evaluation(replace(result, notes=["mind the [gap]"]), run.path)
    assert "Note: mind the [gap]" in capsys.readouterr().out


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_code_of_the_runs_own_is_imported_where_it_is_asked_for_alone(run, tmp_path, monkeypatch, weight):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_reward", raising=False)
    (tmp_path / "own_reward.py").write_text(
        "open('marker', 'w').close()\ndef words(completions, **kw): return [float(len(c.split())) for c in completions]\n"
    )
    own = RewardTerm(kind="python", function="own_reward.words", weight=weight, arguments={})
    both = with_rewards(run, run.setup.config.reward | {"own": own})
    without = custom_terms(both.setup.config.reward)
    assert without["own"].startswith(
        f"it is code of the run's own, own_reward.words from {tmp_path / 'own_reward.py'}, which is"
    )
    settings = EvaluationConfig(prompts=8, samples=2, seed=0)
    alone = evaluation.evaluate(both, settings, without)
    assert not (tmp_path / "marker").exists()
    assert "own_reward" not in sys.modules
    whole = evaluation.evaluate(both, settings)
    assert (tmp_path / "marker").exists()

    unknown = {"reward/mean", "reward/gain"} if weight else set()
    assert unknown.isdisjoint(alone.metrics)
    assert "reward/terms/own" not in alone.metrics
    kept = [name for name in alone.metrics if not name.startswith("time/")]
    assert {"kl/reverse_exact_seq", "kl/forward_exact_seq", "reward/terms/sentiment", "rollout/length"} <= {*kept}
    assert all(alone.metrics[name] == whole.metrics[name] for name in kept)
    assert ("reward/mean" in alone.metrics) == (not weight)
    assert alone.notes[0] == f"reward.own is left out, and with it what it is a part of: {without['own']}"
    assert not any("left out" in note for note in whole.notes)
    tables.show_evaluation(alone, run.path)
    tables.show_samples(alone, 1)


def test_a_reward_that_is_all_of_the_runs_own_leaves_the_kls(run):
    own = RewardTerm(kind="jax", function="nowhere.at_all", weight=1.0, arguments={})
    only = with_rewards(run, {"own": own})
    found = evaluation.evaluate(only, EvaluationConfig(prompts=8, samples=2, seed=0), custom_terms({"own": own}))
    assert found.metrics["kl/reverse_exact_seq"] > 0
    assert [name for name in found.metrics if name.startswith("reward/")] == []


def with_rewards(run, rewards):
    return replace(run, setup=replace(run.setup, config=replace(run.setup.config, reward=rewards)))
