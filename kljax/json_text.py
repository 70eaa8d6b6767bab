"""JSON that every reader can read: no NaN, no Infinity, nothing that is no Unicode. The one place that calls `json.dumps`."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kljax.errors import UserError


def json_text(values: Any, *, indent: int | None = None) -> str:
    """Figures, for a file or a stream. A number that is not finite becomes null, since JSON has none."""
    return _text(_with_nulls(values), indent)


def strict_json_text(values: Any, where: str, *, indent: int | None = None) -> str:
    """Settings, for a file that says what something is: a number that is not finite is refused with its key.

    `where` is the file, for the sentence.
    """
    if bad := next(_not_finite(values), None):
        key, number = bad
        raise UserError(f"{where}: {key} is {number}, for which JSON has no number; expected a finite one.")
    return _text(values, indent)


def key_text(values: Any, default: Callable[[Any], Any] | None = None) -> str:
    """The same text for equal values, to compare or to hash. Not for files."""
    return json.dumps(values, sort_keys=True, default=default)


def cell_text(value: Any) -> str:
    """A value of a file's row that stays JSON within a column. What JSON has no number for is refused before."""
    return json.dumps(value, allow_nan=False)


def shown(value: Any, longest: int | None = None) -> str:
    """A value for a sentence, as it stands in a JSON file, cut where it is long. In ASCII: a terminal can show it."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if longest is None or len(text) <= longest else f"{text[:longest]}…"


def unicode_text(text: str) -> str:
    """The text with half a surrogate pair, which no file can hold, spelled as \\ud800."""
    return _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


_LONE = re.compile("[\ud800-\udfff]")


def _text(values: Any, indent: int | None) -> str:
    # Within JSON's strings the spelling of a lone surrogate is its escape: a reader gets back what was there.
    return unicode_text(json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _not_finite(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The keys, as in a.b, of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key or "its value", value
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, each in pairs:
        yield from _not_finite(each, f"{key}.{name}" if key else str(name))
