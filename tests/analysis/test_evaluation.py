"""Held-out figures of a restored run, against sums made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from kljax.analysis import evaluation, tables
from kljax.command_line import compose
from kljax.config import Config, EvaluationConfig, MeshConfig
from kljax.errors import UserError
from kljax.training.fitting import ensure_base
from kljax.training.loop import train
from kljax.training.restore import restore
from kljax.training.task import prepare

ONE = MeshConfig(data=1, fsdp=1, tensor=1)


@pytest.fixture(scope="module")
def run(tiny_in, tmp_path_factory):
    config = compose([*tiny_in(tmp_path_factory.mktemp("evaluation")), "optimizer.learning_rate=0.01"], Config)
    return restore(train(config), "latest", ONE)


def test_each_kl_is_taken_on_samples_of_its_own_first_argument(run):
    config = EvaluationConfig(prompts=16, samples=2, seed=0)
    result = evaluation.evaluate(run, config).metrics
    by_policy = evaluation.sample_and_score(run, run.policy, run.reference, config)
    by_reference = evaluation.sample_and_score(run, run.reference, run.policy, config)
    assert result["kl/reverse_exact_seq"] == pytest.approx(by_policy.kl.mean(), rel=1e-5)
    assert result["kl/reverse_exact_tok"] == pytest.approx(by_policy.kl.sum() / by_policy.length.sum(), rel=1e-5)
    assert result["kl/forward_exact_seq"] == pytest.approx(by_reference.kl.mean(), rel=1e-5)
    assert result["reward/mean"] == pytest.approx(by_policy.reward.mean(), rel=1e-5)
    assert result["reward/reference_mean"] == pytest.approx(by_reference.reward.mean(), rel=1e-5)
    assert result["kl/reverse_exact_seq"] > 0


def test_a_policy_that_is_the_reference_has_no_kl(run):
    result = evaluation.evaluate(replace(run, policy=run.reference), EvaluationConfig(prompts=8, samples=2, seed=0)).metrics
    assert abs(result["kl/reverse_exact_seq"]) < 1e-6
    assert abs(result["kl/forward_exact_seq"]) < 1e-6
    assert result["reward/mean"] == result["reward/reference_mean"]


def test_prompts_that_do_not_fill_the_last_batch_are_each_counted_once(run):
    """16 of 20 held-out prompts in batches of 8; 13 leave the last batch part full."""
    sequences = evaluation.sample_and_score(run, run.policy, run.reference, EvaluationConfig(prompts=13, samples=2, seed=0))
    assert len(sequences.reward) == len(sequences.completions) == 26
    rows = run.task.splits.held_out["text"][:13]
    assert all(text.startswith(prompt) for text, prompt in zip(rows, sequences.prompts[::2], strict=True))


def test_evaluation_is_a_function_of_its_seed(run):
    first, again, other = (evaluation.evaluate(run, EvaluationConfig(prompts=8, samples=2, seed=s)) for s in (0, 0, 1))
    assert first == again
    assert first.samples != other.samples


def test_what_is_written_is_what_was_found(run):
    result = evaluation.evaluate(run, EvaluationConfig(prompts=8, samples=2, seed=0))
    file = evaluation.save(result, run.path)
    assert file.name == "step_000006.json"
    assert np.isclose(evaluation.json.loads(file.read_text())["metrics"]["reward/mean"], result.metrics["reward/mean"])


def test_any_mesh_restores_a_run(run):
    """Trained on one device, restored on eight."""
    config = EvaluationConfig(prompts=16, samples=2, seed=0)
    spread = restore(run.path, "latest", MeshConfig(data=2, fsdp=2, tensor=2))
    one, eight = evaluation.evaluate(run, config).metrics, evaluation.evaluate(spread, config).metrics
    assert eight["kl/reverse_exact_seq"] == pytest.approx(one["kl/reverse_exact_seq"], rel=1e-4)


def test_a_step_that_was_not_saved_is_refused_with_those_that_were(run):
    with pytest.raises(UserError, match=r"has no checkpoint of step 3; it has: 2, 4, 6"):
        restore(run.path, 3, ONE)
    with pytest.raises(UserError, match="is not a run directory"):
        restore(run.path.parent, "latest", ONE)


def test_a_base_model_is_no_run(tiny):
    base = ensure_base(prepare(tiny()))
    with pytest.raises(UserError, match="holds a base model, not an RLHF run"):
        restore(base, "latest", ONE)


def test_the_table_shows_reference_and_policy(run, capsys):
    result = evaluation.evaluate(run, EvaluationConfig(prompts=8, samples=2, seed=0))
    tables.show_evaluation(result, run.path)
    tables.show_samples(result, 1)
    shown = capsys.readouterr().out
    assert f"{result.metrics['reward/mean']:.3f}" in shown
    assert repr(result.samples[0]["policy"])[:20] in shown


def test_the_report_says_what_its_figures_do_not(tiny):
    assert evaluation.notes(tiny()) == []
    (ablation,) = evaluation.notes(tiny("kl.penalty=k3_reward"))
    assert "kl.penalty=k3_reward is an ablation" in ablation
    (scaled,) = evaluation.notes(tiny("reward_scale=prompt_std"))
    assert "kl/beta_effective" in scaled


def test_notes_are_shown_and_saved(run, capsys):
    result = replace(evaluation.evaluate(run, EvaluationConfig(prompts=8, samples=2, seed=0)), notes=["mind the gap"])
    tables.show_evaluation(result, run.path)
    assert "Note: mind the gap" in capsys.readouterr().out
    assert evaluation.json.loads(evaluation.save(result, run.path).read_text())["notes"] == ["mind the gap"]
