"""The page of `--help KEY …`: each key below it with its type and bounds, the value that it has now, and what it is.

Explanations are the docstrings below the fields of kljax/config/, choices are files of configs/, values Hydra's.
"""

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from kljax.config import Config, RewardTerm
from kljax.config.in_words import description, in_words
from kljax.config.mistakes import leaf_keys, members, unknown_key
from kljax.errors import UserError
from kljax.json_text import shown
from kljax.overrides.folders import folders, options

EXPERIMENT, REWARD, HYDRA = "experiment", "reward", "hydra"
UNGIVEN = "???"  # Hydra's sign for what a command line has to give


Line = tuple[int, Text]
"""How far a paragraph is set in, and the paragraph."""


@dataclass(frozen=True)
class Field:
    """A key and where it stands in the schema: `owner` has it as `name`; `hint` is its type, with bounds."""

    key: str
    owner: Any
    name: str
    hint: Any

    @property
    def parts(self) -> list[Any]:
        """The sections that it may be, none where it is a value."""
        return members(typing.get_type_hints(self.owner)[self.name])

    @property
    def says(self) -> str:
        """Its kind and meaning."""
        return description(self.owner, self.name)


def asked_about(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys that are asked about, which have no '=', and the overrides."""
    keys = [one for one in overrides if "=" not in one and not one.startswith("~")]
    return keys, [one for one in overrides if one not in keys]


def show(page: Sequence[Line], console: Console) -> None:
    """Print a page in the width that there is, without blanks at the ends of its lines."""
    for indent, paragraph in page:
        for line in paragraph.wrap(console, max(console.width - indent, 20)):
            line.rstrip()
            console.print(Text(" " * indent).append_text(line), soft_wrap=True)


def page(keys: Sequence[str], schema: type, values: Mapping[str, Any], search: str | None = None) -> list[Line]:
    """All that there is to say of keys, each a key, a section, a group or the beginning of keys.

    `values` are composed, not validated; `search` is --config-dir's. UserError where one is no key.
    """
    return [line for key in keys for line in _about(key.replace("/", ".").rstrip("."), schema, values, search)]


def _about(key: str, schema: type, values: Mapping[str, Any], search: str | None) -> Iterator[Line]:
    if not key:
        raise UserError("--help: got an empty key, expected one, a part or a group, as in --help kl.")
    if key.partition(".")[0] == HYDRA:
        raise UserError(f"--help: got {key}, which is Hydra's own; --cfg hydra shows all its values, --hydra-help its options.")
    if schema is Config and key == EXPERIMENT:
        yield from _options(EXPERIMENT, f"{EXPERIMENT}=…: a file of values, of which the command line changes any.", search)
        return
    if schema is Config and key.startswith(f"{REWARD}."):
        yield from _reward(key, values, search)
        return
    everything = list(_fields(schema))
    found = [one for one in everything if one.key == key] or [one for one in everything if one.key.startswith(key)]
    if not found:
        raise UserError(unknown_key(key, {*leaf_keys(schema), *([EXPERIMENT] if schema is Config else [])}))
    shown: set[str] = set()
    for one in found:
        if one.key not in shown:
            alike = [two for two in found if two.key == one.key]
            for two in [two for two in alike if _chosen(two, values)] or alike:
                yield from _one(two, values, search)
            shown |= {one.key, *(two.key for two in everything if one.parts and two.key.startswith(f"{one.key}."))}


def _fields(schema: Any, prefix: str = "") -> Iterator[Field]:
    """Every field below a section, each section before its own; of sections that are chosen, those of every choice."""
    for one in _direct(schema, prefix):
        yield one
        for part in one.parts:
            yield from _fields(part, f"{one.key}.")


def _direct(schema: Any, prefix: str = "") -> Iterator[Field]:
    hints = typing.get_type_hints(schema, include_extras=True)
    return (Field(prefix + field.name, schema, field.name, hints[field.name]) for field in fields(schema))


def _one(
    field: Field, values: Mapping[str, Any], search: str | None, depth: int = 0, below_choice: bool = False
) -> Iterator[Line]:
    """A key with all that is below it."""
    if field.key == REWARD and field.owner is Config:
        yield from _entry("reward=[…]", field.says, depth)
        for name in values[REWARD] if isinstance(values.get(REWARD), Mapping) else ():
            yield from _term(name, values[REWARD][name], depth + 1)
        yield from _options(REWARD, "Choices, one or more of:", search, depth + 1)
    elif len(field.parts) > 1:
        yield from _choice(field, values, search, depth)
    elif field.parts:
        yield from _entry(field.key, field.says, depth)
        for below in _direct(field.parts[0], f"{field.key}."):
            yield from _one(below, values, search, depth + 1)
    else:
        of = "" if below_choice else f"   [of {'|'.join(_kinds(field.owner))}, not chosen now]"
        value = _now(field, values) if _chosen(field, values) else of
        yield from _entry(field.key, f"{_capital(in_words(field.hint))}. {field.says}", depth, value)


def _choice(field: Field, values: Mapping[str, Any], search: str | None, depth: int) -> Iterator[Line]:
    """A section of several: the ways to choose one, then each with its keys."""
    group = field.key.replace(".", "/")
    kinds = {name: _kind(group, name, search) for name in options(group, search)}
    if kinds:
        yield from _entry(f"{group}={' | '.join(kinds)}", field.says, depth)
    else:
        one_of = " | ".join(kind for part in field.parts for kind in _kinds(part))
        yield from _entry(f"{field.key}={{kind: {one_of}, …}}, or null", field.says, depth)
    for part in field.parts:
        mine = _kinds(part)
        names = [name for name, kind in kinds.items() if kind in mine]
        head = f"{group}={' | '.join(names)}" if names else f"kind: {' | '.join(mine)}"
        now = _value(values, f"{field.key}.kind") in mine
        yield from _entry(head, _capital(part.__doc__ or ""), depth + 1, "   [chosen now]" if now else "")
        for below in _direct(part, f"{field.key}."):
            if below.name != "kind":  # which choosing sets
                yield from _one(below, values if now else {}, search, depth + 2, below_choice=True)


def _kinds(part: Any) -> tuple[str, ...]:
    """The names by which a section of several is told from the others; none where it is the only one."""
    return typing.get_args(typing.get_type_hints(part).get("kind"))


def _chosen(field: Field, values: Mapping[str, Any]) -> bool:
    """Whether the section that has the field is part of the config."""
    section, kinds = _value(values, field.key.rpartition(".")[0]), _kinds(field.owner)
    return isinstance(section, Mapping) and (not kinds or section.get("kind") in kinds)


def _reward(key: str, values: Mapping[str, Any], search: str | None) -> Iterator[Line]:
    """A term, a key of it, or an option that is not chosen; terms have any name."""
    _, name, *rest = key.split(".")
    terms = values[REWARD] if isinstance(values.get(REWARD), Mapping) else {}
    names, known = [*terms, *options(REWARD, search)], [field.name for field in fields(RewardTerm)]
    if name not in names or (rest and rest[0] not in known):
        keys = {f"{REWARD}.{one}{below}" for one in names for below in ("", *(f".{key}" for key in known))}
        raise UserError(unknown_key(key, keys))
    if name in terms:
        yield from _term(name, terms[name], 0, only=rest[0] if rest else None)
    else:
        yield from _options(REWARD, f"Not chosen now; reward=[{name}], or beside others reward=[…,{name}]:", search, only=name)


def _term(name: str, values: Mapping[str, Any], depth: int, only: str | None = None) -> Iterator[Line]:
    for field in _direct(RewardTerm, f"{REWARD}.{name}."):
        if only in (None, field.name):
            value = f" = {_written(values[field.name])}" if field.name in values else ""
            yield from _entry(field.key, f"{_capital(in_words(field.hint))}. {field.says}", depth, value)


def _options(group: str, title: str, search: str | None, depth: int = 0, only: str | None = None) -> Iterator[Line]:
    """The files of a group, each with what its comment says first."""
    yield from _entry("", title, depth)
    for name in options(group, search):
        if only in (None, name):
            yield from _entry(name, _comment(_file(group, name, search)), depth + 1)


def _file(group: str, name: str, search: str | None) -> Path:
    return next(file for folder in folders(search) if (file := folder / group / f"{name}.yaml").exists())


def _comment(file: Path) -> str:
    """The lines of the first comment that is not Hydra's, up to one that ends a sentence."""
    said = ""
    for line in (line.strip() for line in file.read_text().splitlines()):
        if not line.startswith("#") or said.endswith((".", "?", ":", "!")):
            break
        if not re.match(r"#\s*@package", line):
            said = f"{said} {line.lstrip('# ')}".strip()
    return said


def _kind(group: str, name: str, search: str | None) -> str | None:
    values = yaml.safe_load(_file(group, name, search).read_text())
    return values.get("kind") if isinstance(values, dict) else None


def _now(field: Field, values: Mapping[str, Any]) -> str:
    """` = value` as it is composed, or what it is by default."""
    if (value := _value(values, field.key)) is MISSING:
        default = next(one.default for one in fields(field.owner) if one.name == field.name)
        value = getattr(default, "default", default)
    return "   [must be given]" if value in (UNGIVEN, MISSING) else f" = {_written(value)}"


def _value(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, `values` themselves for none; MISSING where there is no such key."""
    at: Any = values
    for part in key.split(".") if key else ():
        if not isinstance(at, Mapping) or part not in at:
            return MISSING
        at = at[part]
    return at


def _written(value: Any) -> str:
    """As a person would write it."""
    return value if isinstance(value, str) and value else shown(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _entry(head: str, says: str, depth: int, value: str = "") -> Iterator[Line]:
    """A key with its value, and below it, further in, what is said of it."""
    if head:
        yield 2 * depth, Text.assemble((head, "bold"), value)
    yield 2 * depth + (4 if head else 0), Text(" ".join(says.split()))
