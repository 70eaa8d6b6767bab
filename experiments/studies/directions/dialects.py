"""A bimodal language: two dialects that share all words between the first and the last, which have to agree.

"he often asked himself" and "she often asked herself": who writes the last word has to remember the first. A model that sees
one word at a time cannot, and has to choose between the two dialects or mix them. Each word slips now and then: it becomes
any word, so that every sequence of words has a probability and every KL is finite. All sequences can be listed.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float, Int

WORDS = ("he", "she", "often", "never", "saw", "asked", "himself", "herself")
LENGTH = 4
MIDDLE = ({"often": 0.6, "never": 0.4}, {"asked": 0.6, "saw": 0.4})
ENDS = (("he", "himself"), ("she", "herself"))
KINDS = ("he … himself", "she … herself", "mixed", "slipped")
"""Sentences of each dialect, those that have one's first and the other's last word, and all others."""


@dataclass(frozen=True)
class Dialects:
    """`share` is the first dialect's part of the text, `slip` how often a word is replaced by one drawn from all words."""

    share: float = 0.6
    slip: float = 0.02

    @cached_property
    def logp(self) -> Float[np.ndarray, "B"]:
        """The log-probability of every sequence of LENGTH words, the last word changing fastest."""
        return np.logaddexp(
            *(np.log(share) + each for share, each in zip((self.share, 1 - self.share), self.each, strict=True))
        )

    @cached_property
    def each(self) -> tuple[Float[np.ndarray, "B"], ...]:
        """The same of each dialect alone."""
        return tuple(_slipping(first, last, self.slip) for first, last in ENDS)


def _slipping(first: str, last: str, slip: float) -> Float[np.ndarray, "B"]:
    clean = np.zeros((len(WORDS),) * LENGTH)
    for adverb, verb in product(*MIDDLE):
        at = tuple(map(WORDS.index, (first, adverb, verb, last)))
        clean[at] = MIDDLE[0][adverb] * MIDDLE[1][verb]
    for axis in range(LENGTH):  # each word slips by itself
        clean = (1 - slip) * clean + slip * clean.mean(axis, keepdims=True)
    return np.log(clean).reshape(-1)


def kinds() -> Int[np.ndarray, "B"]:
    """Of every sequence the kind of sentence, by its place in KINDS."""
    found = np.full((len(WORDS),) * LENGTH, KINDS.index("slipped"))
    for first, last in product(*zip(*ENDS, strict=True)):
        for adverb, verb in product(*MIDDLE):
            at = tuple(map(WORDS.index, (first, adverb, verb, last)))
            found[at] = ENDS.index((first, last)) if (first, last) in ENDS else KINDS.index("mixed")
    return found.reshape(-1)


def sentence(index: int) -> str:
    """The words of a sequence, by its place in the list of all."""
    return " ".join(WORDS[word] for word in np.unravel_index(index, (len(WORDS),) * LENGTH))


def mass(logp: Float[np.ndarray, "B"], of_kind: Int[np.ndarray, "B"]) -> Float[np.ndarray, "kinds"]:
    """The probability of each kind of sentence."""
    return np.bincount(of_kind, weights=np.exp(logp), minlength=len(KINDS))
