"""Files of a run directory that were cut off, lost or changed: said to be that, with a way out that there is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from kljax.config import Config
from kljax.errors import UserError
from kljax.reading import parsed_json, read_bytes

OF_A_BASE = ("data", "rows", "tokenizer", "model", "pretrain")
OF_A_RUN = tuple(field.name for field in fields(Config) if field.default is MISSING and field.default_factory is MISSING)
"""Sections that are in every config.yaml: what was added later has defaults."""


def check_config(file: Path, text: str, values: Mapping[str, Any]) -> None:
    """UserError where config.yaml is only the beginning of one: that may be YAML, and would be taken for another config."""
    needed = OF_A_BASE if "rows" in values else OF_A_RUN if "name" in values else ()
    lacking = next((name for name in needed if name not in values), None)
    if lacking is not None or not text.endswith("\n"):
        found = "its last line has no end" if lacking is None else f"it has no section '{lacking}'"
        raise UserError(f"run: {file} was cut off: {found}; restore it from a copy, or choose another name=….")


@contextmanager
def reading_config(file: Path) -> Iterator[None]:
    """UserErrors about fields of a config.yaml, as about a file that nobody gives on the command line."""
    try:
        yield
    except UserError as error:
        reason = str(error).partition("; give it as")[0].rstrip(".")
        raise UserError(
            f"run: {file} is not as this version of kljax reads it: {reason}. It was cut off, changed by hand, or written by "
            "another version; restore it from a copy, or use the version in environment.json."
        ) from None


def read_json(file: Path, way_out: str) -> dict[str, Any]:
    """The object in a JSON file of ours. UserError where it is missing or broken, with the way out, which follows 'or'."""
    try:
        values = parsed_json(read_bytes(file), constant=float)  # older versions wrote NaN
    except FileNotFoundError:
        raise UserError(f"run: {file} is missing; {way_out}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"run: {file} cannot be read ({_first_line(error)}): it was cut off or changed; {way_out}.") from None
    if not isinstance(values, dict):
        raise UserError(f"run: {file} holds no JSON object: it was changed; {way_out}.")
    return values


@contextmanager
def reading(file: Path, way_out: str) -> Iterator[None]:
    """Any error while a binary file is read, as one sentence about that file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries have nothing in common in what they raise at a damaged file
        reason = f" ({_first_line(error)})" if str(error).strip() else ""
        raise UserError(
            f"run: {file} cannot be read{reason}: files of it are missing, or were cut off or changed; {way_out}."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".:")[:200]
