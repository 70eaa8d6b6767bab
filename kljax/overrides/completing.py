"""Completions of `key=` for a shell: the values that the schema names, true, false and null, steps and runs on the disk."""

import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from kljax.config import AnalysisConfig, Config, ExportConfig, JudgeConfig
from kljax.config.mistakes import hint_of, leaf_keys
from kljax.errors import UserError
from kljax.runs import index
from kljax.runs.best import BEST_FILE
from kljax.runs.config_file import BEST, CONFIG, LATEST, chosen_step

SCHEMAS = {"train": Config, "pretrain": Config, "analyze": AnalysisConfig, "export": ExportConfig, "judge": JudgeConfig}
"""Commands whose command line is a config, and its schema."""


def values(command: str, words: Sequence[str]) -> list[str] | None:
    """Completions of the last word, which has a '='; None where Hydra knows better: of groups, numbers and names."""
    schema = SCHEMAS[command]
    written, _, typed = words[-1].partition("=")
    key = written.lstrip("+")
    if key not in leaf_keys(schema):
        return None
    if schema is not Config and key in ("run", "step", "a", "b"):
        named = ("reference", "base") if key in ("a", "b") else ()
        found = _steps(words[:-1]) if key == "step" else [*named, *_runs(typed)]
        return [f"{written}={one}" for one in found if one.startswith(typed)]
    names, in_list = _names(hint_of(key, schema))
    if in_list:
        return [f"{written}={one}" for one in _lists(names, typed) if one.startswith(typed)]
    if set(names) <= {"null"}:
        return None
    before = typed.rpartition(",")[0]  # of several values, to sweep over
    return [one for name in names if (one := f"{written}={before}{',' * bool(before)}{name}").startswith(words[-1])]


def lists(command: str) -> list[str]:
    """The keys whose values are lists."""
    schema = SCHEMAS[command]
    return [key for key in leaf_keys(schema) if _names(hint_of(key, schema))[1]]


def _names(hint: Any) -> tuple[list[str], bool]:
    """The words that a field may be, and whether in a list."""
    names: list[str] = []
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    for one in typing.get_args(hint) if union else [hint]:
        if typing.get_origin(one) is list:
            return _names(typing.get_args(one)[0])[0], True
        if typing.get_origin(one) is Literal:
            names += map(str, typing.get_args(one))
        elif one is bool:
            names += ["true", "false"]
        elif one is types.NoneType:
            names.append("null")
    return names, False


def _lists(names: Iterable[str], typed: str) -> list[str]:
    """Lists with one more name than what is typed of one."""
    before = typed[: max(typed.rfind("["), typed.rfind(",")) + 1] or "["
    return [f"{before}{name}]" for name in names if name not in before.strip("[,").split(",")]


def _steps(words: Sequence[str]) -> list[str]:
    """The steps of the run that is given before, and their names."""
    given = [word.partition("=")[2] for word in words if word.startswith("run=")]
    try:
        path = chosen_step(given[-1], LATEST)[0].expanduser() if given else None
    except UserError:
        path = None
    if path is None or not (path / CONFIG).exists():
        return [LATEST, BEST]
    return [LATEST, *([BEST] if (path / BEST_FILE).exists() else []), *map(str, index.steps(path))]


def _runs(typed: str) -> Iterator[str]:
    """Folders that begin so: a run as it is, others with a slash behind them."""
    folder, slash, begins = typed.rpartition("/")
    try:
        below = sorted(one for one in Path(f"{folder}{slash}" or ".").expanduser().iterdir() if one.is_dir())
    except OSError:
        return
    for one in below:
        if one.name.startswith(begins) and not (one.name.startswith(".") and not begins):
            yield f"{folder}{slash}{one.name}{'' if (one / CONFIG).exists() else '/'}"
