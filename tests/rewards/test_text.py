"""Rewards of texts."""

import re

import pytest

from kljax.rewards.text import regex, vader

PRAISE = ["A wonderful, brilliant film!", "I loved it.", "not bad at all"]
BLAME = ["An awful, boring mess.", "I hated it.", "not good at all"]
NEUTRAL = ["", "The film is two hours long."]


def test_vader_knows_praise_from_blame():
    assert all(score > 0 for score in vader([""] * len(PRAISE), PRAISE))
    assert all(score < 0 for score in vader([""] * len(BLAME), BLAME))
    assert vader([""] * len(NEUTRAL), NEUTRAL) == [0.0] * len(NEUTRAL)


def test_vader_is_bounded_and_grows_with_emphasis():
    calm, loud, endless = vader([""] * 3, ["good", "GREAT!!!", "great " * 500])
    assert 0 < calm < loud < endless <= 1


def test_vader_sees_the_completion_only():
    [alone] = vader(["awful, terrible"], ["a good film"])
    assert vader([""], ["a good film"]) == [alone]


@pytest.mark.parametrize("pattern", ["[.!?]$", "^A", "film", "x{2}", ""])
def test_regex_is_one_where_the_pattern_is_found(pattern):
    completions = [*PRAISE, *BLAME, *NEUTRAL]
    expected = [1.0 if re.search(pattern, completion) else 0.0 for completion in completions]
    assert regex([""] * len(completions), completions, pattern=pattern) == expected


def test_regex_searches_rather_than_matches():
    assert regex(["", ""], ["so it ends.", "so it"], pattern=r"ends") == [1.0, 0.0]


def test_of_a_conversation_the_answer_is_read():
    answers = [[{"role": "assistant", "content": text}] for text in PRAISE]
    assert vader([[]] * 3, answers) == vader([""] * 3, PRAISE)
    assert regex([[]] * 3, answers, pattern="film") == regex([""] * 3, PRAISE, pattern="film")
