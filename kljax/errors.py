"""Mistakes of the user, as distinct from mistakes of this code."""

import difflib
from collections.abc import Iterable

MISTAKE = 2  # exit code of a command that one ended


class UserError(Exception):
    """A mistake that the user can mend: one sentence with the field or file, what was found and what was expected.

    The command line prints it without a traceback and exits with code 2.
    """


class NotFinite(UserError):
    """A number of a step is none: the sentence says which, and where it came from."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
