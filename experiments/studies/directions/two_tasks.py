"""Two tasks of one grammar about the same nouns: an old one with one right answer each, a new one with many.

"movie plot is" → a degree and the one adjective that is true of it (old). "movie plot felt" → a degree and any adjective of the
same sentiment as the true one (new). Prompts and answers can be listed, so that rewards and KLs are exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

NOUNS = ("plot", "story", "cast", "acting", "music", "ending", "script", "hero")
WORKS = ("movie", "series")
DEGREES = ("very", "truly", "rather")
GOOD = ("good", "great", "funny", "charming")
BAD = ("bad", "boring", "dull", "weak")
NEUTRAL = ("long", "short", "strange", "quiet")
ADJECTIVES = (*GOOD, *BAD, *NEUTRAL)
WORDS = ("is", "felt", *NOUNS, *WORKS, *DEGREES, *ADJECTIVES)
OLD, NEW = "is", "felt"
KNOWN = 0.5  # how much of what the base model says in the new task has the right sentiment
ANSWER = 2  # words of an answer

Answers = Float[np.ndarray, "N V V"]
"""For each prompt the probability (or what else) of each pair of words."""


@dataclass(frozen=True)
class TwoTasks:
    """The truth about each noun and work, and adjectives said of them before anything is learnt; a function of the seed."""

    seed: int

    @cached_property
    def _drawn(self) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"], Float[np.ndarray, "N adjectives"]]:
        count = len(NOUNS) * len(WORKS)
        truth = np.random.default_rng(self.seed).integers(len(ADJECTIVES), size=count)
        liked = truth // len(GOOD)
        said = np.full((count, 3), (1 - KNOWN) / 2)
        said[np.arange(count), liked] = KNOWN
        rank = 1 / np.arange(1, len(GOOD) + 1)
        return truth, liked, (said[:, :, None] * rank / rank.sum()).reshape(count, -1)

    def prompts(self, task: str) -> Int[np.ndarray, "N P"]:
        """Of the old or the new task, as tokens."""
        texts = [f"{work} {noun} {task}" for noun in NOUNS for work in WORKS]
        return np.array([[WORDS.index(word) for word in text.split()] for text in texts], np.int32)

    def right(self, task: str) -> Bool[np.ndarray, "N V V"]:
        """Which pairs of words are a right answer."""
        truth, liked, _ = self._drawn
        right = np.zeros((len(truth), len(WORDS), len(WORDS)), bool)
        degrees = [WORDS.index(word) for word in DEGREES]
        for row, found in enumerate(right):
            adjectives = (ADJECTIVES[truth[row]],) if task == OLD else (GOOD, BAD, NEUTRAL)[liked[row]]
            found[np.ix_(degrees, [WORDS.index(word) for word in adjectives])] = True
        return right

    def before(self, task: str) -> Answers:
        """The text that the base model is fitted to: right answers of the old task, of the new one any adjective.

        In the new task each prompt has favourites, right or wrong, as they come.
        """
        if task == OLD:
            return uniform(self.right(OLD))
        said = np.zeros((len(self._drawn[0]), len(WORDS), len(WORDS)))
        for degree in DEGREES:
            for k, adjective in enumerate(ADJECTIVES):
                said[:, WORDS.index(degree), WORDS.index(adjective)] = self._drawn[2][:, k] / len(DEGREES)
        return said


def uniform(right: Bool[np.ndarray, "N V V"]) -> Answers:
    """Every right answer alike."""
    return right / right.sum((1, 2), keepdims=True)


def nearest(right: Bool[np.ndarray, "N V V"], base: Answers) -> Answers:
    """The base model's answers without the wrong ones: of all that solve the task the least KL(·‖base), −log base(right)."""
    kept = np.where(right, base, 0.0)
    return kept / kept.sum((1, 2), keepdims=True)


def farthest(right: Bool[np.ndarray, "N V V"], base: Answers) -> Answers:
    """The one right answer that the base model finds the least likely."""
    return _one(np.where(right, -base, -np.inf))


def at_random(right: Bool[np.ndarray, "N V V"], seed: int) -> Answers:
    """One right answer a prompt, drawn once."""
    return _one(np.where(right, np.random.default_rng([seed, 1]).random(right.shape), -np.inf))


def one_for_all(right: Bool[np.ndarray, "N V V"]) -> Answers:
    """One right answer for all prompts of a sentiment: the first of the list."""
    return _one(right.astype(float))


def _one(score: Float[np.ndarray, "N V V"]) -> Answers:
    flat = score.reshape(len(score), -1)
    return np.eye(flat.shape[1])[flat.argmax(1)].reshape(score.shape)
