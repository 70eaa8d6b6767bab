"""Figures of a corpus equal the libraries' own on the same texts, whatever their order, and are sums of samples."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, classification_report

from kljax.errors import UserError
from kljax.tasks.corpus import bleu, chrf, classification

DATA = Path(__file__).parents[3] / "shared" / "data" / "multi30k_test.parquet"

COMPLETIONS = ["the cat sat on the mat", "", "Ein großer Hund.", "👍 …", "a b c d e", "dogs run , fast"]
TARGETS = ["the cat is on the mat", "a dog", "Der große Hund schläft.", "👍", "a b c d e", ""]
LABELS = ["negative", "neutral", "positive"]


def figures(metric, completions, targets):
    sums = metric.statistics([""] * len(completions), completions, targets)
    return metric.value(sums.sum(axis=0))


METRICS = {
    "bleu": (bleu, {}, lambda said, wanted: sacrebleu.corpus_bleu(said, [wanted]).score),
    "bleu by characters": (
        bleu,
        {"tokenize": "char"},
        lambda said, wanted: sacrebleu.corpus_bleu(said, [wanted], tokenize="char").score,
    ),
    "chrf": (chrf, {}, lambda said, wanted: sacrebleu.corpus_chrf(said, [wanted]).score),
    "chrf++": (chrf, {"word_order": 2}, lambda said, wanted: sacrebleu.corpus_chrf(said, [wanted], word_order=2).score),
}


@pytest.mark.parametrize("name", METRICS)
def test_equal_to_sacrebleu(name):
    make, arguments, theirs = METRICS[name]
    [value] = figures(make(**arguments), COMPLETIONS, TARGETS).values()
    assert value == pytest.approx(theirs(COMPLETIONS, TARGETS), abs=1e-9)
    assert 0 < value < 100


@pytest.mark.shared
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/multi30k_test.parquet")
@pytest.mark.parametrize("name", METRICS)
def test_equal_to_sacrebleu_on_translations(name):
    make, arguments, theirs = METRICS[name]
    targets = pandas.read_parquet(DATA)["de"].tolist()
    # Near to the targets, as a good system's are: every third word is that of the sentence after.
    said = [
        " ".join(b if i % 3 == 2 else a for i, (a, b) in enumerate(zip(one.split(), other.split() * 9, strict=False)))
        for one, other in zip(targets, targets[1:] + targets[:1], strict=True)
    ]
    [value] = figures(make(**arguments), said, targets).values()
    assert value == pytest.approx(theirs(said, targets), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_the_samples_does_not_matter(name):
    make, arguments, _ = METRICS[name]
    order = np.random.default_rng(0).permutation(len(TARGETS))
    shuffled = [[of[i] for i in order] for of in (COMPLETIONS, TARGETS)]
    assert figures(make(**arguments), *shuffled) == figures(make(**arguments), COMPLETIONS, TARGETS)


@pytest.mark.parametrize("make", [bleu, chrf])
def test_identity_is_100_and_nothing_is_0(make):
    [whole] = figures(make(), TARGETS, TARGETS).values()
    [nothing] = figures(make(), [""] * len(TARGETS), TARGETS).values()
    [undefined] = figures(make(), ["a"], [None]).values()
    assert (whole, nothing) == (pytest.approx(100.0), 0.0)
    assert np.isnan(undefined)


def test_a_sample_without_target_counts_nothing():
    for metric in (bleu(), chrf(), classification(["a", "b"])):
        alone, beside = (figures(metric, *of) for of in ((["a x"], ["a"]), (["a x", "b c"], ["a", None])))
        np.testing.assert_equal(beside, alone)


def test_signatures_are_sacrebleus():
    bleus, chrfs = sacrebleu.BLEU(), sacrebleu.CHRF(word_order=2)
    for metric in (bleus, chrfs):
        metric.corpus_score(["a"], [["a"]])
    assert bleu().signature == str(bleus.get_signature())
    assert chrf(word_order=2).signature == str(chrfs.get_signature())
    assert "tok:char" in bleu(tokenize="char").signature


def test_bleu_refuses_what_its_tokenizer_does_not_cut():
    with pytest.raises(UserError, match=r"^arguments\.tokenize: the target '我们去北京' .* expected zh or char"):
        bleu().statistics([""], ["我们"], ["我们去北京"])


def test_classes_equal_scikit_learns_report():
    random = np.random.default_rng(0)
    truth, found = random.integers(0, 3, 60), random.integers(0, 4, 60)  # 3: none
    names = [*LABELS, "hm"]
    ours = figures(classification(LABELS), [f"{names[i].title()}." for i in found], [names[i] for i in truth])
    theirs = classification_report(truth, found, labels=range(4), target_names=names, output_dict=True, zero_division=0)
    for name in LABELS:
        for ours_name, theirs_name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert ours[f"{ours_name}/{name}"] == pytest.approx(theirs[name][theirs_name], abs=1e-12)
            mean = np.mean([theirs[label][theirs_name] for label in LABELS])
            assert ours[f"macro_{ours_name}"] == pytest.approx(mean, abs=1e-12)
    assert ours["accuracy"] == accuracy_score(truth, found)
    assert ours["no_label"] == np.mean(found == 3)


def test_classes_by_hand():
    """positive, positive → positive, none; negative → positive; no neutral one."""
    ours = figures(classification(LABELS), ["positive", "hm", "positive"], ["positive", "positive", "negative"])
    expected = {
        "accuracy": 1 / 3, "no_label": 1 / 3,
        "macro_precision": 0.25, "precision/negative": 0.0, "precision/neutral": np.nan, "precision/positive": 0.5,
        "macro_recall": 0.25, "recall/negative": 0.0, "recall/neutral": np.nan, "recall/positive": 0.5,
        "macro_f1": 0.25, "f1/negative": 0.0, "f1/neutral": np.nan, "f1/positive": 0.5,
    }  # fmt: skip
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, nan_ok=True)


def test_a_target_that_is_no_label_is_refused():
    with pytest.raises(UserError, match=r"^its target of sample 1 is 'good', expected one of the labels negative, neutral"):
        classification(LABELS).statistics(["", ""], ["", ""], ["negative", "good"])


@pytest.mark.parametrize("labels", [["a"], [], "ab", ["a", ""], ["a", 1], ["a", "A"], ["x", "a", "ａ", "a"]])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(UserError, match=r"^labels: "):
        classification(labels)


def test_labels_may_begin_as_others_do():
    ours = figures(classification(["very", "very good"]), ["very good", "very bad"], ["very good", "very"])
    assert ours["accuracy"] == 1.0
