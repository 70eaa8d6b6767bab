"""How much of a text is in another: ROUGE, BLEU and chrF to a target; compression and novelty against a source.

All are between 0 and 1 but compression, and are rewards as well as metrics. A row whose target is missing or has no word has no
score (None); an empty completion has 0. Those of a whole corpus are in kljax/tasks/corpus.py, on sacrebleu's scale of 0 to 100.
"""

import logging
from functools import lru_cache
from typing import Any

from kljax.data.conversations import Message
from kljax.errors import UserError, did_you_mean
from kljax.progress import say
from kljax.rewards.words import HAN, OTHERS, UNSPACED, each, letters, shown, words

Texts = list[str] | list[list[Message]]

TOKENIZERS = ("ascii", "unicode")

BLIND = {"13a": UNSPACED, "intl": UNSPACED, "none": UNSPACED, "zh": OTHERS}
"""sacrebleu's tokenizers that leave a sentence of these scripts in one piece."""

_said: set[str] = set()


def rouge_1(
    prompts: list[Any], completions: Texts, target: list[Any], *, use_stemmer: bool = True, tokenizer: str = "ascii"
) -> list[float | None]:
    """ROUGE-1 of completion and target: F-measure of their words, each counted as often as it occurs (Lin 2004), 0 to 1.

    By the package rouge-score. use_stemmer: words without their English endings, as most papers have it (ROUGE-1.5.5's option
    -m). tokenizer: `ascii`, the package's own, whose words are of a–z and 0–9: other letters end a word and are lost, so that
    größer is gr and er. This is said once, and refused where most words of a target would be. `unicode` keeps all
    letters, equals it on ASCII text, and takes the characters of scripts without spaces as words.
    """
    return _rouge("rouge1", completions, target, use_stemmer, tokenizer)


def rouge_2(
    prompts: list[Any], completions: Texts, target: list[Any], *, use_stemmer: bool = True, tokenizer: str = "ascii"
) -> list[float | None]:
    """ROUGE-2: the same of pairs of neighbouring words. 0 where completion or target have one word only."""
    return _rouge("rouge2", completions, target, use_stemmer, tokenizer)


def rouge_l(
    prompts: list[Any], completions: Texts, target: list[Any], *, use_stemmer: bool = True, tokenizer: str = "ascii"
) -> list[float | None]:
    """ROUGE-L: the same of their longest common subsequence of words, of the text as a whole (not rougeLsum's lines)."""
    return _rouge("rougeL", completions, target, use_stemmer, tokenizer)


def chrf(prompts: list[Any], completions: Texts, target: list[Any], *, word_order: int = 0) -> list[float | None]:
    """sacrebleu's sentence chrF2, over 100: F2 of n-grams of up to 6 characters (Popović 2015), 0 to 1.

    word_order=2 is chrF++. Case and punctuation count, spaces do not. It reads any script.
    """
    metric = chrf_of(word_order=word_order)
    return each(completions, target, lambda said, wanted: _share(metric, said, wanted))


def bleu(prompts: list[Any], completions: Texts, target: list[Any], *, tokenize: str = "13a") -> list[float | None]:
    """sacrebleu's sentence BLEU, over 100: with effective order and smoothing `exp` (its defaults for a sentence), 0 to 1.

    BLEU is a figure of a corpus; of a sentence chrF is the better judge. A target in a script without spaces, which the
    tokenizer would leave in one piece, is refused.
    """
    metric = bleu_of(tokenize=tokenize, effective_order=True)

    def score(said: str, wanted: str) -> float | None:
        check_script(tokenize, wanted)
        return _share(metric, said, wanted)

    return each(completions, target, score)


def compression(prompts: list[Any], completions: Texts, source: list[Any]) -> list[float | None]:
    """Words of the completion over words of the source: 0 of an empty one, more than 1 where it is the longer text."""

    def ratio(said: str, whole: str) -> float | None:
        count = len(words(whole))
        return len(words(said)) / count if count else None

    return each(completions, source, ratio, name="source")


def novelty(prompts: list[Any], completions: Texts, source: list[Any], *, n: int = 2) -> list[float | None]:
    """Share of the completion's different n-grams of words that the source has not: 0 where all is copied.

    A completion of fewer than n words has none, and 0: nothing in it is new, and to say nothing is no way to be scored high.
    """

    def share(said: str, whole: str) -> float:
        own = _grams(said, n)
        return len(own - _grams(whole, n)) / max(len(own), 1)

    return each(completions, source, share, name="source")


def prepare_rouge(use_stemmer: Any = True, tokenizer: Any = "ascii") -> None:
    """Check that the package is there and that the arguments are such."""
    if not isinstance(use_stemmer, bool):
        raise UserError(f"arguments.use_stemmer: got {use_stemmer!r}, expected true or false.")
    if tokenizer not in TOKENIZERS:
        raise UserError(
            f"arguments.tokenizer: got {tokenizer!r}, expected one of {', '.join(TOKENIZERS)}."
            f"{did_you_mean(str(tokenizer), TOKENIZERS)}"
        )
    _scorer("rougeL", use_stemmer, tokenizer)


def prepare_chrf(word_order: Any = 0) -> None:
    """Check that the package is there, and the order."""
    check_count("word_order", word_order, least=0)
    chrf_of(word_order=word_order)


def prepare_bleu(tokenize: Any = "13a") -> None:
    """Check that the package is there, and the tokenizer with what it needs."""
    bleu_of(tokenize=tokenize, effective_order=True)


def prepare_novelty(n: Any = 2) -> None:
    """Check the length of the n-grams."""
    check_count("n", n, least=1)


def check_count(name: str, value: Any, *, least: int) -> None:
    """UserError where an argument is no whole number of at least this."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"arguments.{name}: got {value!r}, expected a whole number >= {least}.")


@lru_cache
def bleu_of(*, tokenize: Any, effective_order: bool) -> Any:
    """sacrebleu's BLEU with a tokenizer of its own, whose packages are there."""
    sacrebleu = _sacrebleu()
    if tokenize not in (known := list(sacrebleu.BLEU.TOKENIZERS)):
        raise UserError(
            f"arguments.tokenize: got {tokenize!r}, expected one of sacrebleu's tokenizers: {', '.join(known)}."
            f"{did_you_mean(str(tokenize), known)}"
        )
    try:
        return sacrebleu.BLEU(tokenize=tokenize, effective_order=effective_order)
    except Exception as error:  # a package of its own is missing, or a file that it loads from the net
        reason = " ".join(str(error).split())
        raise UserError(f"arguments.tokenize: sacrebleu's tokenizer {tokenize!r} is not ready here: {reason}") from None


@lru_cache
def chrf_of(*, word_order: int) -> Any:
    """sacrebleu's chrF2, with n-grams of this many words besides."""
    return _sacrebleu().CHRF(word_order=word_order)


def check_script(tokenize: str, target: str) -> None:
    """UserError where more than half of the words are characters of a script that sacrebleu's tokenizer leaves in one piece."""
    found = [] if tokenize not in BLIND or target.isascii() else words(target)
    if 2 * sum(letters(word, BLIND[tokenize]) > 0 for word in found) <= len(found):
        return
    way = "zh or char" if letters(target, HAN) and tokenize != "zh" else "char"
    raise UserError(
        f"arguments.tokenize: the target {shown(target)} is in a script without spaces, of which the tokenizer {tokenize!r} "
        f"makes one word, expected {way}."
    )


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise UserError("needs the package sacrebleu; install it with: pip install sacrebleu.") from None
    return sacrebleu


def _share(metric: Any, said: str, wanted: str) -> float | None:
    return min(metric.sentence_score(said, [wanted]).score / 100, 1.0) if wanted.strip() else None


def _rouge(kind: str, completions: Texts, target: list[Any], use_stemmer: bool, tokenizer: str) -> list[float | None]:
    scorer = _scorer(kind, use_stemmer, tokenizer)

    def score(said: str, wanted: str) -> float | None:
        if tokenizer == "ascii":
            _check_ascii(wanted)
        return float(scorer.score(wanted, said)[kind].fmeasure) if letters(wanted) else None

    return each(completions, target, score)


def _check_ascii(target: str) -> None:
    """Say once that letters are lost, and refuse a target of which they make up the most of more than half of the words."""
    found = [] if target.isascii() else words(target)
    read = [letters(word, "a-z0-9") / max(letters(word), 1) for word in found]
    if all(part == 1 for part in read):
        return
    if 2 * (most := sum(part >= 0.5 for part in read)) < len(found):
        raise UserError(
            f"arguments.tokenizer: of the target {shown(target)} ROUGE's own tokenizer, ascii, can read {most} of {len(found)} "
            "words (a–z and 0–9 alone), expected unicode."
        )
    if "ascii" not in _said:
        _said.add("ascii")
        say(
            f"ROUGE's own tokenizer reads a–z and 0–9 alone: the target {shown(target)} is cut at its other letters, which are "
            "lost; arguments.tokenizer=unicode keeps them."
        )


@lru_cache
def _scorer(kind: str, use_stemmer: bool, tokenizer: str) -> Any:
    logging.getLogger("absl").setLevel(logging.WARNING)  # it tells of each scorer which tokenizer it has
    try:
        from rouge_score import rouge_scorer, tokenizers
    except ImportError:
        raise UserError("needs the package rouge-score; install it with: pip install rouge-score.") from None
    plain = tokenizers.DefaultTokenizer(use_stemmer)
    return rouge_scorer.RougeScorer([kind], tokenizer=plain if tokenizer == "ascii" else _Unicode(plain))


class _Unicode:
    """All words, those of them that are ASCII as rouge-score has them: its stemmer is for English."""

    def __init__(self, plain: Any):
        self._plain = plain

    def tokenize(self, text: str) -> list[str]:
        return [one for word in words(text) for one in (self._plain.tokenize(word) if word.isascii() else [word])]


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}
