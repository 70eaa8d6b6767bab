"""Answers to prompts: the loss against whole logits, the prompt that is not learned, and a fit that answers."""

import json
from dataclasses import replace

import datasets
import jax
import numpy as np
import pytest
from flax import nnx

from kljax.config import ChatPrompt, TextTask
from kljax.data.answered import end_of_answer
from kljax.data.tokenizers import chat_tokens
from kljax.errors import UserError
from kljax.fitting import objectives
from kljax.fitting.fit import ensure_base, read_result
from kljax.fitting.targets import answered_rows
from kljax.models.decoder import causal_mask, positions_of
from kljax.runs.setup import base_path, prepare
from tests.data.test_chats import EOT, TEMPLATE, chatty
from tests.fitting.test_fit import check_resumption, metrics_of

OPPOSITE = {"up": "down", "hot": "cold", "old": "new", "far": "near"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions with answers of one word or two."""
    words = [word for pair in OPPOSITE.items() for word in pair]
    rows = [{"text": f"not {a} but {i % 2 * 'very '}".strip(), "target": f"{i % 2 * 'quite '}{b}"} for i, (a, b) in
            enumerate(list(OPPOSITE.items()) * 50)]  # fmt: skip
    rows += [{"text": " ".join([*words, "not", "but", "very", "quite"]), "target": None}]
    file = tmp_path_factory.mktemp("answers") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def make(toy, data):
    def make(*overrides):
        whole = ["data/prompt=whole", "data.prompt.max_tokens=14", "rollout.max_new_tokens=4", f"data.source.path={data}"]
        words = "tokenizer=words" in overrides
        bpe = [] if words else ["tokenizer=bpe", "tokenizer.vocab_size=300"]
        column = ["data.source.column=text", *bpe, "pretrain.length=40"]
        return prepare(toy("target", *whole, *column, "data.prompt.max_tokens=40", *overrides, model="gpt2"))

    return make


@pytest.fixture(scope="module")
def setup(make):
    return make()


def test_the_loss_is_that_of_the_answers_tokens_alone(setup):
    objective = objectives.build(setup)
    rows, params = objective.batch(0), objective.architecture.init(0)
    model = nnx.merge(objective.architecture.graphdef, params)
    on_device = jax.tree.map(jax.numpy.asarray, rows)
    hidden, _ = model(on_device.tokens, positions_of(on_device.mask), causal_mask(on_device.mask))
    logits = np.asarray(model.logits(hidden), np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nats = 0.0
    for row, answer, of in zip(rows.tokens, rows.answer, logp, strict=True):
        nats -= sum(of[place - 1, row[place]] for place in np.flatnonzero(answer))
    assert objective.loss(model, on_device, None) == pytest.approx(nats / rows.answer.sum(), rel=1e-5)
    figures = objective.figures(np.asarray(objective.outputs(model, on_device)), rows)
    assert figures["nats_tok"] == pytest.approx(nats / rows.answer.sum(), rel=1e-5)
    assert figures["nats_seq"] == pytest.approx(nats / len(rows.tokens), rel=1e-5)


def test_an_answer_is_what_follows_the_prompt_of_rl_and_ends_as_a_completion_does(setup):
    rows = answered_rows(setup, setup.splits.train, "training")
    prompts = setup._prompts(setup.splits.train, "prompts")
    targets = [(i, text) for i, text in enumerate(setup.splits.train["target"]) if text is not None]
    assert len(rows.tokens) == len(targets)
    for (i, text), tokens, mask, answer in zip(targets, rows.tokens, rows.mask, rows.answer, strict=True):
        asked = prompts.tokens[i][prompts.mask[i]].tolist()
        assert tokens[mask & ~answer].tolist() == asked
        *written, end = tokens[answer].tolist()
        assert setup.tokenizer.decode(written) == text
        assert end == setup.generation.ends[0]


def test_what_is_left_out_is_said(make, capsys):
    setup = make("pretrain.length=7", "data.held_out_fraction=0.02")
    objectives.build(setup)
    said = " ".join(capsys.readouterr().out.split())
    assert "training rows have more than 7 tokens and are left out" in said
    assert "pretrain.objective.column: 1 of 197 training rows have no answer and are left out" in said


def test_a_fit_answers_and_its_policy_can_be_trained(make):
    setup = make("pretrain.steps=150", "pretrain.optimizer.learning_rate=0.01", "model.d_model=32", "pretrain.eval_every=50")
    path = ensure_base(setup)
    assert read_result(path)["held_out_nats_tok"] < 0.1
    assert (path / "model.json").exists()


def test_other_prompts_make_another_fit(make):
    assert base_path(make()) != base_path(make("data.prompt.max_tokens=38"))


def test_another_end_or_chat_template_makes_another_fit(make):
    setup = make()
    ended = replace(setup, generation=replace(setup.generation, ends=(1, 3)))
    assert base_path(ended) != base_path(setup)
    chats = [chatting(setup, chatty(template)) for template in (TEMPLATE, TEMPLATE.replace("<|head|>", "<|begin|>"))]
    assert base_path(chats[0]) != base_path(chats[1])


def test_answers_of_a_task_make_another_fit_than_those_of_the_same_conversations(setup):
    """With column=null a task's target is the answer, without one the end of each conversation: of the very same rows."""
    pretrain = replace(setup.config.pretrain, objective=replace(setup.config.pretrain.objective, column=None))
    plain = replace(setup.config, pretrain=pretrain)
    task = TextTask(kind="text", function="words", arguments={}, readings=["sampled"], resamples=1, seed=0)
    paths = [base_path(replace(setup, config=config)) for config in (plain, replace(plain, task=task))]
    assert paths[0] != paths[1]
    named = [base_path(replace(setup, config=replace(setup.config, task=of))) for of in (setup.config.task, task)]
    assert named[0] == named[1]  # a column that is named is the same answers, whoever has made it


def chatting(setup, tokenizer, ends=(1, EOT)):
    """The same with chats in this tokenizer's template, completions of which end with these tokens."""
    prompt = ChatPrompt(kind="chat", system=None, message="{text}", words=None, max_tokens=60)
    config = replace(setup.config, data=replace(setup.config.data, prompt=prompt))
    config = replace(config, pretrain=replace(config.pretrain, length=80))
    return replace(setup, config=config, tokenizer=tokenizer, generation=replace(setup.generation, ends=ends))


@pytest.mark.parametrize(
    ("template", "ends", "closes"),
    [
        (TEMPLATE, (1, EOT), EOT),  # Llama 3's: the tokenizer's own end is that of a text
        (TEMPLATE, (1,), 1),
        (TEMPLATE, (2, EOT), EOT),
        (TEMPLATE.replace("<|eot|>", ""), (0, 1), 1),
        ("{{ raise_exception('a system message first') if messages[0].role != 'system' }}", (0, 1), 1),
    ],
)
def test_an_answer_ends_with_the_token_that_the_template_closes_one_with(setup, template, ends, closes):
    """Of several that end a completion."""
    chats = chatting(setup, chatty(template), ends)
    if "raise_exception" in template:
        assert end_of_answer(chats.tokenizer, ends, in_template=True) == closes
        return
    rows = answered_rows(
        chats, datasets.Dataset.from_dict({"text": ["a text", "words"], "target": ["other words", "a"]}), "training"
    )
    assert {int(tokens[answer][-1]) for tokens, answer in zip(rows.tokens, rows.answer, strict=True)} == {closes}


def test_a_conversations_answer_is_what_its_template_makes_of_it(setup):
    """Prompt, answer and end are the template's own tokens of the whole conversation; those without an answer are left out."""
    asked = [{"role": "user", "content": "a text"}]
    whole = [*asked, {"role": "assistant", "content": "other words"}]
    chats = chatting(setup, tokenizer := chatty())
    chats = replace(chats, loaded=replace(setup.splits, column="messages"))
    pretrain = chats.config.pretrain
    objective = replace(pretrain.objective, column=None)
    chats = replace(chats, config=replace(chats.config, pretrain=replace(pretrain, objective=objective)))
    rows = answered_rows(chats, datasets.Dataset.from_dict({"messages": [whole, asked]}), "training")
    expected = chat_tokens(tokenizer, whole, begin_answer=False)
    assert rows.tokens[rows.mask].tolist() == expected
    assert tokenizer.decode(rows.tokens[rows.answer]) == "other words<|eot|>"
    with pytest.raises(UserError, match=r"^pretrain.objective.column: no training row has an answer"):
        answered_rows(chats, datasets.Dataset.from_dict({"messages": [asked]}), "training")


def test_a_tokenizer_of_words_knows_the_answers(make):
    setup = make("tokenizer=words")
    rows = answered_rows(setup, setup.splits.train, "training")
    assert {"down", "quite"} <= {setup.tokenizer.decode([token]) for token in rows.tokens[rows.answer]}


def test_an_interrupted_fit_goes_on_bit_for_bit(make, monkeypatch):
    noisy = ["model.dropout=0.2", "pretrain.steps=12", "pretrain.eval_every=4", "pretrain.train_rows=8"]
    whole, setup = make(*noisy), make(*noisy)
    check_resumption(whole, setup, monkeypatch)
    assert all("fit/train_rows_nats_tok" in line for line in metrics_of(base_path(setup)))


WRONG = {
    "data.prompt: got prefix": ["data/prompt=prefix", "data.prompt.max_tokens=8"],
    "rows have no column 'targt'; they have: text, target. Did you mean 'target'?": ["pretrain.objective.column=targt"],
    "got null, which is for conversations": ["pretrain.objective.column=null"],
    "no training row has at most 2 tokens, its prompt and its answer together": ["pretrain.length=2"],
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_is_one_sentence(make, said):
    with pytest.raises(UserError) as error:
        objectives.build(make(*WRONG[said]))
    assert said in str(error.value)
