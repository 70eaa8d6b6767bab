"""A run's config.yaml: where it lies, what it says, and whose the directory is. A command line asks, too: no JAX."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kljax.config import Config, to_dict
from kljax.errors import UserError, did_you_mean
from kljax.reading import YAML_LARGEST, read_text, read_yaml
from kljax.training import damaged
from kljax.validation import validate, without_defaults

CONFIG, BASES = "config.yaml", "bases"
RETIRED = {"run": {"keep_freed_memory": None}, "rollout": {"top_k": 0, "top_p": 1.0}}
"""Keys of older config.yaml files that are no more, and the value with which they say nothing; None: each does."""


def run_path(config: Config) -> Path:
    """<root>/<name>/<variant>."""
    return Path(config.run.root) / config.name / config.run.variant


def check_owner(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a directory that another config wrote, naming the first field that differs. Writes nothing."""
    if not path.exists():
        return
    if not path.is_dir() or not (path / CONFIG).exists():
        if path.is_dir() and not any(path.iterdir()):
            return
        raise UserError(
            f"run.root: {path} exists and is not a run directory (it has no {CONFIG}); choose another name=… or run.root=…."
        )
    both = ({k: v for k, v in config.items() if k != "run"} for config in (read_config(path), identity))
    there, here = (flat(without_defaults(config)) for config in both)
    for field in [*here, *there]:
        found, value = (spelled(values[field]) if field in values else "nothing" for values in (there, here))
        if found != value:
            raise UserError(
                f"{path} belongs to another config: {field} is {found} there, {value} here. "
                "Choose another name=…, or give that value to resume the run."
            )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, as on the command line."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return found


def spelled(value: Any) -> str:
    """A value as on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def identity(config: Config) -> dict[str, Any]:
    """What makes two runs the same: everything but where they are written and how often."""
    return {key: value for key, value in to_dict(config).items() if key != "run"}


def read_config(path: Path) -> dict[str, Any]:
    """The dictionary in config.yaml."""
    if not (path / CONFIG).exists():
        raise UserError(f"run: '{path}' is not a run directory (it has no {CONFIG}).{_runs_near(path)}")
    text, reason = "", ""
    try:
        values = read_yaml(text := read_text(path / CONFIG, YAML_LARGEST))
    except yaml.YAMLError:
        values = None
    except (ValueError, OSError) as error:
        values, reason = None, f" ({error})"
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"run: {path / CONFIG} cannot be read as a YAML mapping{reason}; restore it, or choose another name=….")
    damaged.check_config(path / CONFIG, text, values)
    for section, retired in RETIRED.items():
        if isinstance(there := values.get(section), dict):
            said = {key: there[key] for key, nothing in retired.items() if key in there and nothing not in (None, there[key])}
            if said:
                raise UserError(
                    f"run: {path / CONFIG} has {said}: that run cut the distribution that it sampled, and its KLs were of "
                    "another policy. kljax trains on whole distributions; begin the run anew under another name=…."
                )
            values[section] = {key: value for key, value in there.items() if key not in retired}
    return values


def read_run_config(path: Path) -> Config:
    """The config of an RLHF run."""
    values = read_config(path)
    if "rollout" not in values:
        raise UserError(f"run: {path} holds a base model, not an RLHF run; its held-out figures are in {path / 'result.json'}.")
    with damaged.reading_config(path / CONFIG):
        return validate(values, Config)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every RLHF run at or below the paths; base models are none."""
    runs = set()
    for path in paths:
        if not path.exists():
            key, _, given = str(path).partition("=")
            hint = f" Here they are given without a key: {given}." if given and key.isidentifier() else ""
            raise UserError(f"{path}: no such directory; expected run directories or a folder that holds some.{hint}")
        runs |= {file.parent for file in path.rglob(CONFIG) if BASES not in file.parts}
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run directory here (none has a {CONFIG}).")
    return sorted(runs)


def folder_of(path: Path) -> Path:
    """Where the frontier of what was asked for belongs: beside the run, or in the folder of runs."""
    return path.parent if (path / CONFIG).exists() else path


def _runs_near(path: Path) -> str:
    """The runs inside a folder that is taken for one, or the one beside it with nearly this name."""
    if inside := sorted(str(file.parent) for file in path.glob(f"*/{CONFIG}")):
        return f" It is a folder of runs; give one of them: {', '.join(inside[:6])}{', …' if len(inside) > 6 else ''}."
    return did_you_mean(str(path), [str(file.parent) for file in path.parent.glob(f"*/{CONFIG}")])
