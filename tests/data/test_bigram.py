"""The bigram baseline against Witten & Bell's formula over dictionaries."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from kljax.data.batches import TokenRows
from kljax.data.bigram import held_out_nats

VOCAB = 7


def random_rows(seed, count, width=9, words=VOCAB):
    """Rows of random length from 2 on; padding holds random tokens, which nothing may count."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, width, count, endpoint=True)
    tokens = rng.integers(0, words, (count, width)).astype(np.int32)
    return TokenRows(tokens, np.arange(width) < lengths[:, None])


def pairs(rows):
    for tokens, mask in zip(rows.tokens.tolist(), rows.mask.tolist(), strict=True):
        real = [token for token, is_real in zip(tokens, mask, strict=True) if is_real]
        yield from pairwise(real)


def witten_bell(train):
    """p(word | before) as a Python function."""
    seen = Counter(pairs(train))
    words = Counter(word for _, word in pairs(train))

    def unigram(word):
        return (words[word] + 1) / (words.total() + VOCAB)

    def probability(before, word):
        after = {w: count for (v, w), count in seen.items() if v == before}
        if not after:
            return unigram(word)
        return (after.get(word, 0) + len(after) * unigram(word)) / (sum(after.values()) + len(after))

    return probability


@pytest.mark.parametrize("seed", range(20))
def test_nats_equal_those_of_dictionaries(seed):
    train, held_out = random_rows(seed, count=1 + seed), random_rows(100 + seed, count=10)
    probability = witten_bell(train)
    expected = [-math.log(probability(before, word)) for before, word in pairs(held_out)]
    assert held_out_nats(train, held_out, VOCAB) == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("before", range(VOCAB))
def test_probabilities_sum_to_one(before):
    """Also after a word that the training rows never show: here the last two."""
    train = random_rows(0, count=12, words=VOCAB - 2)
    held_out = [TokenRows(np.array([[before, word]], np.int32), np.ones((1, 2), bool)) for word in range(VOCAB)]
    total = sum(math.exp(-held_out_nats(train, rows, VOCAB)) for rows in held_out)
    assert total == pytest.approx(1)
