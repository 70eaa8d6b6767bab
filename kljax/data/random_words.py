"""Text without meaning, of exact lengths: for measuring speed, where only the number of tokens matters."""

import numpy as np


def sample_sentences(words: int, length: int, count: int, seed: int) -> list[str]:
    """`count` sentences of `length` words "w0", "w1", …; a pure function of its arguments.

    A word is uniform at every place, and no word occurs more than once more often than another: so that a tokenizer of words
    has an entry for each, where `count` · `length` is at least `words`.
    """
    drawn = np.random.default_rng(seed).permutation(count * length) % words
    return [" ".join(f"w{word}" for word in sentence) for sentence in drawn.reshape(count, length)]
