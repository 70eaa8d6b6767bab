"""Answers to prompts: the loss against whole logits, the prompt that is not learned, and a fit that answers."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from kljax.errors import UserError
from kljax.fitting import objectives
from kljax.fitting.fit import ensure_base, read_result
from kljax.fitting.targets import answered_rows
from kljax.models.decoder import causal_mask, positions_of
from kljax.runs.setup import base_path, prepare

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
        column = ["data.source.column=text", "tokenizer=bpe", "tokenizer.vocab_size=300", "pretrain.length=40"]
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
    prompts = setup._prompts(setup.splits.train)
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
    setup = make("pretrain.steps=150", "pretrain.optimizer.learning_rate=0.02", "model.d_model=32", "pretrain.eval_every=50")
    path = ensure_base(setup)
    assert read_result(path)["held_out_nats_tok"] < 0.1
    assert (path / "model.json").exists()


def test_other_prompts_make_another_fit(make):
    assert base_path(make()) != base_path(make("data.prompt.max_tokens=38"))


WRONG = {
    "data.prompt: got prefix": ["data/prompt=prefix", "data.prompt.max_tokens=8"],
    "the data have no column 'targt'; they have: text, target. Did you mean 'target'?": ["pretrain.objective.column=targt"],
    "got null, which is for conversations": ["pretrain.objective.column=null"],
    "no training row has an answer and at most 2 tokens": ["pretrain.length=2"],
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_is_one_sentence(make, said):
    with pytest.raises(UserError) as error:
        objectives.build(make(*WRONG[said]))
    assert said in str(error.value)
