"""Noise on tokens against a plain loop, its probabilities by counting, and what it never touches."""

import numpy as np
import pytest
import tokenizers as backend
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from kljax.config import Augmentation
from kljax.data import augmentation
from kljax.data.augmentation import augment
from kljax.data.labelled import Texts
from kljax.errors import UserError

PAD, BOS, EOS, MASK, FIRST = 0, 1, 2, 3, 4
WIDTH = 12

lengths = st.lists(st.integers(2, WIDTH), min_size=1, max_size=8)
chances = st.sampled_from([0.0, 0.2, 0.5, 0.9])
seeds = st.integers(0, 2**32 - 1)


def noise(delete=0.0, swap=0.0, mask=0.0):
    return Augmentation(delete=delete, swap=swap, mask=mask)


def rows_of(lengths, width=WIDTH):
    """Rows whose inner tokens are all different."""
    tokens = np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [BOS, *range(FIRST, FIRST + length - 2), EOS]
    return Texts(tokens, np.arange(width) < np.array(lengths)[:, None])


def plainly(texts, config, seed, step):
    """The same as a loop over lists, with the same random numbers."""
    chance = np.random.default_rng((seed, step, augmentation.STREAM)).random((3, *texts.tokens.shape))
    made = []
    for i, (tokens, mask) in enumerate(zip(texts.tokens, texts.mask, strict=True)):
        row = tokens[mask].tolist()
        for j in range(1, len(row) - 2):
            if chance[0, i, j] < config.swap:
                row[j], row[j + 1] = row[j + 1], row[j]
        inner = range(1, len(row) - 1)
        row = [MASK if j in inner and chance[1, i, j] < config.mask else token for j, token in enumerate(row)]
        gone = [j for j in inner if chance[2, i, j] < config.delete]
        if len(gone) == len(inner):
            gone = []
        made.append([token for j, token in enumerate(row) if j not in gone])
    return made


@given(lengths=lengths, delete=chances, swap=chances, mask=chances, seed=seeds, step=st.integers(0, 10**6))
@settings(deadline=None)
def test_noise_is_that_of_a_plain_loop(lengths, delete, swap, mask, seed, step):
    texts, config = rows_of(lengths), noise(delete, swap, mask)
    noisy = augment(texts, config, MASK, seed, step)
    assert noisy.tokens.shape == noisy.mask.shape == texts.tokens.shape
    assert [row[real].tolist() for row, real in zip(noisy.tokens, noisy.mask, strict=True)] == plainly(
        texts, config, seed, step
    )
    assert (noisy.mask[:, :-1] >= noisy.mask[:, 1:]).all(), "padding stays on the right"


@given(lengths=lengths, delete=chances, swap=chances, mask=chances, seed=seeds)
@settings(deadline=None)
def test_ends_stay_and_some_text_is_left(lengths, delete, swap, mask, seed):
    texts = rows_of(lengths)
    noisy = augment(texts, noise(delete, swap, mask), MASK, seed, 0)
    after = noisy.mask.sum(axis=1)
    assert (noisy.tokens[:, 0] == BOS).all()
    assert (np.take_along_axis(noisy.tokens, after[:, None] - 1, axis=1) == EOS).all()
    assert ((after > 2) == (np.array(lengths) > 2)).all()


@pytest.mark.parametrize(("name", "chance"), [("delete", 0.1), ("swap", 0.3), ("mask", 0.25)])
def test_each_token_has_the_probability_of_the_config(name, chance):
    texts = rows_of([10] * 5000, width=10)  # eight inner tokens each
    noisy = augment(texts, noise(**{name: chance}), MASK, seed=0, step=3)
    changed = {
        "delete": (10 - noisy.mask.sum(axis=1)).sum() / (5000 * 8),
        "mask": (noisy.tokens == MASK).sum() / (5000 * 8),
        # the first inner token stays in its place unless it is swapped with the next
        "swap": (noisy.tokens[:, 1] != texts.tokens[:, 1]).mean(),
    }[name]
    count = 5000 if name == "swap" else 5000 * 8
    assert abs(changed - chance) < 4 * np.sqrt(chance * (1 - chance) / count)


def test_noise_depends_on_nothing_but_seed_and_step():
    texts, config = rows_of([12] * 20), noise(0.2, 0.2, 0.2)
    again = [augment(texts, config, MASK, 5, 7).tokens for _ in range(2)]
    np.testing.assert_array_equal(*again)
    others = [augment(texts, config, MASK, seed, step).tokens for seed, step in ((5, 8), (6, 7))]
    assert all((other != again[0]).any() for other in others)


def test_without_noise_the_rows_are_the_same_object():
    texts = rows_of([5, 7])
    assert augment(texts, noise(), -1, 0, 0) is texts
    assert augmentation.is_off(noise()) and not augmentation.is_off(noise(swap=0.1))


def test_both_texts_of_a_pair_have_noise_of_their_own():
    texts = rows_of([12] * 40)
    pairs = Texts(np.stack([texts.tokens, texts.tokens], axis=1), np.stack([texts.mask, texts.mask], axis=1))
    noisy = augment(pairs, noise(swap=0.5), MASK, 0, 0)
    assert noisy.tokens.shape == pairs.tokens.shape
    assert (noisy.tokens[:, 0] != noisy.tokens[:, 1]).any()


def tokenizer(**special):
    model = backend.models.WordLevel({"<eos>": 0, "<mask>": 7, "<unk>": 3}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=backend.Tokenizer(model), eos_token="<eos>", **special)


def test_masked_tokens_become_the_mask_token_or_else_the_unknown_one():
    both, unknown, neither = tokenizer(mask_token="<mask>", unk_token="<unk>"), tokenizer(unk_token="<unk>"), tokenizer()
    assert augmentation.mask_token(noise(mask=0.1), both) == 7
    assert augmentation.mask_token(noise(mask=0.1), unknown) == 3
    assert augmentation.mask_token(noise(delete=0.1), neither) == -1
    with pytest.raises(UserError, match=r"^pretrain.augmentation.mask: got 0.1, but the tokenizer has neither .*expected 0"):
        augmentation.mask_token(noise(mask=0.1), neither)
