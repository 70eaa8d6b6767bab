"""Every objective is learnt from a task of seconds, by an encoder and by a decoder; its loss and its figures have oracles."""

from dataclasses import replace
from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.config import HuggingFaceModel
from kljax.config.pretrain import Watched
from kljax.data import tokenizers
from kljax.data.labelled import take
from kljax.errors import UserError
from kljax.fitting import fit as fitting
from kljax.fitting import masked_tokens, objectives
from kljax.fitting import metrics as supervised_metrics
from kljax.fitting.fit import ensure_base, read_result
from kljax.fitting.masked_tokens import hide
from kljax.fitting.objective import in_units
from kljax.fitting.objectives import OBJECTIVES
from kljax.fitting.text_objectives import bradley_terry
from kljax.models.huggingface import models as huggingface
from kljax.runs.setup import base_path, make_setup, prepare

LEARNT = [
    # objective, model, a figure, and what it has to reach
    ("classification", "bert", "accuracy", 0.95),
    ("classification", "gpt2", "accuracy", 0.95),
    ("regression", "gpt2", "pearson", 0.9),
    ("preference", "bert", "agreement", 0.9),
    ("rated_pairs", "bert", "agreement", 0.7),
]
READING = ["classification", "regression", "preference", "rated_pairs"]


@pytest.fixture(scope="module")
def fitted(toy):
    """fitted(objective, model): the task of a finished fit, of which test rows were looked at."""

    @cache
    def fit(objective, model="bert"):
        setup = prepare(toy(objective, toy.test_rows, model=model))
        ensure_base(setup)
        return setup

    return fit


def result_of(setup):
    return read_result(base_path(setup))


def masked(setup):
    """The same with a tokenizer that has a mask token."""
    tokenizer = tokenizers.build(setup.config.tokenizer, setup.splits.train["text"], tokenizers.SPECIAL | tokenizers.MASK)
    return make_setup(setup.config, setup.mesh, setup.splits, tokenizer, setup.pretrained)


@pytest.mark.parametrize(("objective", "model", "figure", "enough"), LEARNT)
def test_what_can_be_learnt_is_learnt(fitted, objective, model, figure, enough):
    """Held out and on rows of a file that no step has seen."""
    result = result_of(fitted(objective, model))
    assert result[f"held_out_{figure}"] >= enough
    assert result[f"test/{figure}"] >= enough


def saved(setup):
    """The Hugging Face directory of a fit: what it says of itself, and its outputs for texts."""
    described = huggingface.describe(source(base_path(setup) / "huggingface"))
    arch = objectives.build(setup).architecture
    params = huggingface.load_params(described, "classifier", arch.shapes, arch.shardings)
    outputs = jax.jit(lambda texts: nnx.merge(arch.graphdef, params)(texts.tokens, texts.mask))
    return described, lambda texts: np.asarray(outputs(texts))


def on_device(rows):
    return jax.tree.map(jnp.asarray, rows)


def source(path):
    dtypes = {"dtype": "float32", "param_dtype": "float32"}
    return HuggingFaceModel(
        kind="huggingface", path=str(path), context=None, dropout=0.0, **dtypes, remat="none", logit_chunk=16, vocab_chunk=None
    )


def test_a_saved_classifier_names_its_classes_and_gives_the_same_figures(fitted):
    setup = fitted("classification")
    described, outputs = saved(setup)
    assert described.labels == ("neg", "pos")
    rows = objectives.build(setup).test
    figures = supervised_metrics.classification(outputs(rows.texts), rows.label)
    assert figures["accuracy"] == result_of(setup)["test/accuracy"]
    assert figures["loss"] == pytest.approx(result_of(setup)["test/loss"], rel=1e-4)
    assert result_of(setup)["labels"] == ["neg", "pos"]
    matrix = np.array(result_of(setup)["test/confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [setup.splits.test["label"][:].count(label) for label in ("neg", "pos")]


def test_a_saved_regression_gives_ratings_in_their_own_units(fitted):
    """A decoder's head has no bias, so its scores lack a constant, which the result says."""
    setup = fitted("regression", "gpt2")
    described, outputs = saved(setup)
    assert (described.outputs, described.labels) == (1, ("score",))
    result, ratings = result_of(setup), np.array(setup.splits.test["rating"][:])
    predicted = outputs(objectives.build(setup).test.texts)[:, 0] + result["rating_minus_score"]
    assert np.sqrt(np.mean((predicted - ratings) ** 2)) == pytest.approx(result["test/rmse"], rel=1e-4)
    assert result["test/rmse"] < 0.5 * ratings.std()
    known = np.array(setup.splits.train["rating"][:])
    assert (result["rating_mean"], result["rating_deviation"]) == pytest.approx((known.mean(), known.std()))
    assert result["rating_minus_score"] == result["rating_mean"]


def test_an_encoder_holds_the_ratings_mean_in_its_bias(toy):
    setup = prepare(toy("regression"))
    made = objectives.build(setup)
    params = made.architecture.init(0)
    mean, deviation = made.units[1], made.units[0]
    rows = on_device(made.held_out)
    plain, moved = (
        np.asarray(made.outputs(nnx.merge(made.architecture.graphdef, p), rows))
        for p in (params, in_units(params, *made.units))
    )
    np.testing.assert_allclose(moved, mean + deviation * plain, rtol=1e-4)
    assert made.summary(plain)["rating_minus_score"] == 0
    back = in_units(in_units(params, *made.units), 1 / deviation, -mean / deviation)
    np.testing.assert_allclose(back["out"]["kernel"], params["out"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(back["out"]["bias"], params["out"]["bias"], atol=1e-6)


def test_bradley_terry_has_the_value_and_the_gradient_of_its_formula():
    scores = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    value, gradient = jax.value_and_grad(bradley_terry)(jnp.asarray(scores))
    difference = (scores[:, 0] - scores[:, 1]).astype(np.float64)
    chance = 1 / (1 + np.exp(-difference))
    assert value == pytest.approx(-np.log(chance).mean(), rel=1e-5)
    expected = (1 - chance)[:, None] * np.array([-1, 1]) / len(scores)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


@pytest.mark.parametrize("objective", READING)
def test_a_loss_is_the_figure_of_that_name(toy, objective):
    """What is minimised on a batch, without dropout, is what is reported of the same rows."""
    setup = prepare(toy(objective))
    made = objectives.build(setup)
    rows = take(made.held_out, np.arange(16))
    params = made.architecture.init(3)

    @jax.jit
    def both(rows):
        model = nnx.merge(made.architecture.graphdef, params)
        return made.loss(model, rows, jax.random.key(0)), made.outputs(model, rows)

    loss, outputs = both(rows)
    assert loss == pytest.approx(made.figures(np.asarray(outputs), rows)["loss"], rel=1e-5)


def test_pairs_are_drawn_anew_each_step_and_the_held_out_ones_once(toy):
    first, second = (objectives.build(prepare(toy("rated_pairs"))) for _ in range(2))
    np.testing.assert_array_equal(first.held_out.tokens, second.held_out.tokens)
    np.testing.assert_array_equal(first.batch(7).tokens, second.batch(7).tokens)
    epoch = len(prepare(toy("rated_pairs")).splits.train) // 16
    assert (first.batch(0).tokens != first.batch(epoch).tokens).any()


def test_augmentation_reaches_training_rows_only(toy):
    plain, noisy = (
        objectives.build(prepare(toy("classification", *noise))) for noise in ([], ["pretrain.augmentation.swap=0.5"])
    )
    np.testing.assert_array_equal(plain.held_out.texts.tokens, noisy.held_out.texts.tokens)
    a, b = plain.batch(0).texts, noisy.batch(0).texts
    assert (a.tokens != b.tokens).any()
    np.testing.assert_array_equal(np.sort(a.tokens, axis=1), np.sort(b.tokens, axis=1))


@pytest.fixture(scope="module")
def recipe():
    """Twenty words, of which none is special: 5 tokens are."""
    is_word = np.arange(25) >= 5
    return masked_tokens.Recipe(0.15, 4, np.flatnonzero(is_word).astype(np.int32), is_word)


def hidden(recipe, key=0, rows=4000):
    """Rows of [special, 20 words, special, padding that looks like a word]."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 25, (rows, 23)).astype(np.int32)
    tokens[:, 0], tokens[:, 21] = 1, 2
    mask = np.arange(23) < np.full((rows, 1), 22)
    return jax.tree.map(np.asarray, hide(jax.random.key(key), jnp.asarray(tokens), jnp.asarray(mask), recipe))


def test_fifteen_percent_are_chosen_of_which_most_are_masked(recipe):
    rows = hidden(recipe)
    words = rows.target[:, 1:21]
    assert abs(rows.chosen.sum() / words.size - 0.15) < 4 * np.sqrt(0.15 * 0.85 / words.size)
    seen, was = rows.tokens[rows.chosen], rows.target[rows.chosen]
    kept = (seen == was).mean()
    shares = {"masked": (0.8, (seen == 4).mean()), "kept": (0.1 + 0.1 / 20, kept)}  # one in twenty is replaced by itself
    for expected, counted in shares.values():
        assert abs(counted - expected) < 4 * np.sqrt(expected * (1 - expected) / len(seen))
    replaced = seen[(seen != 4) & (seen != was)]
    assert set(replaced) == set(range(5, 25)), "any word may stand in, and nothing special"


def test_what_is_special_or_padding_is_never_chosen_and_the_rest_stays(recipe):
    rows = hidden(recipe)
    assert not rows.chosen[:, [0, 21, 22]].any()
    np.testing.assert_array_equal(rows.tokens[~rows.chosen], rows.target[~rows.chosen])


def test_the_choice_is_the_keys(recipe):
    np.testing.assert_array_equal(hidden(recipe).chosen, hidden(recipe).chosen)
    assert (hidden(recipe).chosen != hidden(recipe, key=1).chosen).any()


def test_hidden_words_are_learnt_and_scored_like_a_loop(toy):
    """Nats and accuracy of the fitted model's held-out rows from its whole logits, place by place."""
    setup = masked(prepare(toy("masked_token", toy.echoes, "pretrain.watch=accuracy", "pretrain.steps=200")))
    ensure_base(setup)
    made, result = objectives.build(setup), result_of(setup)
    arch = made.architecture
    params = fitting.load_fitted(base_path(setup), arch.shapes, arch.shardings)
    model, rows = nnx.merge(arch.graphdef, params), on_device(made.held_out)
    logp = np.asarray(jax.nn.log_softmax(model.logits(model.body(rows.tokens, rows.mask))))
    places = [(i, j, made.held_out.target[i, j]) for i, j in np.argwhere(made.held_out.chosen)]
    assert result["held_out_loss"] == pytest.approx(-np.mean([logp[place] for place in places]), rel=1e-4)
    assert result["held_out_accuracy"] == pytest.approx(np.mean([logp[i, j].argmax() == word for i, j, word in places]))
    assert result["held_out_accuracy"] >= 0.8
    assert huggingface.describe(source(base_path(setup) / "huggingface")).outputs == 0


def test_held_out_words_are_hidden_once_for_all(toy):
    first, second = (objectives.build(masked(prepare(toy("masked_token")))).held_out for _ in range(2))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.chosen, second.chosen)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "next_token"])
def test_a_figure_that_an_objective_does_not_have_is_refused_with_those_it_has(toy, objective):
    known = OBJECTIVES[objective].watch
    setup = prepare(toy(objective, model="gpt2"))
    for watch in set(get_args(Watched)) - set(known):
        other = replace(setup.config, pretrain=replace(setup.config.pretrain, watch=watch))
        with pytest.raises(UserError, match=f"^pretrain.watch: got {watch}, .*expected {' or '.join(known)}"):
            objectives.build(replace(setup, config=other))


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in ("next_token", "target")])
def test_every_figure_that_can_be_watched_is_there_and_has_an_interval(toy, objective):
    """Of random parameters, and of the first 24 training rows as of the held-out ones: the loss's rows without noise."""
    setup = prepare(toy(objective, "pretrain.augmentation.delete=0.3" if objective != "masked_token" else "seed=0"))
    made = objectives.build(masked(setup) if objective == "masked_token" else setup)
    model = nnx.merge(made.architecture.graphdef, made.architecture.init(3))
    outputs = jax.jit(lambda rows: made.outputs(model, rows))
    for rows in (take(made.held_out, np.arange(24)), made.train(24)):
        figures = made.figures(of := np.asarray(outputs(rows)), rows)
        drawn = made.resampled(of, rows, np.ones((1, 24)))
        assert set(OBJECTIVES[objective].watch) <= figures.keys()
        assert drawn.keys() == figures.keys() - {"confusion_matrix"}
        for name, values in drawn.items():
            np.testing.assert_allclose(values[0], figures[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("objective", "model", "override", "sentence"),
    [
        ("masked_token", "gpt2", "seed=0", r"model: got a decoder, .* expected an encoder"),
        ("next_token", "bert", "rollout.max_new_tokens=4", r"model: got an encoder, .* expected a decoder"),
        ("next_token", "gpt2", "pretrain.augmentation.delete=0.1", r"pretrain.augmentation: .* would learn to write the noise"),
        ("target", "gpt2", "pretrain.augmentation.swap=0.1", r"pretrain.augmentation: .* prompts that nobody asks"),
        ("masked_token", "bert", "pretrain.augmentation.mask=0.1", r"pretrain.augmentation: .* has noise of its own"),
        ("classification", "bert", "pretrain.objective.label=lable", r"pretrain.objective.label: .* Did you mean 'label'"),
        ("classification", "bert", "pretrain.objective.label=rating", None),
        ("regression", "bert", "pretrain.objective.label=text", r"pretrain.objective.label: 'text' holds .* a finite number"),
        ("rated_pairs", "bert", "pretrain.objective.margin=100.0", r"pretrain.objective.margin: no two training rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(toy, objective, model, override, sentence):
    setup = prepare(toy(objective, override, model=model))
    if sentence is None:
        assert len(objectives.build(setup).labels) == 6, "whole numbers are classes, too"
        return
    with pytest.raises(UserError, match=f"^{sentence}") as raised:
        objectives.build(setup)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("objective", "override", "sentence"),
    [
        ("masked_token", "seed=0", r"pretrain/objective=masked_token: the tokenizer has no mask token; expected"),
        ("classification", "pretrain.augmentation.mask=0.1", r"pretrain.augmentation.mask: got 0.1, but the tokenizer"),
    ],
)
def test_a_mask_token_is_there_where_a_tokenizer_is_trained_for_it_and_asked_for_elsewhere(toy, objective, override, sentence):
    setup = prepare(toy(objective, override, model="bert"))
    assert setup.tokenizer.mask_token == "<mask>"
    plain = tokenizers.build(setup.config.tokenizer, setup.splits.train["text"])
    with pytest.raises(UserError, match=f"^{sentence}"):
        objectives.build(replace(setup, tokenizer=plain))


def test_a_rating_that_never_varies_is_refused(toy):
    setup = prepare(toy("regression"))
    one = setup.splits.train.filter(lambda row: row["rating"] == setup.splits.train[0]["rating"])
    with pytest.raises(UserError, match=r"^pretrain.objective.label: 'rating' holds .* in every training row"):
        objectives.build(replace(setup, loaded=replace(setup.splits, train=one)))
