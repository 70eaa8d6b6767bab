"""What Hydra says of a command line, as one sentence: the key or the group, what was given, the way out."""

import re
from collections.abc import Sequence

import yaml
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue

from kljax.errors import did_you_mean
from kljax.overrides.folders import options
from kljax.validation import leaf_keys, unknown_key


def sentence(error: Exception, schema: type | None, search: str | None = None) -> str:
    """Hydra's message in one line, with the nearest right name. `search`: a directory of configs beside kljax's."""
    text = str(error)
    if isinstance(error, yaml.YAMLError):
        return _broken_file(error)
    if found := re.search(r"Could not (?:override|append) '([^']+)'", text):
        return _no_key(found[1].lstrip("+"), schema)
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        return _no_option(found[1], found[2], options(found[1], search))
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing, and it has no default; give it as {error.full_key}=…"
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), text.splitlines()[0])
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    return " ".join(str(cause).split())


def _broken_file(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}: line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{where}no YAML ({getattr(error, 'problem', None) or error})."


def _no_key(key: str, schema: type | None) -> str:
    known = list(leaf_keys(schema)) if schema else []
    if key.startswith("reward.") and key.count(".") == 1:
        return f"{key}: no such reward is chosen; to add one, write +{key}=…"
    return _not_here(key) if key in known else unknown_key(key, known)


def _no_option(group: str, option: str, known: Sequence[str]) -> str:
    if group.startswith("hydra/"):
        kind = group.removeprefix("hydra/")
        package = f"hydra-{option.replace('_', '-')}-{kind}"
        return f"{group}: got '{option}', which is not part of Hydra, and no package {package} is installed."
    return f"{group}: no option '{option}', expected one of {', '.join(known)}.{did_you_mean(option, known)}"


def _unreadable(override: str, reason: str) -> str:
    key, _, value = override.partition("=")
    if re.search(r"[=:{}\[\], ]", value) and not re.match(r"['\"\[{]", value):
        quoted = f"'{key}=\"{value}\"'"
        return f"{override}: cannot be read ({reason}); quote the value for Hydra and for the shell: {quoted}."
    return f"{override}: cannot be read as key=value ({reason}); quote lists for the shell, as in 'key=[1,2]'."


def _not_here(key: str) -> str:
    """A key that the schema knows, but not for the part that is chosen now."""
    for part in (key, key.rpartition(".")[0]):
        group = part.replace(".", "/")
        if part and (names := options(group)):
            choice = f"choose the part as a whole, with {group}=… (one of {', '.join(names)})"
            return f"{key}: not a key of the present choice of {part}; {choice}, or add it with +{key}=…"
    return f"{key}: not a key of the present choice; add it with +{key}=…"
