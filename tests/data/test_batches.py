"""Batches as a pure function of (seed, step), windows that predict each token once, prompts padded on the left."""

from itertools import pairwise

import datasets
import numpy as np
import pytest
import tokenizers as backend
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from kljax.config import ChatPrompt, PrefixPrompt, WholePrompt
from kljax.data.batches import prompt_rows, rows_at, token_rows
from kljax.data.tokenizers import SPECIAL
from kljax.errors import UserError

LETTERS = "abcdefghij"
PAD, BOS, EOS = range(3)
IDS = {letter: len(SPECIAL) + i for i, letter in enumerate(LETTERS)}

seeds = st.integers(0, 2**32 - 1)
words = st.lists(st.sampled_from(LETTERS), max_size=12).map(" ".join)
texts = st.lists(words, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def tokenizer():
    """One token a letter, without the code under test."""
    model = backend.models.WordLevel(dict(zip(SPECIAL.values(), range(3), strict=True)) | IDS)
    made = backend.Tokenizer(model)
    made.pre_tokenizer = backend.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def ids(text):
    return [IDS[letter] for letter in text.split()]


@given(seed=seeds, total=st.integers(1, 30), batch=st.integers(1, 70), steps=st.integers(1, 8))
@settings(deadline=None)
def test_each_epoch_covers_each_row_once(seed, total, batch, steps):
    """Also where a batch crosses the end of an epoch, or is larger than the whole data set."""
    stream = np.concatenate([rows_at(seed, step, batch, total) for step in range(steps)])
    assert len(stream) == steps * batch
    for start in range(0, len(stream), total):
        epoch = stream[start : start + total]
        assert set(epoch) <= set(range(total))
        assert len(set(epoch)) == len(epoch)


def test_rows_depend_on_nothing_but_seed_and_step():
    forwards = [rows_at(3, step, 7, 20) for step in range(30)]
    backwards = [rows_at(3, step, 7, 20) for step in reversed(range(30))]
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_seeds_and_epochs_have_orders_of_their_own():
    first, second = (tuple(rows_at(3, epoch, 20, 20)) for epoch in range(2))
    other_seed = tuple(rows_at(4, 0, 20, 20))
    assert len({first, second, other_seed, tuple(range(20))}) == 4


@given(texts=texts, length=st.integers(2, 9))
@settings(deadline=None)
def test_windows_predict_every_token_exactly_once(tokenizer, texts, length):
    rows = token_rows(tokenizer, texts, length)
    expected = []
    for text in texts:
        row = [BOS, *ids(text), EOS]
        expected += list(pairwise(row))
    actual = []
    for tokens, mask in zip(rows.tokens, rows.mask, strict=True):
        actual += [(tokens[i], tokens[i + 1]) for i in range(length - 1) if mask[i + 1]]
    assert actual == expected


@given(texts=texts, length=st.integers(2, 9))
@settings(deadline=None)
def test_windows_are_padded_on_the_right(tokenizer, texts, length):
    rows = token_rows(tokenizer, texts, length)
    assert rows.tokens.shape == rows.mask.shape == (len(rows.tokens), length)
    assert rows.mask[:, :2].all(), "each window predicts something"
    assert (rows.mask[:, :-1] >= rows.mask[:, 1:]).all()
    np.testing.assert_array_equal(rows.tokens == PAD, ~rows.mask)


def test_a_batch_holds_the_rows_of_its_step(tokenizer):
    rows = token_rows(tokenizer, list(LETTERS), length=3)
    tokens, mask = rows.batch(seed=5, step=4, size=6)
    chosen = rows_at(5, 4, 6, len(LETTERS))
    np.testing.assert_array_equal(tokens, [[BOS, *ids(LETTERS[row]), EOS] for row in chosen])
    assert mask.all()


def prefix(minimum, maximum):
    return PrefixPrompt(kind="prefix", min_tokens=minimum, max_tokens=maximum)


def whole(maximum):
    return WholePrompt(kind="whole", max_tokens=maximum)


def make(tokenizer, texts, config, seed=0, **columns):
    return prompt_rows(tokenizer, datasets.Dataset.from_dict({"text": texts, **columns}), config, seed)


@given(texts=texts, bounds=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted), seed=seeds)
@settings(deadline=None)
def test_a_prefix_begins_its_text_within_bounds_and_leaves_a_token(tokenizer, texts, bounds, seed):
    minimum, maximum = bounds
    rows = make(tokenizer, texts, prefix(minimum, maximum), seed)
    assert rows.tokens.shape == (len(texts), maximum + 1)
    for text, tokens, mask in zip(texts, rows.tokens, rows.mask, strict=True):
        prompt = list(tokens[mask])
        longest = max(len(ids(text)) - 1, 0)
        assert prompt == [BOS, *ids(text)[: len(prompt) - 1]]
        assert min(minimum, longest) <= len(prompt) - 1 <= min(maximum, longest)
        np.testing.assert_array_equal(mask, np.arange(maximum + 1) > maximum - len(prompt))
        assert (tokens[~mask] == PAD).all()


def test_prefixes_have_every_length_allowed_and_depend_on_the_seed(tokenizer):
    texts = [" ".join(LETTERS)] * 100
    first, again, other = (make(tokenizer, texts, prefix(2, 5), seed) for seed in (0, 0, 1))
    assert set(first.mask.sum(axis=1) - 1) == {2, 3, 4, 5}
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any()


def test_whole_prompts_are_whole(tokenizer):
    rows = make(tokenizer, ["a b c", "d", "e f"], whole(3))
    expected = [[BOS, *ids("a b c")], [PAD, PAD, BOS, *ids("d")], [PAD, BOS, *ids("e f")]]
    np.testing.assert_array_equal(rows.tokens, expected)
    np.testing.assert_array_equal(rows.mask, np.array(expected) != PAD)


def test_a_prompt_that_is_too_long_is_refused_with_its_row(tokenizer):
    with pytest.raises(UserError, match=r"^data.prompt.max_tokens: prompt 1 \('a b c d'…\) has 4 tokens, expected at most 3"):
        make(tokenizer, ["a", "a b c d", "b"], whole(3))


def test_select_gives_the_prompts_of_the_rows(tokenizer):
    rows = make(tokenizer, ["a b c", "d", "e f"], whole(3))
    chosen = rows.select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.tokens, rows.tokens[[2, 0]])
    np.testing.assert_array_equal(chosen.mask, rows.mask[[2, 0]])


def test_columns_have_an_entry_a_completion(tokenizer):
    rows = make(tokenizer, ["a", "b", "c"], whole(3), stars=[1, 2, 3], label=["x", None, "z"])
    columns = rows.columns(np.array([2, 0, 2]), samples=2)
    assert columns == {
        "text": ["c", "c", "a", "a", "c", "c"],
        "stars": [3, 3, 1, 1, 3, 3],
        "label": ["z", "z", "x", "x", "z", "z"],
    }
    assert all(type(values) is list for values in columns.values())


TEMPLATE = (
    "{% for m in messages %}<bos> {{ 'a' if m.role == 'system' else 'b' }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<bos> c{% endif %}"
)


def chat(**changes):
    asked = {"system": None, "message": "d {text} e", "words": None, "max_tokens": 13}
    return ChatPrompt(kind="chat", **asked | changes)


@pytest.fixture
def chatty(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    return tokenizer


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "<bos> b d f g h e <eos> <bos> c"),
        ({"system": "j"}, "<bos> a j <eos> <bos> b d f g h e <eos> <bos> c"),
        ({"words": 2}, "<bos> b d f g e <eos> <bos> c"),
    ],
)
def test_a_chat_is_what_the_template_says_padded_on_the_left(chatty, changes, expected):
    rows = prompt_rows(chatty, datasets.Dataset.from_dict({"text": ["f g h"]}), chat(**changes), seed=0)
    special = {"<bos>": BOS, "<eos>": EOS}
    tokens = [special.get(word, IDS.get(word)) for word in expected.split()]
    np.testing.assert_array_equal(rows.tokens[0][rows.mask[0]], tokens)
    assert rows.mask[0, -len(tokens) :].all()
    assert rows.tokens.shape == (1, 14)


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        ("f <eos> g", {}, r"^tokenizer: the text 'd f <eos> g e' holds the special token <eos> as a word"),
        ("f g h f g h", {}, r"prompt 0 .* has 12 tokens, expected at most 11.*data\.prompt\.words"),
    ],
)
def test_a_text_that_breaks_the_chat_is_refused(chatty, text, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        prompt_rows(chatty, datasets.Dataset.from_dict({"text": [text]}), chat(max_tokens=11, **changes), seed=0)


def test_a_missing_chat_template_is_said(tokenizer):
    with pytest.raises(UserError, match=r"data.prompt.kind: got chat, but the tokenizer has no chat template; expected one in"):
        prompt_rows(tokenizer, datasets.Dataset.from_dict({"text": ["f"]}), chat(), seed=0)
