"""Texts with what is known of them, a class, a rating or a better text, as padded rows.

A data set is a tree of NumPy arrays with the rows as their first axis; a batch is some of these rows. Every text stands between
the beginning and the end token ([CLS] and [SEP] for an encoder) and is padded on the right.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import datasets
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from kljax.data.batches import rows_at
from kljax.data.text import whole_column
from kljax.data.tokenizers import encode
from kljax.errors import UserError, did_you_mean
from kljax.types import Tokenizer, struct

T = TypeVar("T")

SHORTEST = 3  # tokens: beginning, one of the text, end


@struct
class Texts:
    """Texts alone. Pairs have a second axis of 2: the chosen text, the rejected one."""

    tokens: Int[np.ndarray, "rows *pair L"]
    mask: Bool[np.ndarray, "rows *pair L"]


@struct
class Labelled:
    """Texts with a number each: the index of a class, or a rating."""

    texts: Texts
    label: Int[np.ndarray, "rows"] | Float[np.ndarray, "rows"]


def count(rows: Any) -> int:
    """How many rows a data set has."""
    return len(jax.tree.leaves(rows)[0])


def take(rows: T, chosen: Int[np.ndarray, "*dims"]) -> T:
    """These rows of a data set; an [N, 2] array of rows gives N pairs."""
    return jax.tree.map(lambda array: array[chosen], rows)


def batch(rows: T, seed: int, step: int, size: int) -> T:
    """Batch `step` of the epochs that `seed` shuffles."""
    return take(rows, rows_at(seed, step, size, count(rows)))


def whole_texts(tokenizer: Tokenizer, texts: list[str], length: int) -> Texts:
    """A row a text. One that is too long loses its end, but not the end token."""
    _check_length(length)
    bos, eos = _ends(tokenizer)
    return padded(tokenizer, [[bos, *text[: length - 2], eos] for text in encode(tokenizer, texts)], length)


def text_pieces(tokenizer: Tokenizer, texts: list[str], length: int) -> Texts:
    """Every token of every text once: one that is too long makes several rows, each with a beginning and an end token."""
    _check_length(length)
    (bos, eos), inner = _ends(tokenizer), length - 2
    pieces = [
        [bos, *text[start : start + inner], eos] for text in encode(tokenizer, texts) for start in range(0, len(text), inner)
    ]
    return padded(tokenizer, pieces, length)


def text_pairs(tokenizer: Tokenizer, better: list[str], rows: datasets.Dataset, rejected: str, length: int, part: str) -> Texts:
    """Preference pairs: the chosen texts, and those in the column `rejected`."""
    others = column(rows, rejected, part, "pretrain.objective.rejected")
    for i, text in enumerate(others):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"pretrain.objective.rejected: '{rejected}' holds {text!r} in {part} row {i}, expected a text.")
    chosen, other = (whole_texts(tokenizer, texts, length) for texts in (better, others))
    return Texts(np.stack([chosen.tokens, other.tokens], axis=1), np.stack([chosen.mask, other.mask], axis=1))


def column(rows: datasets.Dataset, name: str, part: str, field: str = "pretrain.objective.label") -> list[Any]:
    """A column of a data set, or a `UserError` that names those it has. `part` is what messages call the rows."""
    if name not in rows.column_names:
        raise UserError(
            f"{field}: the {part} rows have no column '{name}'; they have: {', '.join(rows.column_names)}."
            + did_you_mean(name, rows.column_names)
        )
    return whole_column(rows, name)


def class_names(rows: datasets.Dataset, name: str, part: str) -> tuple[str, ...]:
    """The classes that the column distinguishes: its distinct values, sorted, as text."""
    values = column(rows, name, part)
    for i, value in enumerate(values):
        if not isinstance(value, str | int):
            raise UserError(
                f"pretrain.objective.label: '{name}' holds {value!r} in {part} row {i}, expected a class: text or a whole "
                "number. Ratings are for pretrain/objective=regression or rated_pairs."
            )
    if mixed := next((i for i, value in enumerate(values) if type(value) is not type(values[0])), None):
        raise UserError(
            f"pretrain.objective.label: '{name}' holds {values[0]!r} in {part} row 0 and {values[mixed]!r} in row {mixed}, "
            "expected classes of one type: all text, or all whole numbers."
        )
    distinct = sorted(set(values))
    if len(distinct) < 2:
        raise UserError(f"pretrain.objective.label: '{name}' holds {distinct[0]!r} in every row, expected two classes or more.")
    return tuple(str(value) for value in distinct)


def class_indices(rows: datasets.Dataset, name: str, classes: tuple[str, ...], part: str) -> Int[np.ndarray, "rows"]:
    """The place of each row's class among `classes`."""
    place = {label: i for i, label in enumerate(classes)}
    values = [str(value) for value in column(rows, name, part)]
    for i, value in enumerate(values):
        if value not in place:
            raise UserError(
                f"pretrain.objective.label: {part} row {i} has the class '{value}', which no training row has; they have: "
                f"{', '.join(classes)}."
            )
    return np.array([place[value] for value in values], np.int32)


def ratings(rows: datasets.Dataset, name: str, part: str) -> Float[np.ndarray, "rows"]:
    """The column's numbers, in their own units, float64."""
    values = column(rows, name, part)
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(f"pretrain.objective.label: '{name}' holds {value!r} in {part} row {i}, expected a finite number.")
    return np.array(values, np.float64)


@dataclass(frozen=True)
class Partners:
    """For each rated row, the rows whose ratings differ from its own by more than a margin: all it can be paired with."""

    ratings: Float[np.ndarray, "rows"]
    by_rating: Int[np.ndarray, "rows"]  # the rows in the order of their ratings
    below: Int[np.ndarray, "rows"]  # how many of these, from the first on, are rated low enough
    above: Int[np.ndarray, "rows"]  # from which place on they are rated high enough

    @property
    def first(self) -> Int[np.ndarray, "some"]:
        """The rows that have a partner."""
        return np.flatnonzero(self._choices > 0)

    def draw(self, first: Int[np.ndarray, "N"], rng: np.random.Generator) -> Int[np.ndarray, "N 2"]:
        """Each of these rows with a partner, all of its partners equally likely; the better rated one stands first."""
        place = (rng.random(len(first)) * self._choices[first]).astype(np.int64)
        skipped = np.where(place < self.below[first], 0, self.above[first] - self.below[first])
        pairs = np.stack([first, self.by_rating[place + skipped]], axis=1)
        better_first = self.ratings[pairs[:, 0]] > self.ratings[pairs[:, 1]]
        return np.where(better_first[:, None], pairs, pairs[:, ::-1])

    @property
    def _choices(self) -> Int[np.ndarray, "rows"]:
        return self.below + len(self.ratings) - self.above


def partners(rated: Float[np.ndarray, "rows"], margin: float, part: str) -> Partners:
    """The partners that each row has."""
    order = np.argsort(rated, kind="stable")
    sorted_ratings = rated[order]
    below = np.searchsorted(sorted_ratings, rated - margin, side="left")
    above = np.searchsorted(sorted_ratings, rated + margin, side="right")
    found = Partners(rated, order, below, above)
    if not len(found.first):
        raise UserError(
            f"pretrain.objective.margin: no two {part} rows have ratings that differ by more than {margin:g}; the largest "
            f"difference is {sorted_ratings[-1] - sorted_ratings[0]:g}."
        )
    return found


def _check_length(length: int) -> None:
    if length < SHORTEST:
        raise UserError(
            f"pretrain.length: got {length}, expected at least {SHORTEST}: a beginning, a token of the text, an end."
        )


def _ends(tokenizer: Tokenizer) -> tuple[Any, Any]:
    return tokenizer.bos_token_id, tokenizer.eos_token_id


def padded(tokenizer: Tokenizer, rows: list[list[int]], length: int) -> Texts:
    """Rows of tokens, none longer than `length`, with padding on the right."""
    mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    tokens = np.full(mask.shape, tokenizer.pad_token_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return Texts(tokens, mask)
