"""Figures of a whole corpus, each a function of sums over its samples: BLEU, chrF, and those of a confusion matrix.

Of sums, so that the bootstrap (bootstrap.py) resamples rows of numbers and reads no text twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kljax.data.conversations import said
from kljax.errors import UserError
from kljax.rewards.answers import named
from kljax.rewards.overlap import Texts, bleu_of, check_count, check_script, chrf_of
from kljax.rewards.words import each, shown


@dataclass(frozen=True)
class CorpusMetric:
    """Figures of a corpus: `value` of the sum of its samples' `statistics`.

    `statistics(prompts, completions, target)` is called as a reward is. Where the target is missing it has a row of zeros.
    """

    statistics: Callable[..., Float[np.ndarray, "B K"]]
    value: Callable[[Float[np.ndarray, "K"]], dict[str, float]]  # names → figures; NaN where one is undefined
    signature: str = ""  # sacrebleu's, in a note beside the figures


def bleu(*, tokenize: str = "13a") -> CorpusMetric:
    """sacrebleu's corpus BLEU, 0 to 100: `bleu`. A target that its tokenizer would leave in one piece is refused."""
    metric = bleu_of(tokenize=tokenize, effective_order=False)
    return _by_sacrebleu("bleu", metric, lambda target: check_script(tokenize, target))


def chrf(*, word_order: int = 0) -> CorpusMetric:
    """sacrebleu's corpus chrF2, 0 to 100: `chrf`. word_order=2 is chrF++."""
    check_count("word_order", word_order, least=0)
    return _by_sacrebleu("chrf", chrf_of(word_order=word_order), lambda target: None)


def classification(labels: Sequence[Any]) -> CorpusMetric:
    """Accuracy, precision, recall and F1 of the classes that completions name, as scikit-learn has them, 0 to 1.

    A completion names the label with which it begins (answers.named). One that names none is wrong for its class: it lowers
    recall and accuracy, no precision, and `no_label` is the rate of such. `recall/positive`, … are of each class, NaN of one
    that no target has; `macro_recall`, … are the mean of the others. The precision of a class that is never named is 0.
    """
    labels = _checked(labels)
    count = len(labels)
    given = {label: i for i, label in enumerate(labels)}
    shape = (count, count + 1)  # the class of the target × that of the completion, the last being none

    def statistics(prompts: list[Any], completions: Texts, target: Sequence[Any]) -> Float[np.ndarray, "B K"]:
        rows = np.zeros((len(completions), *shape))
        for i, (completion, wanted) in enumerate(zip(completions, target, strict=True)):
            if wanted is None:
                continue
            if wanted not in given:
                raise UserError(f"its target of sample {i} is {shown(wanted)}, expected one of the labels {', '.join(labels)}.")
            found = named(said(completion), labels)
            rows[i, given[wanted], count if found is None else found] = 1
        return rows.reshape(len(rows), -1)

    return CorpusMetric(statistics, lambda sums: _of_confusion(sums.reshape(shape), labels))


def _by_sacrebleu(name: str, metric: Any, check: Callable[[str], None]) -> CorpusMetric:
    """Its own statistics of sentences and its own figure of their sum: those that its significance tests resample."""
    metric.corpus_score(["a"], [["a"]])  # the signature counts references, which it has not seen before
    size = len(_sentence(metric, "a", "a"))

    def statistics(prompts: list[Any], completions: Texts, target: Sequence[Any]) -> Float[np.ndarray, "B K"]:
        def of_one(text: str, wanted: str) -> Any:
            check(wanted)
            return _sentence(metric, text, wanted)

        found = each(completions, target, of_one)
        return np.array([np.zeros(size) if one is None else one for one in found], float).reshape(len(completions), size)

    def value(sums: Float[np.ndarray, "K"]) -> dict[str, float]:
        return {name: float(metric._compute_score_from_stats(sums.tolist()).score) if sums.any() else float("nan")}

    return CorpusMetric(statistics, value, str(metric.get_signature()))


def _sentence(metric: Any, text: str, target: str) -> list[int]:
    return metric._extract_corpus_statistics([text], [[target]])[0]


def _checked(labels: Sequence[Any]) -> list[str]:
    if isinstance(labels, str) or len(labels) < 2 or not all(isinstance(one, str) and one.strip() for one in labels):
        raise UserError(f"labels: got {labels!r}, expected a list of at least two texts.")
    for i, label in enumerate(labels):
        if (other := named(label, labels)) != i:
            raise UserError(f"labels: {label!r} and {labels[other or 0]!r} are the same but for case, expected different ones.")
    return list(labels)


def _of_confusion(confusion: Float[np.ndarray, "L N"], labels: Sequence[str]) -> dict[str, float]:
    # scikit-learn's figures, by their formulas: of a thousand resamples its own function would take seconds.
    count, total = len(labels), confusion.sum()
    right, of_class, as_class = np.diagonal(confusion), confusion.sum(axis=1), confusion[:, :count].sum(axis=0)
    figures = [_share(right, as_class), _share(right, of_class), _share(2 * right, of_class + as_class)]
    there = of_class > 0
    nan = float("nan")
    values = {
        "accuracy": float(np.trace(confusion) / total) if total else nan,
        "no_label": float(confusion[:, count].sum() / total) if total else nan,
    }
    for name, each_class in zip(("precision", "recall", "f1"), figures, strict=True):
        values[f"macro_{name}"] = float(each_class[there].mean()) if total else nan
        values |= {
            f"{name}/{label}": float(one) if is_there else nan
            for label, one, is_there in zip(labels, each_class, there, strict=True)
        }
    return values


def _share(part: Float[np.ndarray, "L"], whole: Float[np.ndarray, "L"]) -> Float[np.ndarray, "L"]:
    """Their ratio; 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
