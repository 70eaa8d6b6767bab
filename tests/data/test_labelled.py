"""Texts with classes, ratings and better texts: padded rows, and pairs that are drawn fairly."""

from collections import Counter
from itertools import permutations

import datasets
import numpy as np
import pytest
import tokenizers as backend
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from kljax.data import labelled
from kljax.data.batches import rows_at
from kljax.data.labelled import Labelled, Texts
from kljax.data.tokenizers import SPECIAL
from kljax.errors import UserError

LETTERS = "abcdefghij"
PAD, BOS, EOS = range(3)
IDS = {letter: len(SPECIAL) + i for i, letter in enumerate(LETTERS)}

words = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=12).map(" ".join)
texts = st.lists(words, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def tokenizer():
    model = backend.models.WordLevel(dict(zip(SPECIAL.values(), range(3), strict=True)) | IDS)
    made = backend.Tokenizer(model)
    made.pre_tokenizer = backend.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def ids(text):
    return [IDS[letter] for letter in text.split()]


def real(rows):
    """Each row's tokens without padding, which has to be on the right and of padding tokens."""
    assert (rows.mask[:, :-1] >= rows.mask[:, 1:]).all()
    assert (rows.tokens[~rows.mask] == PAD).all()
    return [row[mask].tolist() for row, mask in zip(rows.tokens, rows.mask, strict=True)]


def dataset(**columns):
    return datasets.Dataset.from_dict(columns)


@given(texts=texts, length=st.integers(3, 9))
@settings(deadline=None)
def test_a_row_a_text_that_loses_its_end_but_not_the_end_token(tokenizer, texts, length):
    rows = labelled.whole_texts(tokenizer, texts, length)
    assert rows.tokens.shape == (len(texts), length)
    assert real(rows) == [[BOS, *ids(text)[: length - 2], EOS] for text in texts]


@given(texts=texts, length=st.integers(3, 9))
@settings(deadline=None)
def test_pieces_hold_every_token_once(tokenizer, texts, length):
    pieces = real(labelled.text_pieces(tokenizer, texts, length))
    assert all(piece[0] == BOS and piece[-1] == EOS and len(piece) <= length for piece in pieces)
    assert [token for piece in pieces for token in piece[1:-1]] == [token for text in texts for token in ids(text)]


@pytest.mark.parametrize("make", [labelled.whole_texts, labelled.text_pieces])
def test_a_length_without_room_for_text_is_refused(tokenizer, make):
    with pytest.raises(UserError, match=r"^pretrain.length: got 2, expected at least 3"):
        make(tokenizer, ["a"], 2)


def test_a_batch_holds_the_rows_of_its_step(tokenizer):
    rows = Labelled(labelled.whole_texts(tokenizer, list(LETTERS), 3), np.arange(10, dtype=np.int32))
    chosen = rows_at(5, 4, 6, 10)
    part = labelled.batch(rows, seed=5, step=4, size=6)
    np.testing.assert_array_equal(part.label, chosen)
    assert real(part.texts) == [[BOS, IDS[LETTERS[row]], EOS] for row in chosen]
    assert (labelled.count(rows), labelled.count(part)) == (10, 6)


def test_pairs_lie_side_by_side(tokenizer):
    rows = labelled.text_pairs(tokenizer, ["a b", "c"], dataset(worse=["d", "e f g"]), "worse", 5, "training")
    assert rows.tokens.shape == rows.mask.shape == (2, 2, 5)
    chosen, rejected = (Texts(rows.tokens[:, i], rows.mask[:, i]) for i in (0, 1))
    assert real(chosen) == [[BOS, *ids("a b"), EOS], [BOS, *ids("c"), EOS]]
    assert real(rejected) == [[BOS, *ids("d"), EOS], [BOS, *ids("e f g"), EOS]]


@pytest.mark.parametrize("worse", [None, "  "])
def test_a_rejected_text_that_is_none_is_named_with_its_row(tokenizer, worse):
    with pytest.raises(UserError, match=r"^pretrain.objective.rejected: 'worse' holds .* in training row 1, expected a text"):
        labelled.text_pairs(tokenizer, ["a", "b"], dataset(worse=["c", worse]), "worse", 5, "training")


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        UserError,
        match=r"^pretrain.objective.label: the training rows have no column 'lable'; .* Did you mean 'label'",
    ):
        labelled.class_names(dataset(text=["a"], label=[1]), "lable", "training")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([10, 9, 10, 2], ("2", "9", "10")), (["pos", "neg", "pos"], ("neg", "pos")), ([True, False], ("False", "True"))],
)
def test_classes_are_the_distinct_values_sorted_and_shown_as_text(values, expected):
    rows = dataset(text=["a"] * len(values), label=values)
    assert labelled.class_names(rows, "label", "training") == expected
    indices = labelled.class_indices(rows, "label", expected, "training")
    assert [expected[i] for i in indices] == [str(value) for value in values]


@pytest.mark.parametrize("values", [[0.5, 1.0], [None, 1], [[1], [2]]])
def test_what_is_no_class_is_refused(values):
    with pytest.raises(UserError, match=r"^pretrain.objective.label: 'label' holds .* in training row 0, expected a class"):
        labelled.class_names(dataset(text=["a", "b"], label=values), "label", "training")


def test_one_class_is_refused():
    with pytest.raises(UserError, match="'label' holds 3 in every row, expected two classes or more"):
        labelled.class_names(dataset(text=["a", "b"], label=[3, 3]), "label", "training")


def test_a_class_that_training_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"^pretrain.objective.label: test row 1 has the class 'c', .* they have: a, b\.$"):
        labelled.class_indices(dataset(text=["x", "y"], label=["a", "c"]), "label", ("a", "b"), "test")


@pytest.mark.parametrize("bad", [None, "4", float("nan")])
def test_a_rating_that_is_no_number_is_refused_with_its_row(bad):
    column = ["3", bad] if isinstance(bad, str) else [3.0, bad]
    with pytest.raises(
        UserError, match=r"^pretrain.objective.label: 'stars' holds .* in test row [01], expected a finite number"
    ):
        labelled.ratings(dataset(text=["x", "y"], stars=column), "stars", "test")


ratings = st.lists(st.integers(-4, 4), min_size=2, max_size=12).map(lambda values: np.array(values) / 2)
margins = st.sampled_from([0.0, 0.5, 1.25])


def allowed(rated, margin):
    return {(a, b) for a, b in permutations(range(len(rated)), 2) if abs(rated[a] - rated[b]) > margin}


@given(rated=ratings, margin=margins, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_pairs_differ_by_more_than_the_margin_and_the_better_stands_first(rated, margin, seed):
    known = allowed(rated, margin)
    if not known:
        with pytest.raises(UserError, match=r"^pretrain.objective.margin: no two held-out rows .* the largest difference is"):
            labelled.partners(rated, margin, "held-out")
        return
    found = labelled.partners(rated, margin, "held-out")
    assert set(found.first) == {a for a, _ in known}
    pairs = found.draw(found.first, np.random.default_rng(seed))
    assert (rated[pairs[:, 0]] - rated[pairs[:, 1]] > margin).all()
    assert all({first} <= {int(a), int(b)} for first, (a, b) in zip(found.first, pairs, strict=True))
    np.testing.assert_array_equal(pairs, found.draw(found.first, np.random.default_rng(seed)))


def test_all_partners_are_equally_likely():
    rated = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 1.5])
    found = labelled.partners(rated, 0.5, "training")
    for first in range(len(rated)):
        partners = {b for a, b in allowed(rated, 0.5) if a == first}
        pairs = found.draw(np.full(6000, first), np.random.default_rng(first))
        counts = Counter(int(a + b - first) for a, b in pairs)
        assert counts.keys() == partners
        expected = 6000 / len(partners)
        assert max(abs(n - expected) for n in counts.values()) < 4.5 * np.sqrt(expected)
