"""Whether an answer is right: a number, a text, a label; rewards as well as metrics, 0 to 1.

Numbers are read as English writes them: 1,234.50, of any sign and currency. They are equal where their values are: 18.00 is 18.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import regex

from kljax.data.conversations import Message, said
from kljax.errors import UserError, did_you_mean
from kljax.rewards.words import UNSPACED, each, shown

Texts = list[str] | list[list[Message]]

READINGS = ("last", "marked")

MARK = r"(?<!\#)\#{4}(?!\#)[ \t]*"
"""Four hashes, after which GSM8K's answers stand."""

# A sign after a letter, a digit or a bracket is none: 5-10, x-1.
NUMBER = r"""
    (?: (?<![\w)\]]) (?P<sign>[-+−]) )?
    [$€£¥]? (?P<inner>(?<=[$€£¥])[-−])?
    (?P<digits> \d{1,3}(?:[,\u00A0\u202F\u2009]\d{3})+(?![\d]) (?:\.\d+)? | \d+(?:\.\d+)? | (?<![\d])\.\d+ )
    (?P<power> [eE][-+]?\d{1,3} (?!\w) )?
"""
_NUMBER = regex.compile(NUMBER, regex.VERBOSE)
# What goes on as 1,23 or 1/2 does is no number of this kind.
_MARKED = regex.compile(rf"{MARK} {NUMBER} (?! [\d] | [,./]\d )", regex.VERBOSE)
_MARKED_AT_END = regex.compile(rf"{MARK} {NUMBER} %? \.? \s* \Z", regex.VERBOSE)
_WHOLE = regex.compile(rf"\s* {NUMBER} \s* %? \.? \s* \Z", regex.VERBOSE)

_ARTICLES = regex.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNSPACED_CHARACTER = regex.compile(rf"([{UNSPACED}]\p{{M}}*)")
_GOES_ON = regex.compile(r"[\p{L}\p{M}\p{N}_]|[.,]\d")
_QUOTES = " \t\r\n\"'`*_#>([{“”„‘’«»「『（"


def exact_number(prompts: list[Any], completions: Texts, target: list[Any], *, reading: str = "last") -> list[float | None]:
    """1 where the completion's number is the target's, else 0: the accuracy of GSM8K.

    Of the target it is the number after `####`, or the target itself, which may be a number of the data. Of the completion it
    is the first one after `####`; where there is none, the last number of the text (reading=last, lenient, as EleutherAI's
    flexible-extract) or none at all (reading=marked, strict). No number is wrong. A row without a target has no score.
    """
    wanted = [None if value is None else target_number(value, i) for i, value in enumerate(target)]

    def right(completion: str | list[Message], number: Decimal | None) -> float | None:
        return None if number is None else float(number_of(said(completion), reading=reading) == number)

    return [right(completion, number) for completion, number in zip(completions, wanted, strict=True)]


def has_number_format(prompts: list[Any], completions: Texts) -> list[float]:
    """1 where the completion ends as GSM8K's answers do, in `#### number`, and has that once; else 0."""

    def good(text: str) -> bool:
        return _MARKED_AT_END.search(text) is not None and len(_MARKED.findall(text)) == 1

    return [float(good(said(completion))) for completion in completions]


def exact_text(prompts: list[Any], completions: Texts, target: list[Any]) -> list[float | None]:
    """1 where completion and target are the same text but for case, ASCII punctuation, the articles a, an, the, and spaces.

    As SQuAD has it (Rajpurkar et al. 2016), with one exception: what would leave nothing of a text is not taken from it, so
    that the answer A is not equal to the, nor + to −.
    """
    return each(completions, target, lambda said, wanted: float(normalised(said) == normalised(wanted)))


def token_f1(prompts: list[Any], completions: Texts, target: list[Any]) -> list[float | None]:
    """F1 of the words of completion and target, after the same normalisation, each counted as often as it occurs (SQuAD).

    Where one is empty, 1 if both are, else 0. In scripts without spaces each character is a word.
    """
    return each(completions, target, _f1)


def label(prompts: list[Any], completions: Texts, target: list[Any]) -> list[float | None]:
    """1 where the completion begins with the target, a class by name, else 0: `Positive.` names positive, `positively` none.

    Case, quotes and Markdown's signs before it do not matter. Where one label begins another, `named` takes the longest.
    """
    return each(completions, target, lambda said, wanted: float(named(said, [wanted]) == 0) if wanted.strip() else None)


def named(text: str, labels: Sequence[str]) -> int | None:
    """The place of the label with which the text begins, the longest if there are several; None where it is none of them."""
    found = [i for i, one in enumerate(labels) if _begins(text, one)]
    return max(found, key=lambda i: len(_folded(labels[i])), default=None)


def number_of(text: str, *, reading: str = "last") -> Decimal | None:
    """The number that a completion gives as its answer; None where there is none."""
    if match := _MARKED.search(text):
        return _value(match)
    matches = list(_NUMBER.finditer(text)) if reading == "last" else []
    return _value(matches[-1]) if matches else None


def target_number(value: Any, sample: int) -> Decimal:
    """The number of a target, or a `UserError`."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and Decimal(str(value)).is_finite():
        return Decimal(str(value))
    match = (_MARKED.search(value) or _WHOLE.match(value)) if isinstance(value, str) else None
    if match is None:
        raise UserError(
            f"its target of sample {sample} is {shown(value)}, expected a number, or a text with one after '####', as in GSM8K."
        )
    return _value(match)


def normalised(text: str) -> str:
    """SQuAD's normal form of an answer, of NFC: a step that would leave nothing of it is not taken."""
    plain = unicodedata.normalize("NFC", text).lower()
    plain = plain.translate(_PUNCTUATION) if plain.translate(_PUNCTUATION).strip() else plain
    short = _ARTICLES.sub(" ", plain)
    return " ".join((short if short.strip() else plain).split())


def prepare_number(reading: Any = "last") -> None:
    """Check how numbers are to be read."""
    if reading not in READINGS:
        raise UserError(
            f"arguments.reading: got {reading!r}, expected one of {', '.join(READINGS)}.{did_you_mean(str(reading), READINGS)}"
        )


def _value(match: Any) -> Decimal:
    digits = "".join(one for one in match["digits"] if one.isdigit() or one == ".")
    number = Decimal(digits + (match["power"] or ""))
    negative = sum(one in ("-", "−") for one in (match["sign"], match["inner"]))
    return number.copy_negate() if negative == 1 else number  # a product would be rounded


def _f1(text: str, wanted: str) -> float:
    own, right = _tokens(text), _tokens(wanted)
    if not own or not right:
        return float(own == right)
    common = sum((Counter(own) & Counter(right)).values())
    return 2 * common / (len(own) + len(right))


def _tokens(text: str) -> list[str]:
    return _UNSPACED_CHARACTER.sub(r" \1 ", normalised(text)).split()


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _begins(text: str, wanted: str) -> bool:
    folded, begin = _folded(text), _folded(wanted)
    return any(one.startswith(begin) and _ends(begin, one[len(begin) :]) for one in (folded, folded.lstrip(_QUOTES)) if begin)


def _ends(begin: str, rest: str) -> bool:
    """Whether a word that is read so far ends here. A script without spaces does not show it."""
    if not regex.match(r"[\p{L}\p{M}\p{N}_]", begin[-1]) or regex.match(rf"[{UNSPACED}]", begin[-1]):
        return True
    return not (match := _GOES_ON.match(rest)) or (match[0][0] in ".," and not begin[-1].isdigit())
