"""Numbers, texts and labels as answers, by hand and on GSM8K's own."""

import re
from decimal import Decimal
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kljax.errors import UserError
from kljax.rewards.answers import (
    exact_number,
    exact_text,
    has_number_format,
    label,
    named,
    normalised,
    number_of,
    prepare_number,
    token_f1,
)

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.parquet"

texts = st.text(st.sampled_from("the a.,?é我1 \n"), max_size=20)


def one(metric, completion, target, **arguments):
    [value] = metric([""], [completion], [target], **arguments)
    return value


@pytest.mark.parametrize(
    ("text", "last", "marked"),
    [
        ("#### 18", "18", "18"),
        ("so it is\n#### 18\n", "18", "18"),
        ("#### 18.", "18", "18"),
        ("####18", "18", "18"),
        ("#### $1,234.50", "1234.5", "1234.5"),
        ("#### -5", "-5", "-5"),
        ("#### −5 degrees", "-5", "-5"),
        ("#### 25%", "25", "25"),
        ("#### .5", "0.5", "0.5"),
        ("#### 3\nQuestion: 4 + 4?\n#### 8", "3", "3"),  # what a base model goes on with is no second try
        ("#### 18 and 7 more", "18", "18"),
        ("##### 18", "18", None),  # a heading of another kind
        ("#### so 18", "18", None),
        ("#### 1,23", "23", None),
        ("#### 1/2", "2", None),
        ("18", "18", None),
        ("It costs $18.00.", "18", None),
        ("18 apples, or 20", "20", None),
        ("-$5", "-5", None),
        ("$-5", "-5", None),
        ("5-10", "10", None),
        ("f(x)-3 = 4-7", "7", None),
        ("= -7", "-7", None),
        ("\n- 18 apples", "18", None),
        ("1,234,567", "1234567", None),
        ("1\u202f234", "1234", None),
        ("1, 2, 3", "3", None),
        ("1.5e3", "1500", None),
        ("１８ 円", "18", None),
        ("x = 18²", "18", None),
        ("123456789012345678901234567890.5", "123456789012345678901234567890.5", None),
        ("", None, None),
        ("eighteen", None, None),
        ("👍 … —", None, None),
        ("####", None, None),
    ],
)
def test_the_number_of_an_answer(text, last, marked):
    for reading, expected in (("last", last), ("marked", marked)):
        assert number_of(text, reading=reading) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("completion", "target", "expected"),
    [
        ("#### 18.00", "#### 18", 1.0),
        ("18", "2 * 9 = <<2*9=18>>18\n#### 18", 1.0),
        ("18", 18, 1.0),
        ("18", 18.0, 1.0),
        ("0.1", 0.1, 1.0),
        ("1,000", "1000", 1.0),
        ("1000", " $1,000. ", 1.0),
        ("25%", "25", 1.0),
        ("-5", "5", 0.0),
        ("0", "-0", 1.0),
        ("", "0", 0.0),
        ("12345678901234567890123456789012.1", "-12345678901234567890123456789012.1", 0.0),
        ("-12345678901234567890123456789012.2", "-12345678901234567890123456789012.1", 0.0),  # not rounded
        ("18", None, None),
    ],
)
def test_exact_number(completion, target, expected):
    assert one(exact_number, completion, target) == expected


def test_the_strict_reading_wants_the_mark():
    assert one(exact_number, "it is 18", "18") == 1.0
    assert one(exact_number, "it is 18", "18", reading="marked") == 0.0
    assert one(exact_number, "it is #### 18", "18", reading="marked") == 1.0


@pytest.mark.parametrize("target", ["", "eighteen", "18 apples", "1/2", "5-10", True, float("nan"), [18], "1,23"])
def test_a_target_without_a_number_is_refused(target):
    with pytest.raises(UserError, match=r"^its target of sample 1 is .*, expected a number, or a text with one after '####'"):
        exact_number(["", ""], ["1", "1"], [1, target])


@pytest.mark.parametrize(
    ("completion", "good"),
    [
        ("#### 18", True),
        ("so\n#### 1,234.5 \n", True),
        ("so #### -18.", True),
        ("#### $18%", True),
        ("#### 18 apples", False),
        ("18", False),
        ("####", False),
        ("", False),
        ("##### 18", False),
        ("#### 1\n#### 18", False),
        ("#### 1,23", False),
        ("#### 1/2", False),
    ],
)
def test_number_format(completion, good):
    assert has_number_format([""], [completion]) == [float(good)]
    assert has_number_format([[]], [[{"role": "assistant", "content": completion}]]) == [float(good)]


@pytest.mark.shared
@pytest.mark.skipif(not GSM8K.exists(), reason="needs ../shared/data/gsm8k_test.parquet")
def test_every_answer_of_gsm8k_is_its_own_and_that_of_no_other():
    """Beside the data's own convention: what stands after the mark, without its commas."""
    answers = pandas.read_parquet(GSM8K)["answer"].tolist()
    theirs = [float(re.search(r"#### (-?[0-9.,]+)", answer)[1].replace(",", "")) for answer in answers]
    count = len(answers)
    for reading in ("last", "marked"):
        assert exact_number([""] * count, answers, answers, reading=reading) == [1.0] * count
        shifted = exact_number([""] * (count - 1), answers[1:], answers[:-1], reading=reading)
        assert shifted == [float(a == b) for a, b in zip(theirs[1:], theirs[:-1], strict=True)]
    without = [answer.split("####")[0] for answer in answers]
    assert has_number_format([""] * count, answers) == [1.0] * count
    assert sum(has_number_format([""] * count, without)) == 0.0
    found = exact_number([""] * count, [f"{number:,.2f} dollars." for number in theirs], answers)
    assert sum(found) == count


# --- texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's!", "cats"),
        ("a cat, an owl", "cat owl"),
        ("Theatre", "theatre"),
        ("A", "a"),
        ("the", "the"),
        ("A.", "a"),
        ("+", "+"),
        (" \n", ""),
        ("...", "..."),
        ("É", "é"),
        ("E\u0301", "é"),
    ],
)
def test_normal_form(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("completion", "target", "exact", "f1"),
    [
        ("The cat.", "cat", 1.0, 1.0),
        ("a black cat", "the cat", 0.0, 2 / 3),
        ("cat cat dog", "cat dog dog", 0.0, 2 / 3),
        ("dog", "cat", 0.0, 0.0),
        ("", "cat", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("cat", "", 0.0, 0.0),
        ("the", "A", 0.0, 0.0),
        ("", "A", 0.0, 0.0),
        ("-", "+", 0.0, 0.0),
        ("北京市", "北京", 0.0, 0.8),
        ("👍", "👍", 1.0, 1.0),
        ("cat", None, None, None),
    ],
)
def test_texts(completion, target, exact, f1):
    assert one(exact_text, completion, target) == exact
    assert one(token_f1, completion, target) == f1


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_bounds_identity_and_symmetry(text, other):
    f1, exact = one(token_f1, text, other), one(exact_text, text, other)
    assert 0.0 <= exact <= f1 <= 1.0
    assert one(token_f1, text, text) == one(exact_text, text, text) == 1.0
    assert f1 == one(token_f1, other, text)


# --- labels ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "target", "right"),
    [
        ("positive", "positive", True),
        (" Positive.", "positive", True),
        ("positive\nReview: bad", "positive", True),
        ("**Positive** because", "positive", True),
        ("“positive”", "Positive", True),
        ("positively", "positive", False),
        ("positive_x", "positive", False),
        ("not positive", "positive", False),
        ("", "positive", False),
        ("Sci/Tech: a phone", "Sci/Tech", True),
        ("very  good", "very good", True),
        ("1", "1", True),
        ("1.", "1", True),
        ("1.5", "1", False),
        ("12", "1", False),
        ("-1", "1", False),
        ("1", "-1", False),
        ("B) Paris", "B", True),
        ("Because", "B", False),
        ("(B)", "B", True),
        ("STRASSE", "Straße", True),
        ("正面的评价", "正面", True),
        ("负面", "正面", False),
        ("👍 great", "👍", True),
        ("positivé", "positiv", False),
        ("positive\u0301", "positive", False),
    ],
)
def test_label(completion, target, right):
    assert one(label, completion, target) == float(right)


def test_a_label_that_is_missing_does_not_apply():
    assert label([""] * 2, ["x", ""], [None, " "]) == [None, None]


@pytest.mark.parametrize(("text", "place"), [("very good", 1), ("very bad", 0), ("Good", None), ("", None)])
def test_the_longest_label_is_meant(text, place):
    assert named(text, ["very", "very good"]) == place


def test_the_reading_is_checked():
    with pytest.raises(UserError, match=r"^arguments\.reading: got 'strict', expected one of last, marked\.$"):
        prepare_number(reading="strict")
