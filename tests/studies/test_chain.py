"""The chain of a task, from a model as it is to RL: its stages against the evaluations that they are read from."""

import json
import shutil
from dataclasses import replace

import pytest
from scipy.special import stdtrit

from experiments.studies.directions import chain
from kljax.command_line import compose
from kljax.commands.pretrain import run as pretrain
from kljax.commands.train import run as train
from kljax.config import Config
from kljax.errors import UserError
from kljax.runs import digests
from kljax.runs.evaluation import groups_of


@pytest.fixture(scope="module")
def folder(tiny_in, tmp_path_factory):
    """A fit and two RL runs on short questions, of seconds."""
    root = tmp_path_factory.mktemp("chain") / "runs"
    given = [one for one in tiny_in(root) if not one.startswith("data.source.sentences")]
    given += ["experiment=questions", "reward=token_f1", "data.source.largest=3", "track=[]"]
    for beta in (0.5, 0.1):
        config = compose([*given, f"kl.beta={beta}", f"run.variant=beta{beta}"], Config)
        if beta == 0.5:
            pretrain(config)
        train(config)
    return root


def test_stages_are_those_of_the_evaluations(folder):
    ((name, links),) = chain.chains([folder]).items()
    assert name == "questions"
    assert [(link.stage, link.beta) for link in links] == [
        ("as it is", None), ("fitted", None), ("RL", 0.5), ("RL", 0.1)]  # fmt: skip
    last_of = json.loads((folder / "questions" / "beta0.1" / "evaluation" / "step_000006.json").read_text())
    own = last_of["metrics"]
    last = links[-1]
    assert last.sampled is not None and last.sampled.value == own["task/token_f1"]
    assert last.reverse_kl_seq == own["kl/reverse_exact_seq"]
    assert last.answers_nats_tok == own["answers/nats_tok"]
    assert links[0].reverse_kl_seq is None and links[1].gain is None
    assert last.gain is not None and last.gain.value == own["reward/gain"] and last.gain.low == pytest.approx(
        own["reward/gain"] - stdtrit(groups_of(last_of["of"]) - 1, 0.975) * own["reward/gain_se"])  # fmt: skip
    # The fitted model is the reference of the runs: one model, looked at with the same noise.
    assert links[1].answers_nats_tok == pytest.approx(own["answers/reference_nats_tok"], rel=1e-5)
    assert links[0].answers_nats_tok > links[1].answers_nats_tok


def test_the_table_and_the_picture_have_every_stage(folder, tmp_path, capsys):
    found = chain.chains([folder])
    chain.show(found)
    assert "fitted" in (said := capsys.readouterr().out) and "RL, beta 0.1" in said
    bleu = replace(found["questions"][-1], sampled=chain.Figure(19.4271, 16.0163, 22.4881), forward_kl_seq=162.4813)
    chain.show({"questions": [*found["questions"], bleu]})
    assert "19.43 [16.02, 22.49]" in (said := capsys.readouterr().out) and " 162.5 " in said and "…" not in said
    chain.plot(found, tmp_path / "chain.png")
    assert (tmp_path / "chain.png").stat().st_size > 5_000


def test_a_figure_says_its_interval_if_it_has_one():
    figures = [chain.Figure(0.5), chain.Figure(0.0, 0.0, 0.0), chain.Figure(101.46, 97.4, 105.5)]
    assert [*map(str, figures)] == ["0.500", "0.000 (all alike)", "101.5 [97.40, 105.5]"]


def test_samples_stand_beside_the_right_answer(folder, tmp_path):
    found = chain.chains([folder])
    chain.write_samples(found, tmp_path / "chain.md", 3)
    text = (tmp_path / "chain.md").read_text()
    assert text.count("| right answer | ") == 3 and text.count("| RL, beta 0.1 | ") == 3
    sample = found["questions"][0].samples[0]
    assert f"**1.** {sample.prompt}" in text and f"| right answer | {sample.answer} |" in text
    assert chain._quoted("a|b <script> `x`\n*y*") == r"a\|b \<script\> \`x\` \*y\*"


def test_an_analysis_with_other_settings_is_not_taken_for_the_runs_own(folder, tmp_path, capsys):
    """The same step of fewer prompts, as kljax analyze writes it beside; alone it is taken, and said to be another."""
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    own = copy / "questions" / "beta0.1" / "evaluation" / "step_000006.json"
    other = json.loads(own.read_text())
    other["settings"]["prompts"], other["metrics"]["task/token_f1"] = 8, -1.0
    digests.write_text(own.parents[1], "evaluation/step_000006_prompts-8.json", json.dumps(other))
    expected = chain.chains([folder])["questions"]
    assert chain.chains([copy])["questions"] == expected
    chain.show({"questions": expected})
    assert "Not evaluated alike" not in capsys.readouterr().out
    digests.write_text(own.parents[1], "evaluation/step_000006.json", json.dumps(other))
    chain.show(chain.chains([copy]))
    assert "Not evaluated alike: prompts differ between the stages of questions." in capsys.readouterr().out


def test_other_figures_are_asked_for_by_name(folder, capsys):
    links = chain.chains([folder], "exact_match")["questions"]
    assert {link.metric for link in links} == {"exact_match"}
    with pytest.raises(UserError, match="no evaluated run with the figure bleu of a task"):
        chain.chains([folder], "bleu")
    assert capsys.readouterr().out.count("its evaluation has no task/bleu.") == 3
    for name in ("greedy_token_f1", "reference_token_f1", "token_f1_se"):
        with pytest.raises(UserError, match="expected a figure without model, reading and error"):
            chain.chains([folder], name)


def test_runs_without_an_evaluated_fit_have_its_figures_from_their_own(folder):
    whole, runs = chain.chains([folder])["questions"], chain.chains([folder / "questions"])["questions"]
    assert [link.label for link in runs] == ["fitted", "RL, beta 0.5", "RL, beta 0.1"]
    assert runs[0].sampled == whole[1].sampled and runs[0].reverse_kl_seq is None


def test_a_run_that_was_not_evaluated_is_named(folder, tmp_path, capsys):
    copy = shutil.copytree(folder / "questions" / "beta0.1", tmp_path / "later", ignore=shutil.ignore_patterns("evaluation"))
    assert [link.beta for link in chain.chains([folder, copy])["questions"]] == [None, None, 0.5, 0.1]
    assert f"Left out, not evaluated yet: {copy}; kljax analyze run={copy} evaluates it." in capsys.readouterr().out


def test_runs_of_one_beta_and_of_another_fit_are_told_apart(folder, tmp_path, capsys):
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    again = shutil.copytree(copy / "questions" / "beta0.1", copy / "questions" / "again")
    model = json.loads((again / "model.json").read_text())
    model["reference"]["model"] = "runs/bases/questions-other"
    (again / "model.json").write_text(json.dumps(model))
    links = chain.chains([copy])["questions"]
    assert [link.label for link in links[-2:]] == ["RL, beta 0.1, questions/again", "RL, beta 0.1, questions/beta0.1"]
    assert links[-3].label == "RL, beta 0.5"
    assert "questions: its runs are of different fitted models, questions-" in capsys.readouterr().out
    assert len(chain.chains([copy, copy / "questions"])["questions"]) == len(links)  # a folder twice is one


def test_a_fit_is_the_model_that_it_kept_and_a_run_says_an_earlier_step(folder, tmp_path):
    """Whatever other steps were looked at later; figures of other readings of the same step are taken, too."""
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    kept = chain.chains([copy])["questions"]
    ((fit, own),) = ((file.parents[1], file) for file in copy.glob("bases/*/evaluation/step_*.json"))
    later = json.loads(own.read_text())
    later["step"] += 100
    digests.write_text(fit, f"evaluation/step_{later['step']:06d}.json", json.dumps(later))
    run = copy / "questions" / "beta0.1"
    other = json.loads((run / "evaluation" / "step_000006.json").read_text())
    greedy = {name: other["metrics"].pop(name) for name in [*other["metrics"]] if name.startswith("task/greedy_")}
    digests.write_text(run, "evaluation/step_000006.json", json.dumps(other))
    more = other | {"metrics": other["metrics"] | greedy}
    digests.write_text(run, "evaluation/step_000006_readings-greedy.json", json.dumps(more))
    assert [replace(link, run="") for link in chain.chains([copy])["questions"]] == [replace(link, run="") for link in kept]
    digests.write_text(run, "evaluation/step_000004.json", json.dumps(other | {"step": 4}))
    for file in run.glob("evaluation/step_000006*"):
        file.unlink()
    assert [link.label for link in chain.chains([copy])["questions"]][-1] == "RL, beta 0.1, step 4"
