"""Hydra's answers to a command line, each as one sentence: the key or the group, what was given, the way out."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kljax.config import Config, RewardTerm
from kljax.config.mistakes import leaf_keys, unknown_key
from kljax.errors import did_you_mean
from kljax.overrides.folders import CONFIGS, folders, options
from kljax.overrides.unreadable import explained

FILES = {
    "model": "A model with its weights is model=huggingface model.path=….",
    "tokenizer": "A tokenizer with its files is tokenizer=pretrained tokenizer.path=….",
    "data/source": "Text of your own is data/source=text data.source.path=….",
    "reward": "A function of your own is reward=python reward.python.function=module.function.",
    "task": "A task of your own is task=python task.function=module.TASK.",
}
"""The key that is meant by who gives a file or a name in the place of an option."""

ARGUMENTS = "task.arguments"
"""A section with any keys: those that the chosen task's file has, and with + more."""


def sentence(error: Exception, schema: type | None, overrides: Sequence[str] = (), search: str | None = None) -> str:
    """Hydra's message in one line, with the nearest right name. `search`: a directory of configs beside kljax's."""
    text = str(error)
    known = [*leaf_keys(schema), *(["experiment"] if schema is Config else [])] if schema else []
    if isinstance(error, yaml.YAMLError):
        return _broken_file(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_key(found[1], known, overrides)
    if found := re.search(r"Could not append '[+]*([^'=]+)", text):
        return _no_key(found[1], known, overrides)
    if found := re.search(r"Could not (?:find|load) '([^']*)'", text):
        return _no_option(found[1], search)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing, and it has no default; give it as {error.full_key}=…"
    if isinstance(error, OverrideParseException):
        return explained(str(error.override), known)
    return _of_one_override(text, overrides, search) or _of_omegaconf(error)


def _broken_file(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}: line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{where}no YAML ({getattr(error, 'problem', None) or ' '.join(str(error).split())})."


def _no_key(key: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    if key.startswith("reward."):
        return _no_reward(key)
    if key == ARGUMENTS or key.startswith(f"{ARGUMENTS}."):
        return f"{key}: the chosen task has no such argument; to give one to a task of your own, write +{key}=…"
    return _not_here(key, known, overrides) if key in known else unknown_key(key, known)


def _no_reward(key: str) -> str:
    """A key below `reward`, whose terms have any name: the term is not there, or has no such key."""
    _, name, *rest = key.split(".")
    if not rest:
        return f"{key}: no such reward is chosen; to add one, write +{key}=…"
    terms = list(leaf_keys(RewardTerm))
    if rest[0] == "arguments" and len(rest) > 1:
        return f"{key}: this reward is not chosen, or its arguments have no such key; to add one, write +{key}=…"
    if rest[0] in terms:
        near = f"; choose it, as in reward=[…,{name}]" if name in options("reward") else ""
        return f"{key}: no reward '{name}' is chosen{near}."
    return f"{key}: no such config key.{did_you_mean(key, [f'reward.{name}.{term}' for term in terms])}"


def _no_option(path: str, search: str | None) -> str:
    """`path`: group and option, either of which may hold slashes."""
    parts = path.split("/")
    groups = ["/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
    group = next((one for one in groups if options(one, search)), groups[0] if groups else path)
    option = path[len(group) + 1 :]
    if group.startswith("hydra/"):
        package = f"hydra-{option.replace('_', '-')}-{group.removeprefix('hydra/')}"
        return f"{group}: got '{option}', which is not part of Hydra, and no package {package} is installed."
    if misnamed := next((file for file in _beside(group, option, search) if file.is_file()), None):
        return f"{group}: no option '{option}'; {misnamed} is not read, as its name does not end with .yaml."
    names = options(group, search)
    way_out = did_you_mean(option, names) or (f" {FILES[group]}" if group in FILES else "")
    return f"{group}: no option '{option}', expected one of {', '.join(names)}.{way_out}"


def _beside(group: str, option: str, search: str | None) -> list[Path]:
    """Where a file of that name would be which Hydra does not take."""
    return [folder / group / name for folder in folders(search) for name in (f"{option}.yml", option) if option]


def _not_here(key: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    """A key that the schema knows, but not for the part that is chosen now; or a section, which no value can be."""
    for part in (key, key.rpartition(".")[0]):
        group = part.replace(".", "/")
        if part and (names := options(group)):
            having = [name for name in names if part == key or _has(group, name, key.rpartition(".")[2])] or names
            choice = f"choose the part as a whole, with {group}=… (one of {', '.join(having)})"
            # To a part of another kind it can be added, but only with that kind.
            added = part == key or any(override.startswith(f"{part}.kind=") for override in overrides)
            way_out = f", or add it with +{key}=…" if added else ""
            return f"{key}: not a key of the present choice of {part}; {choice}{way_out}"
    below = [one for one in known if one.startswith(f"{key}.") and one.count(".") == key.count(".") + 1]
    if below:
        return f"{key}: a section, expected a value for one of its keys: {', '.join(f'{one}=…' for one in below)}"
    return f"{key}: not a key of the present choice; add it with +{key}=…"


def _has(group: str, option: str, key: str) -> bool:
    """Whether the file of an option has the key."""
    files: list[Path] = [folder / group / f"{option}.yaml" for folder in folders()]
    return any(key in (yaml.safe_load(file.read_text()) or {}) for file in files if file.exists())


def _of_one_override(text: str, overrides: Sequence[str], search: str | None) -> str | None:
    """Hydra's message without the override, or at length."""
    for override in _parsed(overrides):
        line, key = str(override.input_line), override.key_or_group
        if f"'{line}'" in text and ("Ambiguous value" in text or "requires --multirun" in text):
            value = line.partition("=")[2]
            one = f"for a text write '{key}=\"{value}\"'" if " " in value else f"for a list write '{key}=[{value}]'"
            return f"{line}: several values; to sweep over them give -m{f', {one}' if 'Ambiguous' in text else ''}."
        if "does not support sweep type" in text and override.is_sweep_override() and not override.is_discrete_sweep():
            return f"{line}: expected values one by one, as in {key}=0.1,0.3 or {key}=range(1,4)."
        if f"already at '{key}'" in text:
            return f"{line}: {key} is there already; leave out the +."
        if f"{key} appears more than once" in text:
            return f"{line}: {key} has a default already, or is given twice; leave out the +, or one of them."
        if f"Could not delete '{key}" in text:
            return f"{line}: {_undeletable(key, search)}"
        if "must be a string or a list" in text and _is_group(override):
            return f"{line}: {_no_name(key, search)}"
    return None


def _parsed(overrides: Sequence[str]) -> Iterator[Override]:
    """Those that can be read, which no option of Hydra's is."""
    for override in overrides:
        try:
            yield from OverridesParser.create().parse_overrides([override])
        except HydraException:
            continue


def _is_group(override: Override) -> bool:
    """Whether Hydra takes the key for a group, of which a number, true or null is no option."""
    folder = CONFIGS / override.key_or_group
    return not override.key_or_group or (folder.is_dir() and not isinstance(override.value(), (str, list)))


def _undeletable(key: str, search: str | None) -> str:
    if key == "reward":
        return "expected a reward; choose others with reward=…, or take one out with ~reward.NAME."
    group = key.replace(".", "/")
    instead = f"; choose another with {group}=… (one of {', '.join(names)})" if (names := options(group, search)) else ""
    return f"{key} cannot be left out{instead}."


def _no_name(group: str, search: str | None) -> str:
    if not group:
        return "no key stands before the '='; expected key=value."
    if names := options(group, search):
        return f"expected the name of an option of {group}: {', '.join(names)}."
    return f"{group.replace('/', '.')} is a section, expected a value for one of its keys."


def _of_omegaconf(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    lines = str(cause).splitlines()
    said = " ".join(line.strip() for line in lines if not re.match(r"\s*(full_key:|object_type=|reference_type=)", line))
    key = getattr(cause, "full_key", None) if isinstance(cause, OmegaConfBaseException) else None
    said = re.sub(r"^\w+ raised while resolving interpolation: \"?(.*?)\"?$", r"\1", said)
    return f"{key}: {said}" if key else said
