"""Mistakes in a config, each as one sentence: the field, what was given, what was expected, the way out."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from kljax.config import coming_from
from kljax.errors import did_you_mean

MOST_MEANT = 3  # keys that are offered in the place of one

NOTHING = ("none", "null", "false", "off", "no", "")
"""Words for an empty list."""

WAYS_OUT = {
    "kl.beta": "To train without a penalty, set kl.beta=0.",
    "rollout.temperature": "For greedy decoding, set rollout.temperature=0.",
    "algorithm": "GRPO is nearest to algorithm=rloo reward_scale=prompt_std kl.penalty=k3_loss (docs/coming_from_trl.md).",
    "step": "Give the step of a checkpoint, latest or best.",
    "reward": "Choose one or more of configs/reward/, as in reward=[sentiment,length], or add your own with +reward.NAME=….",
}


def leaf_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config can have, for suggestions."""
    for field in fields(schema):
        yield prefix + field.name
        for member in members(typing.get_type_hints(schema)[field.name]):
            yield from leaf_keys(member, f"{prefix}{field.name}.")


def members(hint: Any) -> list[Any]:
    """The sections that a field may be."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    return [option for option in options if is_dataclass(option)]


def sentence(errors: Sequence[Any], schema: Any) -> str:
    """The first of pydantic's errors as: field, what was given, what was expected, the way out."""
    error, known = errors[0], set(leaf_keys(schema))
    kind, context = error["type"], error.get("ctx", {})
    way_out = f" {WAYS_OUT[field]}" if (field := _field(error["loc"], known, keep_last=False)) in WAYS_OUT else ""
    unknown = kind in ("extra_forbidden", "unexpected_keyword_argument")
    field = _field(error["loc"], known, keep_last=unknown)
    if unknown and field in known:
        part = field.rpartition(".")[0]
        return f"{field}: not a key of the present choice of {part}; choose it as a whole, with {part.replace('.', '/')}=…"
    if unknown:
        return unknown_key(field, known)
    if kind in ("missing", "missing_argument") and field == "reward":  # reward=[] and nothing added
        return f"reward: there is none. {WAYS_OUT['reward']}"
    if kind in ("missing", "missing_argument"):
        return f"{field}: missing, and it has no default; give it as +{field}=…"
    if kind == "union_tag_not_found":
        return f"{field}: its 'kind' is missing."
    if kind in ("dict_type", "dataclass_type", "model_attributes_type"):
        return f"{field}: got {error['input']!r}, expected {_section(field, error['input'], schema)}."
    if kind == "union_tag_invalid" or (kind == "literal_error" and len(errors) == 1):
        names = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        given = str(context.get("tag", error["input"]))
        suffix = ".kind" if kind == "union_tag_invalid" else ""
        return f"{field}{suffix}: got {given!r}, expected one of {', '.join(names)}.{did_you_mean(given, names) or way_out}"
    if kind == "list_type":
        return f"{field}: got {error['input']!r}, expected a list{_list(field, error['input'], schema)}."
    # What may be of several types has an error for each.
    same = [one for one in errors if _field(one["loc"], known, keep_last=False) == field and one["input"] is error["input"]]
    expected = " or ".join([*dict.fromkeys(map(_expected, same)), *(["null"] if _may_be_null(field, schema) else [])])
    return f"{field}: got {error['input']!r}, expected {expected}.{way_out}"


def hint_of(field: str, schema: Any) -> Any:
    """The type of a dotted field, None where it has none; of parts that are chosen the first that has the field."""
    owners: list[Any] = [schema]
    hint = None
    for part in field.split("."):
        hints = (typing.get_type_hints(owner) for owner in owners)
        hint = next((found[part] for found in hints if part in found), None)
        owners = members(hint)
    return hint


def _may_be_null(field: str, schema: Any) -> bool:
    return types.NoneType in typing.get_args(hint_of(field, schema))


def _list(field: str, given: Any, schema: Any) -> str:
    """How a list of names is written: with the one that was given, or none where that is a word for it."""
    names = [name for of in typing.get_args(hint_of(field, schema)) for name in typing.get_args(of) if isinstance(name, str)]
    if not names:
        return ""
    return (
        f": {field}=[] is none"
        if str(given).lower() in NOTHING
        else f", as in {field}=[{given if given in names else names[0]}]"
    )


def _section(field: str, given: Any, schema: Any) -> str:
    """A sentence for a word or a number that stands for a section."""
    if field.startswith("reward."):
        return "a section, as in '{kind: python, function: module.function, weight: 1.0, arguments: {}}'"
    parts = members(hint_of(field, schema))
    if len(parts) > 1 and not _may_be_null(field, schema):
        kinds = [kind for part in parts for kind in typing.get_args(typing.get_type_hints(part)["kind"])]
        return f"a section; choose it as a whole, with {field.replace('.', '/')}={given if given in kinds else '…'}"
    keys = ", ".join(f"{field}.{key}" for key in leaf_keys(parts[0]) if "." not in key) if parts else ""
    if len(parts) == 1:
        return f"a section; its keys are {keys}"
    return f"null or a section with its kind, as in '{field}={{kind: …}}'" if parts else "a section with keys of its own"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The answer to a key that no config has: which of ours it may be, and what it is called here if it is one of TRL's."""
    known = sorted(known)
    theirs = coming_from.answer(key) if "rollout" in known else None  # not where nothing is trained
    near = _nearest(key, known, sure=theirs is not None)
    if key == "task" and "about" in known:  # of kljax judge
        theirs = "What judges are asked is about=…; without it it is what the run's own task asks."
    return f"{key}: no such config key.{near}{f' {theirs}' if theirs else ''}"


def _nearest(key: str, known: Sequence[str], sure: bool) -> str:
    """Keys with the same last part, then the one that is nearest in all, in its last part, then all of its section.

    `sure`: only the first of these, as there is another answer.
    """
    if key.lower() in known:
        return f" Did you mean '{key.lower()}'?"
    section, _, last = key.replace("/", ".").rpartition(".")
    if same := [one for one in known if one.rpartition(".")[2] == last]:
        here = difflib.get_close_matches(key, same, n=1, cutoff=0.85)
        here = here or [one for one in same if section and one.startswith(f"{section.split('.')[0]}.")] or same
        return f" Did you mean {' or '.join(repr(one) for one in here[:MOST_MEANT])}?"
    if sure:
        return ""
    like = {one.rpartition(".")[2]: one for one in reversed(known)}
    for one in difflib.get_close_matches(key, known, n=MOST_MEANT, cutoff=0.6):
        if difflib.SequenceMatcher(None, last, one.rpartition(".")[2]).ratio() >= 0.5:  # not by its section alone
            return f" Did you mean '{one}'?"
    if found := difflib.get_close_matches(last, list(like), n=1, cutoff=0.75):
        return f" Did you mean '{like[found[0]]}'?"
    there = [one for one in known if one.rpartition(".")[0] == section] if section else []
    return f" Those of {section} are {', '.join(there)}." if there else ""


def _field(location: tuple[Any, ...], known: set[str], keep_last: bool) -> str:
    """The dotted key as the user wrote it: pydantic puts the tags of unions into the location."""
    kept: list[str] = []
    for i, part in enumerate(map(str, location)):
        mine = ".".join([*kept, part]) in known or kept[:1] == ["reward"] or (keep_last and i == len(location) - 1)
        if mine:
            kept.append(part)
    return ".".join(kept)


def _expected(error: Any) -> str:
    """A field's type and bounds, in words."""
    context = error.get("ctx", {})
    bound = next(iter(context.values()), None)
    bound = f"{bound:.15g}" if isinstance(bound, float) else bound
    words = {
        "greater_than_equal": f"a number >= {bound}",
        "greater_than": f"a number > {bound}",
        "less_than_equal": f"a number <= {bound}",
        "less_than": f"a number < {bound}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text",
        "string_pattern_mismatch": "letters, digits, '.', '_', '+' or '-', beginning with a letter or digit",
        "string_too_short": "some text",
        "list_type": "a list",
        "too_short": f"at least {_entries(context.get('min_length'))}",
        "too_long": f"at most {_entries(context.get('max_length'))}",
        "literal_error": "one of " + ", ".join(re.findall(r"'([^']*)'", str(context.get("expected")))),
    }
    return words.get(error["type"]) or error["msg"].removeprefix("Input should be ")


def _entries(number: int | None) -> str:
    return "one entry" if number == 1 else f"{number} entries"
