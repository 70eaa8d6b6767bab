"""Objectives that read whole texts: their class, their rating, or which of two is better. The last two are reward models."""

from collections.abc import Callable
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from kljax.config import Classification, EncoderConfig, Preference, RatedPairs, Regression
from kljax.data import augmentation, labelled
from kljax.data.labelled import Labelled, Texts, take
from kljax.devices.state import Architecture, architecture
from kljax.errors import UserError
from kljax.fitting import metrics as supervised_metrics
from kljax.fitting import resampled
from kljax.fitting.intervals import Counts
from kljax.fitting.metrics import Figures
from kljax.fitting.objective import Objective, each_split, first_of
from kljax.models.classifier import Classifier
from kljax.runs.setup import Setup

LARGEST = 1e18  # of a rating: its square is a float32
PARTNERS, HELD_OUT_PARTNERS = 2, 3  # streams of random numbers beside that of the augmentation


def classification(setup: Setup) -> Objective:
    """Cross-entropy with the classes' names as they are in the data, or in the order in which an imported model has them."""
    config = setup.config.pretrain
    assert isinstance(config.objective, Classification)
    supervised_metrics.require_sklearn()
    column = config.objective.label
    classes = labelled.class_names(setup.splits.train, column, "training")
    if setup.pretrained is not None and set(setup.pretrained.labels) == set(classes):
        classes = setup.pretrained.labels
    _check_as_it_is(setup, "single_label_classification", classes)

    def rows_of(rows: datasets.Dataset, part: str) -> Labelled:
        return Labelled(_whole(setup, rows), labelled.class_indices(rows, column, classes, part))

    def loss(model: Any, rows: Any, key: Key[Array, ""]) -> Array:
        logits = model(rows.texts.tokens, rows.texts.mask, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows.label).mean()

    train, held_out, test = each_split(setup, rows_of)
    return Objective(
        architecture=_classifier(setup, len(classes)),
        batch=_labelled_batches(setup, train),
        train=lambda n: first_of(train, n),
        held_out=held_out,
        test=test,
        loss=loss,
        outputs=lambda model, rows: model(rows.texts.tokens, rows.texts.mask),
        figures=lambda outputs, rows: supervised_metrics.classification(outputs, rows.label),
        resampled=lambda outputs, rows, counts: resampled.classification(outputs, rows.label, counts),
        labels=classes,
    )


def regression(setup: Setup) -> Objective:
    """Squared error, in units of the training ratings' variance: the model is fitted to (rating − mean)/deviation.

    A model that is used as it is gives ratings in their own units already.
    """
    config = setup.config.pretrain
    assert isinstance(config.objective, Regression)
    _check_as_it_is(setup, "regression")
    column = config.objective.label

    def ratings(rows: datasets.Dataset, part: str) -> Float[np.ndarray, "rows"]:
        known = labelled.ratings(rows, column, part)
        if (large := np.flatnonzero(np.abs(known) > LARGEST)).size:
            raise UserError(
                f"pretrain.objective.label: '{column}' holds {known[large[0]]:g} in {part} row {large[0]}, whose square is too "
                f"large for float32; expected numbers up to {LARGEST:g}, such as the same ones divided by a number."
            )
        return known

    known = ratings(setup.splits.train, "training")
    mean, deviation = (float(known.mean()), float(known.std())) if config.steps else (0.0, 1.0)
    if deviation == 0:
        raise UserError(
            f"pretrain.objective.label: '{column}' holds {known[0]:g} in every training row; nothing can be learnt."
        )

    def rows_of(rows: datasets.Dataset, part: str) -> Labelled:
        standard = (ratings(rows, part) - mean) / deviation
        return Labelled(_whole(setup, rows), standard.astype(np.float32))

    def score(model: Any, rows: Any, key: Any = None) -> Array:
        return model(rows.texts.tokens, rows.texts.mask, key)[:, 0]

    def figures(outputs: np.ndarray, rows: Labelled) -> Figures:
        loss = {"loss": float(np.mean((outputs - rows.label) ** 2, dtype=np.float64))}
        return loss | supervised_metrics.regression(outputs * deviation + mean, rows.label * deviation + mean)

    def drawn_again(outputs: np.ndarray, rows: Labelled, counts: Counts) -> resampled.Draws:
        found = resampled.regression(outputs * deviation + mean, rows.label * deviation + mean, counts)
        return {"loss": (found["rmse"] / deviation) ** 2} | found

    train, held_out, test = each_split(setup, rows_of)
    offset = 0.0 if isinstance(setup.model, EncoderConfig) else mean  # a decoder's head has no bias that could hold it
    return Objective(
        architecture=_classifier(setup, 1),
        batch=_labelled_batches(setup, train),
        train=lambda n: first_of(train, n),
        held_out=held_out,
        test=test,
        loss=lambda model, rows, key: jnp.mean((score(model, rows, key) - rows.label) ** 2),
        outputs=score,
        figures=figures,
        resampled=drawn_again,
        summary=lambda outputs: {"rating_mean": mean, "rating_deviation": deviation, "rating_minus_score": offset},
        labels=("score",),
        units=(deviation, mean),
    )


def preference(setup: Setup) -> Objective:
    """Bradley–Terry on given pairs."""
    objective = setup.config.pretrain.objective
    assert isinstance(objective, Preference)

    def pairs(rows: datasets.Dataset, part: str) -> Texts:
        return labelled.text_pairs(
            setup.tokenizer, setup.texts(rows), rows, objective.rejected, setup.config.pretrain.length, part
        )

    train, held_out, test = each_split(setup, pairs)
    config = setup.config.pretrain
    batch = lambda step: labelled.batch(train, config.seed, step, config.batch)  # noqa: E731
    return _bradley_terry(setup, batch, train, held_out, test)


def rated_pairs(setup: Setup) -> Objective:
    """Bradley–Terry on rated texts: each text once an epoch, beside another that is rated differently, anew each time.

    Each held-out text is looked at once, always beside the same.
    """
    config, objective = setup.config.pretrain, setup.config.pretrain.objective
    assert isinstance(objective, RatedPairs)

    def rated(rows: datasets.Dataset, part: str) -> tuple[Texts, labelled.Partners]:
        known = labelled.ratings(rows, objective.label, part)
        return _whole(setup, rows), labelled.partners(known, objective.margin, part)

    def once(rows: tuple[Texts, labelled.Partners]) -> Texts:
        texts, found = rows
        return take(texts, found.draw(found.first, np.random.default_rng((config.seed, 0, HELD_OUT_PARTNERS))))

    (texts, found), held_out, test = each_split(setup, rated)

    def batch(step: int) -> Texts:
        first = labelled.batch(found.first, config.seed, step, config.batch)
        return take(texts, found.draw(first, np.random.default_rng((config.seed, step, PARTNERS))))

    return _bradley_terry(setup, batch, once((texts, found)), once(held_out), None if test is None else once(test))


def bradley_terry(scores: Float[Array, "B 2"]) -> Float[Array, ""]:
    """−log σ(r(chosen) − r(rejected)), nats, mean over pairs. Bradley & Terry 1952."""
    return -jax.nn.log_sigmoid(scores[:, 0] - scores[:, 1]).mean()


def _check_as_it_is(setup: Setup, problem: str, classes: tuple[str, ...] = ()) -> None:
    """Refuse a model that is used as it is where its outputs mean something else than the objective's."""
    pretrained = setup.pretrained
    if setup.config.pretrain.steps or pretrained is None or not pretrained.outputs:
        return
    if pretrained.problem != problem:
        raise UserError(
            f"pretrain.steps: got 0 (the model as it is), but '{pretrained.path}' is for {pretrained.problem} (problem_type in "
            f"its config.json), and pretrain/objective={setup.config.pretrain.objective.kind} reads {problem}; expected a "
            "number >= 1, to fit it."
        )
    if classes and pretrained.labels != tuple(classes):
        raise UserError(
            f"pretrain.steps: got 0 (the model as it is), but '{pretrained.path}' calls its classes "
            f"{', '.join(pretrained.labels)}, and the data {', '.join(classes)}; expected the same names (id2label in a copy "
            "of its config.json), or a number >= 1, to fit it."
        )


def _bradley_terry(setup: Setup, batch: Callable[[int], Texts], train: Texts, held_out: Texts, test: Texts | None) -> Objective:
    _check_as_it_is(setup, "regression")

    def scores(model: Any, rows: Any, key: Any = None) -> Array:
        flat = rows.tokens.shape[-1]
        return model(rows.tokens.reshape(-1, flat), rows.mask.reshape(-1, flat), key)[:, 0].reshape(-1, 2)

    noisy = _noise(setup)
    return Objective(
        architecture=_classifier(setup, 1),
        batch=lambda step: noisy(batch(step), step),
        train=lambda n: first_of(train, n),
        held_out=held_out,
        test=test,
        loss=lambda model, rows, key: bradley_terry(scores(model, rows, key)),
        outputs=scores,
        figures=lambda outputs, rows: supervised_metrics.pairs(outputs),
        resampled=lambda outputs, rows, counts: resampled.pairs(outputs, counts),
        labels=("score",),
    )


def _whole(setup: Setup, rows: datasets.Dataset) -> Texts:
    return labelled.whole_texts(setup.tokenizer, setup.texts(rows), setup.config.pretrain.length)


def _classifier(setup: Setup, outputs: int) -> Architecture:
    return architecture(lambda rngs: Classifier(setup.model, setup.vocab_size, outputs, rngs=rngs), setup.mesh)


def _noise(setup: Setup) -> Callable[[Texts, int], Texts]:
    """The texts of a step's batch, augmented."""
    config = setup.config.pretrain
    mask_id = augmentation.mask_token(config.augmentation, setup.tokenizer)
    return lambda texts, step: augmentation.augment(texts, config.augmentation, mask_id, config.seed, step)


def _labelled_batches(setup: Setup, train: Labelled) -> Callable[[int], Labelled]:
    config, noisy = setup.config.pretrain, _noise(setup)

    def batch(step: int) -> Labelled:
        rows = labelled.batch(train, config.seed, step, config.batch)
        return Labelled(noisy(rows.texts, step), rows.label)

    return batch
