"""The built-in task: a probabilistic grammar of short reviews, of which everything is known.

It is a context-free grammar without left recursion. Reading a sentence from the left, the stacks of symbols still to come
(with their probabilities) are all that has to be kept, which gives the exact probability of any next word, hence of any
sentence, ambiguous or not. So KL(data‖model) is known in nats, not merely a perplexity.
"""

import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np

RULES = """
REVIEW    -> 0.50 CLAUSE . | 0.24 CLAUSE LINK CLAUSE . | 0.14 CLAUSE . VERDICT . | 0.12 OPENER , CLAUSE .
CLAUSE    -> 0.52 SUBJECT BE QUALITY | 0.30 PERSON FEEL SUBJECT | 0.18 SUBJECT DOES MANNER
LINK      -> 0.40 and | 0.35 but | 0.15 because | 0.10 while
OPENER    -> 0.30 honestly | 0.30 sadly | 0.25 happily | 0.15 frankly
VERDICT   -> 0.25 see it | 0.25 skip it | 0.25 what a QUALIFIED treat | 0.25 what a QUALIFIED mess
QUALIFIED -> 0.40 rare | 0.35 real | 0.25 total
SUBJECT   -> 0.62 the NOUN | 0.20 this WORK | 0.18 the NOUN of the WORK
WORK      -> 0.50 movie | 0.35 film | 0.15 show
NOUN      -> 0.14 plot | 0.13 story | 0.13 cast | 0.12 acting | 0.48 DETAIL
DETAIL    -> 0.21 music | 0.21 ending | 0.17 script | 0.17 dialogue | 0.14 hero | 0.10 camera
BE        -> 0.45 is | 0.35 was | 0.20 felt
QUALITY   -> 0.50 ADJECTIVE | 0.22 DEGREE ADJECTIVE | 0.16 not ADJECTIVE | 0.12 ADJECTIVE and DEGREE ADJECTIVE
DEGREE    -> 0.45 very | 0.30 truly | 0.25 rather
ADJECTIVE -> 0.34 GOOD | 0.33 BAD | 0.33 NEUTRAL
GOOD      -> 0.24 good | 0.18 great | 0.14 funny | 0.12 charming | 0.12 clever | 0.10 moving | 0.06 brilliant | 0.04 sweet
BAD       -> 0.24 bad | 0.18 boring | 0.14 dull | 0.12 weak | 0.12 awful | 0.10 clumsy | 0.06 terrible | 0.04 flat
NEUTRAL   -> 0.22 long | 0.20 short | 0.18 strange | 0.16 quiet | 0.12 dark | 0.08 simple | 0.04 odd
PERSON    -> 0.50 i | 0.20 we | 0.15 critics | 0.15 fans
FEEL      -> 0.26 liked | 0.18 loved | 0.10 enjoyed | 0.10 admired | 0.16 disliked | 0.10 hated | 0.10 forgot
DOES      -> 0.30 works | 0.25 moves | 0.25 ends | 0.20 begins
MANNER    -> 0.30 PACE | 0.25 well | 0.20 badly | 0.25 like a KIND PIECE
PACE      -> 0.40 slowly | 0.35 fast | 0.25 late
KIND      -> 0.34 perfect | 0.33 broken | 0.33 familiar
PIECE     -> 0.40 dream | 0.35 clock | 0.25 joke
"""

VALENCE = {
    "good": 1.0, "great": 2.0, "funny": 1.0, "charming": 1.5, "clever": 1.0, "moving": 1.5, "brilliant": 2.0, "sweet": 1.0,
    "bad": -1.0, "boring": -1.0, "dull": -1.0, "weak": -1.0, "awful": -2.0, "clumsy": -1.5, "terrible": -2.0, "flat": -1.0,
    "liked": 1.0, "loved": 2.0, "enjoyed": 1.5, "admired": 1.5, "disliked": -1.0, "hated": -2.0,
    "well": 1.0, "badly": -1.0, "perfect": 1.0, "broken": -1.0, "treat": 1.5, "mess": -1.5, "see": 0.5, "skip": -0.5,
    "happily": 0.5, "sadly": -0.5,
}  # fmt: skip
"""Sentiment of a word, in units of reward."""

MODIFIER = {"not": -1.0, "very": 1.5, "truly": 1.5, "rather": 0.5}
"""The factor by which a word multiplies the valence of the next word with."""

Stack = tuple[str, ...]


def _parse(text: str) -> dict[str, list[tuple[float, Stack]]]:
    rules = {}
    for line in text.strip().splitlines():
        symbol, _, right = line.partition("->")
        alternatives = [alternative.split() for alternative in right.split("|")]
        rules[symbol.strip()] = [(float(p), tuple(symbols)) for p, *symbols in alternatives]
    return rules


GRAMMAR = _parse(RULES)
START: Stack = ("REVIEW",)
WORDS = sorted({s for alternatives in GRAMMAR.values() for _, right in alternatives for s in right} - GRAMMAR.keys())


def sample_sentence(rng: random.Random) -> str:
    """One sentence of the grammar, words separated by spaces."""
    words, stack = [], list(START)
    while stack:
        symbol = stack.pop()
        if symbol in GRAMMAR:
            rights, cumulative = _ways_on(symbol)
            stack.extend(reversed(rng.choices(rights, cum_weights=cumulative)[0]))
        else:
            words.append(symbol)
    return " ".join(words)


@cache
def _ways_on(symbol: str) -> tuple[tuple[Stack, ...], tuple[float, ...]]:
    """The right sides of a symbol's rules, and their probabilities added up."""
    probabilities, rights = zip(*GRAMMAR[symbol], strict=True)
    return rights, tuple(accumulate(probabilities))


def sample_sentences(count: int, seed: int) -> list[str]:
    """`count` independent sentences; a pure function of (count, seed)."""
    rng = random.Random(seed)
    return [sample_sentence(rng) for _ in range(count)]


@cache
def _expansions(stack: Stack) -> tuple[tuple[float, str, Stack], ...]:
    """(probability, next word, what is still to come) of every way on; the empty word at the sentence's end."""
    if not stack:
        return ((1.0, "", ()),)
    first, rest = stack[0], stack[1:]
    if first not in GRAMMAR:
        return ((1.0, first, rest),)
    return tuple((p * q, word, after) for p, right in GRAMMAR[first] for q, word, after in _expansions(right + rest))


def next_words(prefix: Sequence[str]) -> dict[str, float]:
    """p(next word | prefix), the empty word standing for the end; empty where the prefix is impossible."""
    stacks = {START: 1.0}
    for word in prefix:
        stacks = _advance(stacks, word)
    total = sum(stacks.values())
    words: dict[str, float] = {}
    for stack, weight in stacks.items():
        for p, word, _ in _expansions(stack):
            words[word] = words.get(word, 0.0) + weight * p / total
    return words


def logp(sentence: str) -> float:
    """Exact log-probability of a sentence, its end included, nats; −inf for one that the grammar cannot make."""
    stacks = {START: 1.0}
    for word in [*sentence.split(), ""]:
        stacks = _advance(stacks, word)
    probability = sum(stacks.values())
    return math.log(probability) if probability > 0 else -math.inf


def _advance(stacks: dict[Stack, float], word: str) -> dict[Stack, float]:
    after: dict[Stack, float] = {}
    for stack, weight in stacks.items():
        for p, expected, rest in _expansions(stack):
            if expected == word:
                after[rest] = after.get(rest, 0.0) + weight * p
    return after


def expected_tokens() -> float:
    """Mean number of words of a sentence, plus one for its end."""
    return _expectation(lambda p, right: sum(s not in GRAMMAR for s in right)) + 1.0


def entropy_per_token() -> float:
    """The grammar's own entropy, nats per token (end of sentence included): the floor of any model's loss.

    The entropy of derivations, which is that of sentences because the grammar is unambiguous (a test holds that).
    """
    return _expectation(lambda p, right: -math.log(p)) / expected_tokens()


def _expectation(value) -> float:
    """Expected sum of value(p, right) over the rules used in a sentence: a linear system, one unknown a symbol."""
    symbols = list(GRAMMAR)
    matrix, constant = np.eye(len(symbols)), np.zeros(len(symbols))
    for i, symbol in enumerate(symbols):
        for p, right in GRAMMAR[symbol]:
            constant[i] += p * value(p, right)
            for child in right:
                if child in GRAMMAR:
                    matrix[i, symbols.index(child)] -= p
    return float(np.linalg.solve(matrix, constant)[symbols.index(START[0])])
