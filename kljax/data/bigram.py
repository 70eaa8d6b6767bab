"""A bigram language model with Witten–Bell smoothing: the baseline that a neural model has to beat.

p(w | v) = (c(v, w) + n(v) p(w)) / (c(v) + n(v)), with n(v) the number of distinct words seen after v and
p(w) = (c(w) + 1) / (Σ c + V). It has no parameter to tune. Source: Witten & Bell 1991.
"""

import numpy as np

from kljax.data.batches import TokenRows


def held_out_nats(train: TokenRows, held_out: TokenRows, vocab_size: int) -> float:
    """Nats per token of the held-out rows under bigrams counted in the training rows."""
    unigrams = np.bincount(_pairs(train)[1], minlength=vocab_size) + 1.0
    unigrams /= unigrams.sum()
    pairs, counts = np.unique(_code(*_pairs(train), vocab_size), return_counts=True)
    seen_after = np.bincount(pairs // vocab_size, minlength=vocab_size)
    total_after = np.bincount(pairs // vocab_size, weights=counts, minlength=vocab_size)
    before, word = _pairs(held_out)
    code = _code(before, word, vocab_size)
    place = np.minimum(np.searchsorted(pairs, code), len(pairs) - 1)
    count = np.where(pairs[place] == code, counts[place], 0)
    smoothed = (count + seen_after[before] * unigrams[word]) / np.maximum(total_after[before] + seen_after[before], 1)
    return float(-np.log(np.where(seen_after[before] > 0, smoothed, unigrams[word])).mean())


def _pairs(rows: TokenRows) -> tuple[np.ndarray, np.ndarray]:
    real = rows.mask[:, 1:]
    return rows.tokens[:, :-1][real].astype(np.int64), rows.tokens[:, 1:][real].astype(np.int64)


def _code(before: np.ndarray, word: np.ndarray, vocab_size: int) -> np.ndarray:
    return before * vocab_size + word
