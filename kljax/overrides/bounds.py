"""Overrides and files of configs that Hydra would read without end: refused before it is asked."""

import errno
from collections.abc import Sequence
from pathlib import Path

import yaml

from kljax import reading
from kljax.errors import UserError
from kljax.overrides.folders import folders

DEEP = reading.DEEPEST
LONGEST = 100_000  # characters of one override


def check_overrides(overrides: Sequence[str]) -> None:
    """UserError where brackets of a value lie too deep inside one another, or it is longer than anyone's."""
    for override in overrides:
        if len(override) > LONGEST:
            raise UserError(f"{override[:60]}…: got {len(override):,} characters, expected at most {LONGEST:,}.")
        depth = deepest = 0
        for character in override:
            depth += (character in "[{(") - (character in "]})")
            deepest = max(deepest, depth)
        if deepest > DEEP:
            raise UserError(f"{override[:60]}…: got {deepest} brackets inside one another, expected at most {DEEP}.")


def unreadable(error: OSError) -> str:
    """The sentence about a file that Hydra could not open, or that is no mapping."""
    if error.errno == errno.ENAMETOOLONG:
        return f"{Path(str(error.filename)).name[:60]}…: got so long a name of a key or option that no file can have it."
    return f"a config cannot be read ({error}); expected a file of keys with their values, as in 'steps: 100'."


def check_files(search: str | None = None) -> None:
    """UserError where a file of the user's configs is no file, or more than its characters by aliases or nesting.

    Whether it is YAML, and what it says, Hydra looks at; most files have nothing that must be looked at here.
    """
    for file in [file for folder in folders(search)[1:] for file in sorted(folder.rglob("*.yaml"))]:
        try:
            text = reading.read_text(file, reading.YAML_LARGEST)
            if _may_exceed(text):
                reading.read_yaml(text)
            if ":" not in text and not isinstance(yaml.safe_load(text), dict | None):
                raise UserError(f"{file}: expected keys with their values, as in 'steps: 100'.")
        except yaml.YAMLError:
            continue
        except FileNotFoundError:  # a link to nowhere
            continue
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: cannot be read as a config ({error}); mend it, or move it away.") from None


def _may_exceed(text: str) -> bool:
    """Whether anything in it can be deep, or stand in several places."""
    lines = text.splitlines()
    indented = max((len(line) - len(line.lstrip(" -?")) for line in lines), default=0)
    return "&" in text or text.count("[") + text.count("{") > DEEP or indented > DEEP
