"""Figures of a task in an evaluation, against loops over the same completions, a plain argmax, and whole logits."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx
from rich.console import Console

from kljax.analysis import tables
from kljax.command_line import compose
from kljax.commands.train import evaluate
from kljax.config import Config, MeshConfig, to_dict
from kljax.config.task import NoTask
from kljax.config.validation import validate, without_defaults
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.fitting.fit import ensure_base
from kljax.models.decoder import causal_mask, positions_of
from kljax.rewards.answers import exact_text, token_f1
from kljax.runs import card, evaluation, evaluation_files
from kljax.runs.config_file import check_owner
from kljax.runs.intervals import numbered
from kljax.runs.looking import look_at
from kljax.runs.restore import restore
from kljax.runs.setup import prepare
from kljax.runs.task_figures import labels_of, nats_of_answers, read_as
from kljax.tasks import corpus
from kljax.tasks.bootstrap import bootstrap_means
from kljax.training.loop import train
from tests.readme import fixtures

ONE = MeshConfig(data=1, fsdp=1, tensor=1)
QUESTIONS = [
    *("data/source=text", "task=words", "task.arguments.prompt='{text}'", "data/prompt=whole"),
    *("data.prompt.max_tokens=24", "tokenizer=bpe", "tokenizer.vocab_size=400", "pretrain/objective=target", "reward=task"),
    *("pretrain.length=40", "pretrain.optimizer.learning_rate=0.02", "data.prompt_fraction=0.3", "task.resamples=40"),
]


def made(root, tiny_in, *overrides):
    own = [*(one for one in tiny_in(root) if not one.startswith("data.source")), f"data.source.path={root.parent}/odd.jsonl"]
    return compose([*own, *QUESTIONS, "evaluation.every=3", "run.variant=f1", *overrides], Config)


@pytest.fixture(scope="module")
def run(tiny_in, tmp_path_factory):
    """A fit to answers, then six steps for F1 of them, looked at while it trained."""
    root = tmp_path_factory.mktemp("task")
    rows = [{"question": f"is {i} odd", "answer": "yes it is" if i % 2 else "no it is not"} for i in range(200)]
    (root / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = made(root / "runs", tiny_in, "pretrain.steps=60", "optimizer.learning_rate=0.01")
    return restore(train(config, partial(evaluate, config)), "latest", ONE)


@pytest.fixture(scope="module")
def saved(run):
    return json.loads((run.path / "evaluation" / "step_000006.json").read_text())


@pytest.fixture(scope="module")
def prompts(run):
    return run.held_out_prompts()


def settings(run, **changes):
    return replace(run.setup.config.evaluation, **changes)


@pytest.fixture(scope="module", params=["policy", "reference"])
def looked_at(run, request):
    """A model's name and its completions in the run's own evaluation."""
    other = {"policy": run.reference, "reference": run.policy}[request.param]
    look = look_at(run, run.held_out_prompts(), settings(run), task=run.setup.task)
    return request.param, look(getattr(run, request.param), (other,))


def test_figures_are_those_of_a_loop_over_the_completions(run, prompts, saved, looked_at):
    name, of = looked_at
    texts, count = of.completions, len(of.completions) // 2
    targets = [prompts.rows["target"][i] for i in range(count) for _ in range(2)]
    right, f1 = exact_text([], texts, targets), token_f1([], texts, targets)
    metrics = {key: saved["metrics"][evaluation.of_model(name, f"task/{key}")] for key in
               ("exact_match", "token_f1", "best_of_2_token_f1", "best_of_2_exact_match", "exact_match_pass_2")}  # fmt: skip
    assert metrics["exact_match"] == pytest.approx(np.mean(right))
    assert metrics["token_f1"] == pytest.approx(np.mean(f1))
    pairs = [(f1[i], right[i], f1[i + 1], right[i + 1]) for i in range(0, len(f1), 2)]
    best = [(a, b) if a >= c else (c, d) for a, b, c, d in pairs]  # the reward is F1
    assert metrics["best_of_2_token_f1"] == pytest.approx(np.mean([a for a, _ in best]))
    assert metrics["best_of_2_exact_match"] == pytest.approx(np.mean([b for _, b in best]))
    assert metrics["exact_match_pass_2"] == pytest.approx(np.mean([b or d for _, b, _, d in pairs]))
    assert 0 < metrics["token_f1"] < metrics["best_of_2_token_f1"] < 1
    assert [one[name] for one in saved["samples"]] == texts[::2]


def test_intervals_are_over_prompts(run, prompts, saved, looked_at):
    name, of = looked_at
    ids = evaluation._prompt_ids(prompts, len(of.completions) // 2)
    groups = np.repeat(numbered(ids), 2)
    expected = bootstrap_means({"f1": of.reward}, groups, resamples=40, seed=0)["f1"]
    key = evaluation.of_model(name, "task/token_f1")
    found = [saved["metrics"][f"{key}_{end}"] for end in ("se", "low", "high")]
    assert found == pytest.approx([expected.se, expected.low, expected.high])


@nnx.jit
def forward(model, tokens, mask):
    return model.logits(model(tokens, positions_of(mask), causal_mask(mask))[0])


def whole_logits(model, rows, width):
    """Of rows of tokens, padded on the right, in one pass without any cache."""
    mask = jnp.arange(width) < jnp.array([len(row) for row in rows])[:, None]
    tokens = jnp.array([row + [0] * (width - len(row)) for row in rows])
    return np.asarray(forward(model, tokens, mask), np.float64)


def argmax(run, params, prompts, count, steps):
    """The likeliest token at each place, by whole forward passes over what there is so far."""
    model, ends = nnx.merge(run.setup.architecture.graphdef, params), set(run.setup.generation.ends)
    written = [[] for _ in range(count)]
    rows = [prompts.tokens[i][prompts.mask[i]].tolist() for i in range(count)]
    for _ in range(steps):
        whole = [row + more for row, more in zip(rows, written, strict=True)]
        for i, logits in enumerate(whole_logits(model, whole, max(map(len, rows)) + steps)):
            if not written[i] or written[i][-1] not in ends:
                written[i].append(int(logits[len(whole[i]) - 1].argmax()))
    return [[token for token in one if token not in ends] for one in written]


def test_greedy_figures_are_those_of_the_likeliest_tokens(run, prompts, saved):
    count = saved["of"]["prompts"]
    for name in ("policy", "reference"):
        tokens = argmax(run, getattr(run, name), prompts, count, run.setup.config.rollout.max_new_tokens)
        texts = tokenizers.decode(run.setup.tokenizer, tokens)
        expected = np.mean(token_f1([], texts, prompts.rows["target"][:count]))
        assert saved["metrics"][evaluation.of_model(name, "task/greedy_token_f1")] == pytest.approx(expected)


def test_greedy_figures_do_not_depend_on_noise(run):
    """Tokens in pairs that are always equally likely, as they often are in bfloat16."""
    size = run.setup.vocab_size
    pairs = np.arange(size) // 2 * 2
    alike = jax.tree.map(lambda leaf: leaf[pairs] if leaf.shape[:1] == (size,) else leaf, run.policy)
    said = [evaluation.evaluate(replace(run, policy=alike), settings(run, prompts=8, seed=seed)).metrics for seed in (0, 1)]
    figures = [{name: value for name, value in of.items() if name.startswith("task/greedy_")} for of in said]
    assert figures[0] == figures[1] and said[0]["task/token_f1"] != said[1]["task/token_f1"]


def nats_by_hand(run, params, rows, answers):
    """−log p of each answer and its end, from whole logits in float64."""
    model, end = nnx.merge(run.setup.architecture.graphdef, params), run.setup.generation.ends[0]
    told = [[*tokens, end] for tokens in tokenizers.encode(run.setup.tokenizer, answers)]
    logits, found = whole_logits(model, [[*asked, *tokens] for asked, tokens in zip(rows, told, strict=True)], 80), []
    for of, asked, tokens in zip(logits, rows, told, strict=True):
        logp = of - np.log(np.exp(of).sum(axis=-1, keepdims=True))
        found.append((-sum(logp[len(asked) - 1 + i, token] for i, token in enumerate(tokens)), len(tokens)))
    return np.array(found)


def test_nats_of_answers_are_those_of_whole_logits(run, prompts):
    few = replace(prompts, tokens=prompts.tokens[:5], mask=prompts.mask[:5], rows=prompts.rows.select(range(5)))
    answers = [*few.rows["target"][:]]
    lacking = few.rows.remove_columns("target").add_column("target", [answers[0], None, *answers[2:]])  # pyright: ignore
    found, notes = nats_of_answers(run, replace(few, rows=lacking), {"policy": run.policy}, [*"abcde"])
    rows = [few.tokens[i][few.mask[i]].tolist() for i in (0, 2, 3, 4)]
    nats, tokens = nats_by_hand(run, run.policy, rows, [answers[i] for i in (0, 2, 3, 4)]).T
    assert found["policy"]["answers/nats_seq"] == pytest.approx(nats.mean(), rel=1e-5)
    assert found["policy"]["answers/nats_tok"] == pytest.approx(nats.sum() / tokens.sum(), rel=1e-5)
    assert found["policy"]["answers/nats_seq_se"] == pytest.approx(nats.std(ddof=1) / 2, rel=1e-5)
    assert notes == [
        f"answers/… is of 4 of 5 prompts: others have no answer, or one for which the context of {run.setup.decoder.context} "
        "tokens has no room."
    ]
    none = few.rows.remove_columns("target").add_column("target", [None] * 5)  # pyright: ignore
    assert nats_of_answers(run, replace(few, rows=none), {"policy": run.policy}, [*"abcde"]) == ({}, [])


def test_looks_while_it_trains_say_what_its_evaluation_says(run, saved):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    last = {key.removeprefix("held_out/"): value for key, value in lines[-1].items() if key.startswith("held_out/task/")}
    figures = {key: value for key, value in last.items() if not key.endswith("_se")}
    assert {*figures} == {"task/exact_match", "task/token_f1"}
    assert figures == {key: pytest.approx(saved["metrics"][key]) for key in figures}


def but_time(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.fixture(scope="module")
def again(run):
    return evaluation.evaluate(run, settings(run))


def test_an_analysis_is_the_runs_own_evaluation(again, saved):
    assert but_time(again.metrics) == but_time(saved["metrics"])
    assert all(len({*entry} & {"task/exact_match", "task/token_f1"}) == 2 for entry in again.by_prompt)


def test_sharded_figures_are_those_of_one_device(run, again):
    wide = restore(run.path, "latest", MeshConfig(data=2, fsdp=2, tensor=2))
    found = evaluation.evaluate(wide, settings(run))
    assert [one["policy"] for one in found.samples] == [one["policy"] for one in again.samples]
    ours = [name for name in again.metrics if name.startswith(("task/", "answers/"))]
    assert len(ours) > 60
    for name in ours:
        assert found.metrics[name] == pytest.approx(again.metrics[name], rel=1e-4, abs=1e-6), name


def test_readings_are_those_that_are_asked_for(run, again):
    """Greedy alone: nothing of samples; one sample: nothing to choose from, which is said."""
    greedy, readings = read_as(run, ["greedy"], 2)
    assert readings == ["greedy"]
    found = evaluation.evaluate(greedy, settings(run))
    names = [name for name in found.metrics if name.startswith("task/")]
    assert names and all(name.startswith(("task/greedy_", "task/reference_greedy_")) for name in names)
    assert {name: found.metrics[name] for name in names} == {name: again.metrics[name] for name in names}
    assert not any(name.startswith("task/") for entry in found.by_prompt for name in entry)
    one = evaluation.evaluate(run, settings(run, samples=1))
    assert not any("best_of" in name or "_pass_" in name for name in one.metrics)
    assert "task.readings: best_of_n is left out: with evaluation.samples=1 there is nothing to choose from." in one.notes
    assert not any("best_of_n" in note for note in again.notes)
    unknown = evaluation.evaluate(run, settings(run), {"task": "it is not wanted."})
    assert "task/token_f1" in unknown.metrics and not any("best_of" in name for name in unknown.metrics)
    assert "task.readings: best_of_n is left out: a part of the reward, which chooses, is, too." in unknown.notes


def test_signatures_stand_beside_sacrebleus_figures(run):
    arguments = {"source": "question", "target": "answer", "prompt": "{text}", "tokenize": "13a"}
    task = replace(run.setup.config.task, function="translation", arguments=arguments, readings=["sampled"])
    other = replace(run, setup=replace(run.setup, config=replace(run.setup.config, task=task)))
    found = evaluation.evaluate(other, settings(run))
    assert {"task/bleu", "task/chrf"} <= found.metrics.keys()
    for one in (corpus.bleu(), corpus.chrf()):
        assert f"sacrebleu's signature: {one.signature}" in found.notes


def test_an_analysis_with_other_readings_lies_beside_the_runs_own(run, again):
    assert read_as(run, None, 2) == (run, []) and read_as(run, ["best_of_n", "greedy", "sampled", "greedy"], 2) == (run, [])
    _, readings = read_as(run, ["greedy", "sampled"], 2)
    file = evaluation_files.save_analysis(again, run.path, settings(run), readings)
    assert file.name == "step_000006_readings-sampled+greedy.json"
    own, other = evaluation_files.load_all(run.path)
    assert other["settings"] == own["settings"]  # frontier and judges may take either: reward, KLs and samples are the same
    file.unlink()


def test_readings_without_a_tasks_figures_are_refused(run):
    def having(task, **changes):
        return replace(run, setup=replace(run.setup, config=replace(run.setup.config, task=task), **changes))

    with pytest.raises(UserError, match=r"readings: this run has no task"):
        read_as(having(NoTask(kind="none")), ["greedy"], 2)
    with pytest.raises(UserError, match=r"readings: got best_of_n alone, but with one sample a prompt"):
        read_as(run, ["best_of_n"], 1)
    own = replace(run.setup.config.task, function="mine.TASK")
    with pytest.raises(UserError, match=r"code of its own, task\.function=mine\.TASK, which .* with rewards=custom alone"):
        read_as(having(own, imports=False), ["greedy"], 2)


def test_the_table_has_every_figure_in_80_columns(run, again, monkeypatch, capsys):
    monkeypatch.setattr(tables, "console", Console(width=80))
    tables.show_evaluation(again, run.path)
    shown = capsys.readouterr().out
    for label in (
        "exact_match",
        "token_f1, greedy",
        "token_f1, best of 2",
        "exact_match, pass@2",
        "−log p(right answer), nats/seq",
    ):
        assert label in shown
    assert "[from, to] is one by bootstrap over prompts" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line.startswith(("│", "┃")))
    assert "…" not in "".join(line for line in shown.splitlines() if line.startswith("│"))


def test_a_card_has_the_figures(run, saved):
    page = card.of_run(run.path, run.setup.config, 6, run.beta, None)
    metrics = saved["metrics"]
    ours, theirs = (f"{metrics[name]:.4g} ± {metrics[f'{name}_se']:.2g}" for name in
                    ("task/greedy_token_f1", "task/reference_greedy_token_f1"))  # fmt: skip
    assert f"| token\\_f1, greedy | {ours} | {theirs} |" in page


def test_a_fit_is_looked_at_by_its_task(run, tiny_in):
    path = ensure_base(prepare(run.setup.config))
    fit = restore(path, "latest", ONE)
    without = evaluation.left_out(fit, custom=False)
    assert not without
    found = evaluation.evaluate(fit, settings(run), without).metrics
    answers = "answers/nats_seq", "answers/reference_nats_seq"
    assert found[answers[0]] < found[answers[1]] - 3  # than that of random weights
    assert "task/greedy_token_f1" in found and "task/reference_best_of_2_exact_match" in found


def test_another_task_is_another_run(run, tiny_in):
    root = run.path.parents[1]
    for override in ("task.arguments.prompt='Say: {text}'", "task.readings=[greedy]"):
        with pytest.raises(UserError, match=f"belongs to another config: {override.partition('=')[0]} is"):
            train(made(root, tiny_in, "pretrain.steps=60", "optimizer.learning_rate=0.01", override))


def test_a_config_of_before_there_were_tasks_is_that_of_no_task(tiny, tmp_path):
    """Its run is resumed, and known by the same name; with a task it would be another one."""
    values = to_dict(tiny())
    old = {key: value for key, value in values.items() if key != "task"}
    assert without_defaults(values) == without_defaults(old) and validate(old, Config) == tiny()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    check_owner(tmp_path, values)
    with pytest.raises(UserError, match=r"task\.kind is 'none' there, 'text' here"):
        check_owner(tmp_path, values | {"task": {"kind": "text"}})


def test_labels_are_of_the_policys_figures_alone():
    names = ["task/x", "task/x_se", "task/reference_x", "task/base_x", "task/best_of_4_x", "task/x_pass_4", "reward/mean",
             "answers/nats_tok", "answers/base_nats_tok", "task/recall/not good"]  # fmt: skip
    assert labels_of(dict.fromkeys(names, 0.0)) == {
        "task/x": "x",
        "task/best_of_4_x": "x, best of 4",
        "task/x_pass_4": "x, pass@4",
        "answers/nats_tok": "−log p(right answer), nats/tok",
        "task/recall/not good": "recall/not good",
    }


def test_conversations_have_a_task_and_a_system_message(tiny_in, tmp_path):
    """A model of Hugging Face's with a chat template, as it is."""
    fixtures.write_models(tmp_path)
    chat = ["data/prompt=chat", "data.prompt.system=Be short.", "data.prompt.max_tokens=60", "data.prompt.too_long=drop"]
    small = ["model=huggingface", f"model.path={tmp_path / fixtures.MODEL}", "tokenizer=pretrained"]
    task = ["task=words", "data/source=questions", "data.source.largest=1", "reward=task", "pretrain/objective=target"]
    own = [one for one in tiny_in(tmp_path / "runs") if not one.startswith(("model.", "data.source"))]
    more = ["pretrain.steps=0", "tokenizer.path=${model.path}", "steps=1", "optimizer.warmup_steps=0", "evaluation.prompts=5"]
    found = restore(train(compose([*own, *chat, *small, *task, *more], Config)), "latest", ONE)
    prompts = found.held_out_prompts()
    text = found.setup.tokenizer.decode(prompts.tokens[0][prompts.mask[0]])
    assert "Be short." in text and f"Answer in a few words. {prompts.rows['question'][0]}" in text
    result = evaluation.evaluate(found, settings(found))
    assert [one["prompt"] for one in result.samples] == prompts.rows["prompt"][:5]  # as people, judges among them, read it
    metrics = result.metrics
    rows = [prompts.tokens[i][prompts.mask[i]].tolist() for i in range(5)]
    nats = nats_by_hand(found, found.policy, rows, prompts.rows["target"][:5])
    assert metrics["answers/nats_seq"] == pytest.approx(nats[:, 0].mean(), rel=1e-4)
    assert {"task/exact_match", "task/reference_greedy_token_f1"} <= {*metrics}
