"""Words of a few letters: a function of their seed, distributed as the chain says."""

from itertools import pairwise

import numpy as np

from kljax.data.letters import END_PROBABILITY, _chain, sample_words

COUNT, LETTERS = 20_000, 3


def test_words_are_a_function_of_their_arguments():
    assert sample_words(LETTERS, 50, seed=1) == sample_words(LETTERS, 50, seed=1)
    assert sample_words(LETTERS, 50, seed=1) != sample_words(LETTERS, 50, seed=2)


def test_letters_follow_one_another_as_in_the_chain():
    words = [word.split() for word in sample_words(LETTERS, COUNT, seed=0)]
    assert {letter for word in words for letter in word} == {"a", "b", "c"}
    counts = np.zeros((LETTERS, LETTERS))
    for word in words:
        for first, second in pairwise(word):
            counts["abc".index(first), "abc".index(second)] += 1
    share = counts / counts.sum(axis=1, keepdims=True)
    standard_error = 0.5 / np.sqrt(counts.sum(axis=1, keepdims=True))
    assert (np.abs(share - _chain(LETTERS, 0)) < 5 * standard_error).all()


def test_lengths_are_geometric():
    lengths = np.array([len(word.split()) for word in sample_words(LETTERS, COUNT, seed=0)])
    assert lengths.min() == 1
    standard_error = np.sqrt((1 - END_PROBABILITY) / END_PROBABILITY**2 / COUNT)
    assert abs(lengths.mean() - 1 / END_PROBABILITY) < 5 * standard_error
