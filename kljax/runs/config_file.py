"""A run's config.yaml: where it lies, what it says, and whose the directory is. A command line asks, too: no JAX."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from kljax.config import Config, to_dict
from kljax.config.run import BASES
from kljax.config.validation import default_of, validate, without_defaults
from kljax.errors import UserError, did_you_mean
from kljax.json_text import key_text
from kljax.reading import YAML_LARGEST, read_text, read_yaml
from kljax.runs import damaged, digests

CONFIG = "config.yaml"
LOCK, HOLDER = ".lock", ".lock.json"
BEFORE_A_RUN = {LOCK, HOLDER, f"{CONFIG}.new", digests.MANIFEST, f".{digests.MANIFEST}.lock", "fit.json"}
"""Files that a process may have left that was killed before it had written the config."""
FORMAT, KIND = "format", "kind"
"""Keys of config.yaml that are no part of the config."""
NOW = 2
"""The format that is written now. 1: without digests, and fits without a whole config."""
RL, FIT = "rl", "fit"
IDENTITY = "fit.json"
"""File of all that a fit depends on: a part of its config, its rows, the weights that it starts from, settings of JAX."""
LATEST: Literal["latest"] = "latest"
BEST: Literal["best"] = "best"
Step: TypeAlias = int | Literal["latest", "best"]
"""A step of a run: its number, the last, or the best by `evaluation.best`. Of a fit both are the best by `pretrain.watch`."""
LENGTH = ("steps", "epochs")
"""How long a run is: it can be gone on with, so these make no other run (going_on.py says when that may be)."""
NO_OTHER_RUN = ("run", "track", *LENGTH)
RETIRED = {"run": {"keep_freed_memory": None}, "rollout": {"top_k": 0, "top_p": 1.0}}
"""Keys of older config.yaml files that are no more, and the value with which they say nothing; None: each does."""


def run_path(config: Config) -> Path:
    """<root>/<name>/<variant>."""
    return Path(config.run.root) / config.name / config.run.variant


def check_owner(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a directory that another config wrote, naming the first field that differs, or that lies in a run's own.

    The directory of a fit is its owner's by what the fit depends on (fit.json), that of an RL run by its config.yaml. Writes
    nothing.
    """
    for above in list(path.parents)[:2]:
        if (above / CONFIG).exists() and (above / "environment.json").exists():
            raise UserError(
                f"run.root: {path} would lie within {above}, which is a run's own directory; choose another run.root=…."
            )
    if not path.exists():
        return
    if not path.is_dir() or not (path / CONFIG).exists():
        if path.is_dir() and {file.name for file in path.iterdir()} <= BEFORE_A_RUN:
            return
        raise UserError(
            f"run.root: {path} exists and is not a run directory (it has no {CONFIG}); choose another name=… or run.root=…."
        )
    known = read_fit(path) if (path / IDENTITY).exists() else read_config(path)
    both = ({k: v for k, v in config.items() if k not in NO_OTHER_RUN} for config in (known, identity))
    there, here = (flat(without_defaults(config)) for config in both)
    for field in [*here, *there]:
        found, value = (_said(field, values) for values in (there, here))
        if found != value:
            raise UserError(
                f"{path} belongs to another config: {field} is {found} there, {value} here. "
                "Choose another name=…, or give that value to resume the run."
            )


def _said(field: str, values: Mapping[str, Any]) -> str:
    """The value of a field in flat settings without defaults: its default, where they have its section and leave it out."""
    if field in values:
        return spelled(values[field])
    section, default = field.rpartition(".")[0], default_of(field)
    if not section or any(key.startswith(f"{section}.") for key in values):
        return "nothing" if default is MISSING or isinstance(default, Mapping) else spelled(default)
    whole, name = values.get(section, default_of(section)), field.rpartition(".")[2]
    if isinstance(whole, Mapping) and name in whole:
        return spelled(whole[name])
    return f"nothing ({section}=null)" if whole is None else "nothing"


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
    """The config but for where a run is written and how often. Where two agree but for `LENGTH`, they are one run."""
    return {key: value for key, value in to_dict(config).items() if key not in ("run", "track")}


def id_of(path: Path) -> str | None:
    """A name of a run, by which its folders know it wherever it lies and however long it is; None without a config."""
    if not (path / CONFIG).exists():
        return None
    values = read_fit(path) if (path / IDENTITY).exists() else read_config(path)
    own = without_defaults({key: value for key, value in values.items() if key not in NO_OTHER_RUN})
    return hashlib.sha256(key_text(own).encode()).hexdigest()[:16]


def read_config(path: Path) -> dict[str, Any]:
    """The dictionary in config.yaml."""
    if not (path / CONFIG).exists():
        raise UserError(f"run: '{path}' is not a run directory (it has no {CONFIG}).{_runs_near(path)}")
    values = _read(path)
    for section, retired in RETIRED.items():
        if isinstance(there := values.get(section), dict):
            said = {key: there[key] for key, nothing in retired.items() if key in there and nothing not in (None, there[key])}
            if said:
                raise UserError(
                    f"run: {path / CONFIG} has {said}: that run cut the distribution that it sampled, and its KLs were of "
                    "another policy. kljax trains on whole distributions; begin the run anew under another name=…."
                )
            values[section] = {key: value for key, value in there.items() if key not in retired}
    return {key: value for key, value in values.items() if key not in (FORMAT, KIND)}


def kind_of(path: Path) -> str:
    """Whether a run directory is of RL or of a fit."""
    values = _read(path)
    return values.get(KIND, RL if "rollout" in values else FIT)


def format_of(path: Path) -> int:
    """The format of a run directory."""
    return _read(path).get(FORMAT, 1)


def has_digests(path: Path) -> bool:
    """Whether the files of a run directory have digests, or had: older runs have none."""
    return (path / digests.MANIFEST).exists() or ((path / CONFIG).exists() and format_of(path) > 1)


def text_of(kind: str, config: Mapping[str, Any]) -> str:
    """A config as it stands in config.yaml, with the format that is written now."""
    return yaml.safe_dump({FORMAT: NOW, KIND: kind, **config}, sort_keys=False, allow_unicode=True)


def check_format(path: Path) -> None:
    """Refuse to go on with a directory of another format. Writes nothing."""
    if (path / CONFIG).exists() and (found := format_of(path)) != NOW:
        raise UserError(
            f"{path} has the format {found}, in which an older version of kljax wrote; this one writes {NOW}. Such runs can be "
            "looked at (kljax analyze, export, frontier) and begun from (model=huggingface "
            f"model.path={path}), but not be gone on with. Begin anew (name=…), or go on with the version in its "
            "environment.json."
        )


def read_fit(path: Path) -> dict[str, Any]:
    """Everything that a fit depends on."""
    digests.check(path, IDENTITY)
    return damaged.read_json(path / IDENTITY, digests.FROM_A_COPY)


def read_run_config(path: Path) -> Config:
    """The config of a run, of RL or of a fit."""
    values = read_config(path)
    if "rollout" not in values:
        raise UserError(
            f"run: {path} is a fit of an older version of kljax, which kept no whole config; its held-out figures are in "
            f"{path / 'result.json'}. It can be a reference (reference.path)."
        )
    with damaged.reading_config(path / CONFIG):
        return validate(values, Config)


def run_and_step(path: str, field: str) -> tuple[Path, Step] | None:
    """The run and the step that `path` names: runs/x@200, runs/x@best, or runs/x (its last). None where it names no run."""
    name, at, step = path.rpartition("@")
    folder = Path(path).expanduser()
    if (folder / CONFIG).exists():
        return folder, LATEST
    if not at or not (Path(name).expanduser() / CONFIG).exists():
        return None
    if step not in (LATEST, BEST) and not step.isdecimal():
        raise UserError(f"{field}: got {path!r}, expected the number of a step, latest or best after '@'.")
    return Path(name).expanduser(), LATEST if step == LATEST else BEST if step == BEST else int(step)


def chosen_step(run: str, step: Step) -> tuple[Path, Step]:
    """The directory and the step that a command is given as run= and step=, or both in one as in run=runs/x@10."""
    found = run_and_step(run, "run")
    if found is None or found[0] == Path(run).expanduser():
        return Path(run), step
    path, named = found
    if step not in (LATEST, named):
        raise UserError(f"step: got {step} beside run={run}, which names step {named}; expected one of the two.")
    return path, named


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every RL run at or below the paths; fits are none, and refused where there is nothing else."""
    runs = set()
    for path in paths:
        if not path.exists():
            key, _, given = str(path).partition("=")
            hint = f" Here they are given without a key: {given}." if given and key.isidentifier() else ""
            raise UserError(f"{path}: no such directory; expected run directories or a folder that holds some.{hint}")
        below = {file.parent for file in path.rglob(CONFIG)}
        fits = {run for run in below if run.resolve().parent.name == BASES}
        if fits and fits == below:
            raise UserError(
                f"{path}: a fit, or a folder of fits, whose KL is to the model that each started from; expected RL runs. "
                "kljax runs shows fits beside runs, kljax analyze evaluates one."
            )
        runs |= below - fits
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run directory here (none has a {CONFIG}).")
    return sorted(runs)


def folder_of(path: Path) -> Path:
    """Where the frontier of what was asked for belongs: beside the run, or in the folder of runs."""
    return path.parent if (path / CONFIG).exists() else path


def _read(path: Path) -> dict[str, Any]:
    """All that config.yaml says; refused where it is not what was written, or of a format that nobody knows yet."""
    text, reason = "", ""
    try:
        values = read_yaml(text := read_text(path / CONFIG, YAML_LARGEST))
    except OSError as error:
        raise UserError(
            f"run: {path / CONFIG} cannot be read ({error.strerror}); mend that, or choose another name=…."
        ) from None
    except yaml.YAMLError:
        values = None
    except ValueError as error:
        values, reason = None, f" ({error})"
    of_older = not (path / digests.MANIFEST).exists() and not (isinstance(values, dict) and FORMAT in values)
    if not of_older:
        digests.check(path, CONFIG)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"run: {path / CONFIG} cannot be read as a YAML mapping{reason}; restore it, or choose another name=….")
    if of_older:
        damaged.check_config(path / CONFIG, text, values)
        return values
    if not isinstance(values.get(FORMAT), int) or values[FORMAT] > NOW:
        raise UserError(
            f"run: {path / CONFIG} has the format {values.get(FORMAT)}, which this version of kljax, which writes {NOW}, does "
            "not know; use the version in its environment.json."
        )
    return values


def _runs_near(path: Path) -> str:
    """The runs inside a folder that is taken for one, or the one beside it with nearly this name."""
    if inside := sorted(str(file.parent) for file in path.glob(f"*/{CONFIG}")):
        return f" It is a folder of runs; give one of them: {', '.join(inside[:6])}{', …' if len(inside) > 6 else ''}."
    return did_you_mean(str(path), [str(file.parent) for file in path.parent.glob(f"*/{CONFIG}")])
