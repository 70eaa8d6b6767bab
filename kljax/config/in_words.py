"""Types of the schema in words: what a value may be, for a person who has to write one."""

import types
import typing
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "null", Any: "any value"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def description(schema: Any, field: str) -> str:
    """The docstring below the field."""
    return schema.__pydantic_fields__[field].description or ""


def in_words(hint: Any) -> str:
    """`hint` as `typing.get_type_hints(…, include_extras=True)` has it: 'number >= 0', 'one of a, b', 'null'."""
    if typing.get_origin(hint) is Annotated:
        base, *given = typing.get_args(hint)
        rules = [rule for one in given for rule in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return in_words(base) + _bounds(rules)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = typing.get_args(hint)
        return " or ".join(dict.fromkeys(in_words(part) for part in parts))
    if typing.get_origin(hint) is Literal:
        names = [str(name) for name in typing.get_args(hint)]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if typing.get_origin(hint) is list:
        return f"list, each {in_words(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict or is_dataclass(hint):
        return "section"
    return PLAIN[hint]


def _bounds(rules: Iterable[Any]) -> str:
    """' >= 0 and < 1', of a length ' (2 entries)', or nothing."""
    found = {name: value for rule in rules for name, value in _fields_of(rule).items() if value is not None}
    bounds = [f"{sign} {found[name]:.15g}" for name, sign in BOUNDS.items() if name in found]
    least, most = found.get("min_length"), found.get("max_length")
    if "pattern" in found:
        return f" of letters, digits, '.', '_', '+' or '-' (at most {most})"
    entries = f"{least} entries" if least == most else f"at least {least}"
    return (f" {' and '.join(bounds)}" if bounds else "") + (f" ({entries})" if least is not None else "")


def _fields_of(rule: Any) -> dict[str, Any]:
    """A rule's fields, whether it has a dictionary or slots."""
    names = [*getattr(rule, "__dict__", {}), *getattr(rule, "__slots__", ())]
    return {name: getattr(rule, name, None) for name in names}
