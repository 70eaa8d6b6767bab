"""A task small enough to enumerate: short words of a few letters, drawn from a random Markov chain.

With its special tokens the vocabulary has `letters` + 3 entries, so that every completion of a few tokens can be listed and
the optimum of the RLHF objective is known exactly (kljax/runs/enumeration.py).
"""

import string

import numpy as np
from jaxtyping import Float

END_PROBABILITY = 0.25  # after each letter; a word has at least one


def sample_words(letters: int, count: int, seed: int) -> list[str]:
    """`count` independent words, letters separated by spaces; a pure function of its arguments."""
    rng = np.random.default_rng(seed)
    start, chain = rng.dirichlet(np.ones(letters)), _chain(letters, seed)
    words = []
    for _ in range(count):
        word = [rng.choice(letters, p=start)]
        while rng.random() > END_PROBABILITY:
            word.append(rng.choice(letters, p=chain[word[-1]]))
        words.append(" ".join(string.ascii_lowercase[letter] for letter in word))
    return words


def _chain(letters: int, seed: int) -> Float[np.ndarray, "letters letters"]:
    """The probability of each letter after each."""
    return np.random.default_rng([seed, 1]).dirichlet(np.ones(letters), size=letters)
