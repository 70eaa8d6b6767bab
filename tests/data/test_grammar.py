"""The review grammar against plain enumeration and an independent parser."""

import math
import random
from functools import cache

import numpy as np
import pytest

from kljax.data import grammar

AMBIGUOUS = {
    "REVIEW": [(0.6, ("A", "B")), (0.4, ("a", "B", "."))],
    "A": [(0.5, ("a",)), (0.3, ("a", "b")), (0.2, ("c", "A"))],
    "B": [(0.7, ("b",)), (0.3, ("b", "b"))],
}
"""Recursive, and 'a b b' has two derivations; sentences of more than DEPTH words c are cut off."""

UNAMBIGUOUS = {
    "REVIEW": [(0.25, ("A", "B")), (0.75, ("c", "A", "A"))],
    "A": [(0.5, ("a",)), (0.5, ("b", "a"))],
    "B": [(0.9, ("a", "b")), (0.1, ("c",))],
}
DEPTH = 6
IMPOSSIBLE = ["", "the", "the plot is good", "plot the is good .", "the plot is splendid .", "the plot is good . good ."]
STANDARD_ERRORS = 4.5  # two-sided chance of 7e-6; the seeds are fixed, so the tests do not flicker


def small_sentences(rules, symbols=("REVIEW",), depth=DEPTH):
    """(words, probability) of every derivation that recurs at most `depth` times below each symbol."""
    if not symbols:
        yield (), 1.0
        return
    first, rest = symbols[0], symbols[1:]
    for tail, q in small_sentences(rules, rest, depth):
        if first not in rules:
            yield (first, *tail), q
            continue
        for p, right in rules[first]:
            recurs = first in right
            if depth > 0 or not recurs:
                for head, r in small_sentences(rules, right, depth - recurs):
                    yield head + tail, p * q * r


def enumerate_probabilities(rules):
    """{sentence: probability}, derivations of the same words added."""
    table: dict[tuple[str, ...], float] = {}
    for words, p in small_sentences(rules):
        table[words] = table.get(words, 0.0) + p
    return table


def derivations(sentence: str) -> tuple[int, float]:
    """The number of derivations of a sentence, and their summed probability, by splitting spans in every way."""
    words, rules = sentence.split(), independent_rules()

    @cache
    def of_symbol(symbol: str, start: int, stop: int) -> tuple[int, float]:
        if symbol not in rules:
            return (1, 1.0) if stop == start + 1 and words[start] == symbol else (0, 0.0)
        ways = [(p, *of_symbols(right, start, stop)) for p, right in rules[symbol]]
        return sum(n for _, n, _ in ways), sum(p * q for p, _, q in ways)

    @cache
    def of_symbols(symbols: tuple[str, ...], start: int, stop: int) -> tuple[int, float]:
        if len(symbols) == 1:
            return of_symbol(symbols[0], start, stop)
        number, probability = 0, 0.0
        for middle in range(start + 1, stop - len(symbols) + 2):
            n, p = of_symbol(symbols[0], start, middle)
            if n:
                m, q = of_symbols(symbols[1:], middle, stop)
                number, probability = number + n * m, probability + p * q
        return number, probability

    return of_symbol("REVIEW", 0, len(words))


def independent_rules():
    """RULES read a second time, so that a mistake in the module's reading of them shows."""
    rules = {}
    for line in grammar.RULES.strip().split("\n"):
        left, right = line.split("->")
        rules[left.strip()] = [(float(a.split()[0]), tuple(a.split()[1:])) for a in right.split("|")]
    return rules


@pytest.fixture
def use(monkeypatch):
    """Put another grammar into the module's place."""

    def replace(rules):
        monkeypatch.setattr(grammar, "GRAMMAR", rules)
        grammar._expansions.cache_clear()

    yield replace
    monkeypatch.undo()
    grammar._expansions.cache_clear()


def test_logp_adds_up_all_derivations(use):
    use(AMBIGUOUS)
    table = enumerate_probabilities(AMBIGUOUS)
    assert len(table) < len(list(small_sentences(AMBIGUOUS))), "the example must be ambiguous"
    for words, probability in table.items():
        assert grammar.logp(" ".join(words)) == pytest.approx(math.log(probability))


def test_next_words_are_ratios_of_prefix_probabilities(use):
    use(UNAMBIGUOUS)
    table = enumerate_probabilities(UNAMBIGUOUS)
    assert sum(table.values()) == pytest.approx(1)
    for prefix in {words[:n] for words in table for n in range(len(words) + 1)}:
        expected: dict[str, float] = {}
        for words, p in table.items():
            if words[: len(prefix)] == prefix:
                following = words[len(prefix)] if len(words) > len(prefix) else ""
                expected[following] = expected.get(following, 0.0) + p
        total = sum(expected.values())
        assert grammar.next_words(prefix) == pytest.approx({word: p / total for word, p in expected.items()})


def test_entropy_and_length_equal_enumeration(use):
    use(UNAMBIGUOUS)
    table = enumerate_probabilities(UNAMBIGUOUS)
    tokens = sum(p * (len(words) + 1) for words, p in table.items())
    entropy = -sum(p * math.log(p) for p in table.values())
    assert grammar.expected_tokens() == pytest.approx(tokens)
    assert grammar.entropy_per_token() == pytest.approx(entropy / tokens)


def test_sampled_sentences_have_one_derivation_and_its_probability():
    sentences = sorted(set(grammar.sample_sentences(150, seed=0)))
    shapes = {len(sentence.split()) for sentence in sentences}
    assert max(shapes) > 2 * min(shapes), "short and long sentences"
    for sentence in sentences:
        number, probability = derivations(sentence)
        assert number == 1, sentence
        assert grammar.logp(sentence) == pytest.approx(math.log(probability)), sentence


def test_chain_rule():
    for sentence in grammar.sample_sentences(100, seed=1):
        words, logp = sentence.split(), 0.0
        for i, word in enumerate([*words, ""]):
            following = grammar.next_words(words[:i])
            assert sum(following.values()) == pytest.approx(1)
            logp += math.log(following[word])
        assert grammar.logp(sentence) == pytest.approx(logp)


@pytest.mark.parametrize("sentence", IMPOSSIBLE)
def test_impossible_sentences_have_no_probability(sentence):
    assert derivations(sentence)[0] == 0
    assert grammar.logp(sentence) == -math.inf


def test_nothing_follows_an_impossible_prefix():
    assert grammar.next_words(["good", "the"]) == {}


def test_samples_have_the_entropy_and_length_that_are_computed():
    sentences = grammar.sample_sentences(3000, seed=2)
    surprise = np.array([-grammar.logp(sentence) for sentence in sentences])
    tokens = np.array([len(sentence.split()) + 1 for sentence in sentences])
    # The residual of the ratio estimate: mean 0 exactly where entropy per token is right.
    residual = surprise - grammar.entropy_per_token() * tokens
    for values, expected in ((tokens, grammar.expected_tokens()), (residual, 0.0)):
        standard_error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - expected) < STANDARD_ERRORS * standard_error


def test_first_words_are_drawn_with_their_probabilities():
    count = 20_000
    firsts = [sentence.split()[0] for sentence in grammar.sample_sentences(count, seed=3)]
    expected = grammar.next_words([])
    assert set(firsts) == set(expected)
    for word, p in expected.items():
        assert abs(firsts.count(word) / count - p) < STANDARD_ERRORS * math.sqrt(p * (1 - p) / count), word


def test_rules_are_read_as_written_and_sum_to_one():
    rules = independent_rules()
    assert rules == grammar.GRAMMAR
    for symbol, alternatives in rules.items():
        assert sum(p for p, _ in alternatives) == pytest.approx(1), symbol


def test_every_symbol_is_reached_and_every_word_known():
    rules = independent_rules()
    used = {symbol for alternatives in rules.values() for _, right in alternatives for symbol in right}
    assert rules.keys() - used == {"REVIEW"}
    assert sorted(used - rules.keys()) == grammar.WORDS
    assert grammar.VALENCE.keys() | grammar.MODIFIER.keys() <= used


def test_about_a_hundred_words_and_a_vocabulary_that_eight_devices_divide():
    special_tokens, devices = 3, 8
    assert 90 <= len(grammar.WORDS) <= 120
    assert (len(grammar.WORDS) + special_tokens) % devices == 0


def test_sampling_is_a_pure_function_of_the_seed():
    first = grammar.sample_sentences(50, seed=4)
    random.seed(99)
    assert grammar.sample_sentences(50, seed=4) == first
    assert grammar.sample_sentences(50, seed=5) != first
