"""Overlap of texts equals the libraries' own, and pairs worked by hand; what a tokenizer cannot read is said or refused."""

import sys
from math import exp
from pathlib import Path

import pandas
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kljax.errors import UserError
from kljax.rewards import overlap
from kljax.rewards.words import letters, words

NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
TARGETED = ["rouge_1", "rouge_2", "rouge_l", "chrf", "bleu"]
EMPTY = ["", " \n", "...", "👍🏽", "—"]

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")

texts = st.text(st.sampled_from("abc dé ,.1我ы\n"), max_size=30)
english = st.lists(st.sampled_from(["the", "dogs", "run", "running", "a", "7", "it's", "."]), max_size=12).map(" ".join)


def score(name, completion, target, **arguments):
    [value] = getattr(overlap, name)([""], [completion], [target], **arguments)
    return value


@pytest.fixture
def heard(monkeypatch):
    """What is said, as if nothing had been said before."""
    sentences = []
    monkeypatch.setattr(overlap, "say", sentences.append)
    monkeypatch.setattr(overlap, "_said", set())
    return sentences


# the cat sat on the mat / the cat is on the mat: words the ×2, cat, on, mat are common: 5 of 6 and 6. Bigrams: the cat, on the,
# the mat: 3 of 5. The longest subsequence is all but sat / is. Trigrams: on the mat, 1 of 4. No four-gram.
CAT, MAT = "the cat sat on the mat", "the cat is on the mat"


@pytest.mark.parametrize(
    ("name", "completion", "target", "expected"),
    [
        ("rouge_1", CAT, MAT, 5 / 6),
        ("rouge_2", CAT, MAT, 3 / 5),
        ("rouge_l", CAT, MAT, 5 / 6),
        ("rouge_l", "mat the on", MAT, 2 * (2 / 3) * (2 / 6) / (2 / 3 + 2 / 6)),  # the … on
        ("rouge_1", "the the the", "the", 0.5),  # one of three, one of one
        ("rouge_1", "Dogs, running!", "dog runs", 1.0),  # their stems
        ("bleu", CAT, MAT, (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),  # no four-gram of three: 1/2 of one, smoothed
        ("bleu", "the cat", MAT, exp(1 - 6 / 2)),  # both of its orders are whole; too short by 4 words
        ("chrf", "ab", "abc", 5 * 1.0 * (7 / 12) / (4 * 1.0 + 7 / 12)),  # precision 1 and 1; recall 2/3 and 1/2
    ],
)
def test_pairs_by_hand(name, completion, target, expected):
    assert score(name, completion, target) == pytest.approx(expected, abs=1e-12)


def test_words_are_stemmed_by_default_and_not_where_the_config_says_so():
    assert score("rouge_1", "dogs", "dog") == 1.0
    assert score("rouge_1", "dogs", "dog", use_stemmer=False) == 0.0


@pytest.mark.shared
@needs_data
def test_equal_to_rouge_score_on_headlines(heard):
    rows = pandas.read_parquet(DATA / "news_headlines.parquet")[:80]
    articles, headlines = rows["article"].tolist(), rows["headline"].tolist()
    for stemmer in (True, False):
        scorer = RougeScorer(list(NAMES.values()), use_stemmer=stemmer)
        theirs = [scorer.score(headline, article) for article, headline in zip(articles, headlines, strict=True)]
        for name, kind in NAMES.items():
            ours = getattr(overlap, name)(articles, articles, headlines, use_stemmer=stemmer)
            assert ours == [one[kind].fmeasure for one in theirs]


@pytest.mark.shared
@needs_data
def test_equal_to_sacrebleu_on_translations():
    rows = pandas.read_parquet(DATA / "multi30k_test.parquet")
    targets, others = rows["de"].tolist()[:200], rows["de"].tolist()[1:201]
    chrf, bleu = overlap.chrf(others, others, targets), overlap.bleu(others, others, targets)
    for i, (other, target) in enumerate(zip(others, targets, strict=True)):
        assert chrf[i] == sacrebleu.sentence_chrf(other, [target]).score / 100
        assert bleu[i] == sacrebleu.sentence_bleu(other, [target]).score / 100


# --- properties, and odd texts -----------------------------------------------


@pytest.mark.parametrize("name", TARGETED)
def test_bounds_and_identity(name):
    @settings(max_examples=60, deadline=None)
    @given(texts, texts)
    def holds(completion, target):
        arguments = {"tokenizer": "unicode"} if name in NAMES else {"tokenize": "char"} if name == "bleu" else {}
        value = score(name, completion, target, **arguments)
        if value is None:
            assert not (letters(target) if name in NAMES else target.strip())
            return
        assert 0.0 <= value <= 1.0
        alike = score(name, target, target, **arguments)
        assert alike == pytest.approx(1.0) or (name == "rouge_2" and len(words(target)) < 2)

    holds()


@settings(max_examples=60, deadline=None)
@given(english, english)
def test_rouge_of_unicode_words_is_that_of_ascii_where_all_is_ascii(completion, target):
    for name in NAMES:
        for stemmer in (True, False):
            ascii, unicode = (
                score(name, completion, target, use_stemmer=stemmer, tokenizer=one) for one in ("ascii", "unicode")
            )
            assert ascii == unicode


@pytest.mark.parametrize("name", TARGETED)
@pytest.mark.parametrize("completion", EMPTY)
def test_a_completion_without_words_has_nothing(name, completion):
    assert score(name, completion, "a film of two hours") == 0.0


@pytest.mark.parametrize("name", TARGETED)
def test_a_row_without_target_has_no_score(name):
    assert getattr(overlap, name)(["", "", ""], ["a b", "a b", ""], [None, " ", ""]) == [None] * 3


def test_a_long_completion_is_scored():
    value = score("rouge_l", "word " * 20_000, "a word of five letters")
    assert value == pytest.approx(2 / 20_005)
    assert 0 < score("chrf", "word " * 20_000, "a word") < 0.2


def test_conversations_are_read():
    said = [{"role": "assistant", "content": CAT}]
    assert overlap.rouge_1([[]], [said], [MAT]) == overlap.rouge_1([[]], [said], [[{"role": "assistant", "content": MAT}]])
    assert overlap.rouge_1([[]], [said], [MAT]) == [5 / 6]


@pytest.mark.parametrize("value", [7, 1.5, True, ["a", "b"], b"a", {"content": "a"}, []])
def test_a_column_of_no_texts_is_refused(value):
    with pytest.raises(UserError, match=r"^its target of sample 1 is .*, expected one text"):
        overlap.chrf(["", ""], ["a", "b"], ["a", value])


# --- other scripts -----------------------------------------------------------


def test_lost_letters_are_said_once(heard):
    """größer Hund: gr, er, hund beside ein, gr, er, hund."""
    for _ in range(2):
        assert score("rouge_1", "größer Hund", "ein größer Hund") == pytest.approx(6 / 7)
    assert len(heard) == 1
    assert "'ein größer Hund'" in heard[0]
    assert "arguments.tokenizer=unicode" in heard[0]
    assert score("rouge_1", "größer Hund", "ein größer Hund", tokenizer="unicode") == pytest.approx(4 / 5)


def test_nothing_is_said_of_text_that_is_read_whole(heard):
    score("rouge_1", "a – b", "“a — b…” 👍")
    assert heard == []


@pytest.mark.parametrize(
    "target", ["我们去北京", "2024年经济增长", "用 Python programming 编程", "Это фильм", "आज का मौसम", "สวัสดี"]
)
def test_a_target_that_rouge_cannot_read_is_refused(target, heard):
    with pytest.raises(UserError, match=r"^arguments\.tokenizer: of the target .* expected unicode\.$"):
        score("rouge_l", target, target)
    assert score("rouge_l", target, target, tokenizer="unicode") == 1.0


@pytest.mark.parametrize(
    ("tokenize", "target", "way"),
    [
        ("13a", "我们去北京", "zh or char"),
        ("intl", "我们去 Paris", "zh or char"),
        ("none", "これはペンです", "char"),
        ("zh", "これはペンです", "char"),
        ("13a", "สวัสดีครับ", "char"),
    ],
)
def test_a_target_that_bleu_would_take_as_one_word_is_refused(tokenize, target, way):
    with pytest.raises(UserError, match=rf"^arguments\.tokenize: the target .* expected {way}\.$"):
        score("bleu", target, target, tokenize=tokenize)


@pytest.mark.parametrize(
    ("tokenize", "target"), [("zh", "我们去北京"), ("char", "これはペンです"), ("13a", "Это фильм"), ("13a", "서울에 간다")]
)
def test_others_are_read(tokenize, target):
    assert score("bleu", target, target, tokenize=tokenize) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's GDP_7,5!", ["it", "s", "gdp", "7", "5"]),
        ("Größe, e\u0301te\u0301", ["größe", "été"]),
        ("GDP增长 5%", ["gdp", "增", "长", "5"]),
        ("मौसम है", ["मौसम", "है"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("서울에 간다", ["서울에", "간다"]),
        ("👍🏽 — …", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


# --- against a source --------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "source", "ratio", "new"),
    [
        ("a b c", "a b c d e f", 0.5, 0.0),
        ("a c b", "a b c d e f", 0.5, 1.0),
        ("a b a b x", "a b", 2.5, 2 / 3),  # a b, b a, b x: the second and the third are new
        ("", "a b", 0.0, 0.0),
        ("...", "a b", 0.0, 0.0),
        ("x", "a b", 0.5, 0.0),
        ("a b", "!?", None, 1.0),
        ("北京", "我们去北京", 0.4, 0.0),
    ],
)
def test_compression_and_novelty(completion, source, ratio, new):
    assert overlap.compression([""], [completion], [source]) == [ratio]
    assert overlap.novelty([""], [completion], [source]) == [new]


def test_novelty_of_other_lengths():
    assert overlap.novelty([""], ["a b x"], ["a b c"], n=1) == [1 / 3]
    assert overlap.novelty([""], ["a b x"], ["a b c"], n=3) == [1.0]


# --- what is refused before anything compiles --------------------------------


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (overlap.prepare_rouge, {"use_stemmer": "yes"}, "arguments.use_stemmer: got 'yes', expected true or false"),
        (overlap.prepare_rouge, {"tokenizer": "unicod"}, "expected one of ascii, unicode. Did you mean 'unicode'?"),
        (overlap.prepare_chrf, {"word_order": -1}, "arguments.word_order: got -1, expected a whole number >= 0"),
        (overlap.prepare_chrf, {"word_order": True}, "got True, expected a whole number"),
        (overlap.prepare_novelty, {"n": 0}, "arguments.n: got 0, expected a whole number >= 1"),
        (overlap.prepare_bleu, {"tokenize": "13"}, "arguments.tokenize: got '13', expected one of sacrebleu's tokenizers"),
    ],
)
def test_arguments_are_checked(prepare, arguments, said):
    with pytest.raises(UserError) as raised:
        prepare(**arguments)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("prepare", "package", "module"),
    [
        (overlap.prepare_rouge, "rouge-score", "rouge_score"),
        (overlap.prepare_chrf, "sacrebleu", "sacrebleu"),
        (overlap.prepare_bleu, "sacrebleu", "sacrebleu"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, prepare, package, module):
    monkeypatch.setitem(sys.modules, module, None)
    for cached in (overlap._scorer, overlap.bleu_of, overlap.chrf_of):
        cached.cache_clear()
    with pytest.raises(UserError, match=rf"^needs the package {package}; install it with: pip install {package}\.$"):
        prepare()
