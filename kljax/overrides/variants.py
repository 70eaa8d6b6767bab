"""The folder that a run is written to: named by its command line, and by its config where that is not enough."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from kljax.config import Config, to_dict
from kljax.config.mistakes import leaf_keys
from kljax.config.validation import without_defaults
from kljax.errors import UserError
from kljax.json_text import key_text
from kljax.runs import config_file

LONGEST = 120  # characters of a name; those of a file have their limits
NOT_NAMED = ("hydra", "experiment", "name", *config_file.NO_OTHER_RUN)  # these make no other run, or another folder above


@dataclass(frozen=True)
class Label:
    """A name made of overrides. `whole`: it holds all that they say, so no other overrides make it."""

    text: str
    whole: bool = True


@dataclass(frozen=True)
class Job:
    """A config, and the label that its variant was made by; None: the user has given run.variant.

    `environment`: the environment variables that values were made of, by key.
    """

    config: Any
    label: Label | None
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)


def label(overrides: Sequence[str]) -> Label:
    """The part of a run directory's name that the overrides make; `default` without any."""
    parts = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group.replace("/", ".")
        if key.split(".")[0] not in NOT_NAMED:
            parts[key] = override.get_value_element_as_str()  # of a key that is given twice the last one counts
    whole = all(_plain(value) == value for value in parts.values())
    text = _joined(parts.items())
    if len(text) <= LONGEST:
        return Label(text or "default", whole)
    known = {*leaf_keys(Config), *parts}
    short = _joined((_shortest(key, known), value) for key, value in parts.items())
    return Label(short[:LONGEST].rstrip("+_-."), whole=False)


def _shortest(key: str, known: Collection[str]) -> str:
    """The end of a key that is the end of no other."""
    sections = key.split(".")
    ends = [".".join(sections[first:]) for first in range(len(sections) - 1, 0, -1)]
    others = [one for one in known if one != key]
    return next((end for end in ends if not any(one == end or one.endswith(f".{end}") for one in others)), key)


def _joined(parts: Iterable[tuple[str, str]]) -> str:
    return "+".join(sorted(f"{key}-{_plain(value)}".strip("_") for key, value in parts))


def _plain(value: str) -> str:
    """The value as part of a file's name: of each path in it the last component, '_' for all that is no plain character.

    Neither '=' nor ',': a run's path must pass through a shell and through Hydra (run=…) as it is.
    """
    last = re.sub(r"[^,:=\[\]{}'\"]*/(?=[^,:=\[\]{}'\"/])", "", value)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", last)
    return value if plain == value else plain.strip("_")


def distinct(jobs: Sequence[Job]) -> tuple[list[Any], list[str]]:
    """The configs of one launch, each with a run directory of its own, and a sentence where that is not the one of its label.

    A label says what varies, as shortly as it can. Where another config has it (another job, or a run that is there), six
    digits of the config's hash follow. The same command finds its run again: a directory that is its own is always gone on
    with. A label that is whole is kept where a run that is there has it: the same command has made that, with other files or
    defaults, and who repeats it wants to resume, or to be told why not.
    """
    if not all(isinstance(job.config, Config) for job in jobs):
        return [job.config for job in jobs], []
    clashing = _clashing(jobs)
    configs, notes = [], []
    for job in jobs:
        plain, hashed = job.config, _hashed(job)
        if job.label is None or _is_own(plain):
            configs.append(plain)
        elif _is_own(hashed) or _place(job.config) in clashing:
            configs.append(hashed)
        elif not job.label.whole and (field := _differs(plain)) is not None:
            configs.append(hashed)
            taken = f"{_place(plain)} belongs to another config, with another {field}"
            notes.append(f"{taken}: this run is {_place(hashed).name}.")
        else:
            configs.append(plain)
    _check_one_run_each(configs)
    return configs, notes


def _check_one_run_each(configs: Sequence[Config]) -> None:
    """Refuse jobs that would be one run: they differ in nothing that makes another."""
    seen: dict[Path, Config] = {}
    for config in configs:
        first = seen.setdefault(_place(config), config)
        there, here = (config_file.flat(to_dict(replace(one, run=replace(one.run, export_to=None)))) for one in (first, config))
        field = next((key for key in here if there.get(key) != here[key]), None)
        if field is None:
            continue
        values = ", ".join(config_file.spelled(one[field]) for one in (there, here))
        longer = field in config_file.LENGTH and config.optimizer.schedule == "constant"
        alone = "Launch the longest alone, which has the steps of the others" if longer else "Launch one"
        raise UserError(
            f"{field}: jobs of this sweep differ in it alone ({values}), which makes no other run: each would be "
            f"{_place(config)}. {alone}, or each a directory of its own: "
            f"'run.variant={field.rpartition('.')[2]}-${{{field}}}'."
        )


def _place(config: Config) -> Path:
    return config_file.run_path(config)


def _clashing(jobs: Sequence[Job]) -> set[Path]:
    """Places that different jobs would have; refused where the user has named them."""
    seen: dict[Path, Any] = {}
    found = set()
    for job in jobs:
        place = _place(job.config)
        first = seen.setdefault(place, job.config)
        if _identity(config_file.identity(first)) == _identity(config_file.identity(job.config)):
            continue  # one run, which both may have a part in; or else _check_one_run_each refuses them
        if job.label is None:
            raise UserError(
                f"run.variant: two different jobs of this sweep would both be {place}; expected a run directory for each: "
                "leave run.variant=auto, or give each a name."
            )
        found.add(place)
    return found


def _hashed(job: Job) -> Config:
    digest = hashlib.sha256(key_text(_identity(config_file.identity(job.config))).encode()).hexdigest()
    return replace(job.config, run=replace(job.config.run, variant=f"{job.config.run.variant}-{digest[:6]}"))


def _identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a variant that makes another run."""
    return without_defaults({key: value for key, value in values.items() if key not in config_file.NO_OTHER_RUN})


def _is_own(config: Config) -> bool:
    """Whether the config's directory is there and is that of this config."""
    return (_place(config) / config_file.CONFIG).exists() and _differs(config) is None


def _differs(config: Config) -> str | None:
    """The first field in which the run that is there differs; None where it does not, or where there is none."""
    if not (_place(config) / config_file.CONFIG).exists():
        return None
    there, here = _identity(config_file.read_config(_place(config))), _identity(config_file.identity(config))
    return _first_difference(there, here)


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> str | None:
    for key in [*here, *(key for key in there if key not in here)]:
        one, other = there.get(key), here.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if (found := _first_difference(one, other, f"{prefix}{key}.")) is not None:
                return found
        elif one != other or (key in there) != (key in here):
            return prefix + key
    return None
