"""Mistakes in the spelling of an override that Hydra's grammar does not take."""

import re
from collections.abc import Collection
from pathlib import Path

from kljax.config.mistakes import unknown_key

KEY = re.compile(r"[+~]{0,2}[A-Za-z0-9_][\w./@-]*", re.ASCII)
PAIRS = {"]": "[", "}": "{", ")": "("}
SPECIAL = re.compile(r"[=:{}\[\]() ,;]")


def explained(override: str, known: Collection[str]) -> str:
    """One sentence: what is wrong and how it is written."""
    key, equals, value = override.partition("=")
    if not override.strip():
        return "got an empty argument, expected key=value."
    if not equals and "run" in known and "run.root" not in known and (override.count("/") or Path(override).exists()):
        return f"{override}: got it without a key; expected run={override}."
    if not equals:
        return f"{override}: no value is given; expected key=value, without spaces around the '='."
    if not KEY.fullmatch(key):
        return unknown_key(key, known) if key else f"{override}: no key stands before the '='; expected key=value."
    if value.startswith("="):
        return f"{override}: got two '=', expected key=value, as in {key}={value.lstrip('=')}."
    if re.match(r"[^/'\"\[{]*?[;,\s]\s*[\w.]+=", value):
        return f"{override}: two in one; divide them by a space."
    if open_ended := _open_ended(value):
        return f"{override}: {open_ended} is not closed; quote the whole for the shell, as in '{key}=[a, b]'."
    if re.search(r",\s*([,\]})]|$)|^\s*,|[\[{(]\s*,", value):
        return f"{override}: no value stands beside a comma."
    if re.fullmatch(r"\w+\(\s*\)", value):
        return f"{override}: {value} holds no values."
    if SPECIAL.search(value) and not re.match(r"['\"\[{]", value):
        return f"{override}: cannot be read; quote the value for Hydra and for the shell: '{key}=\"{value}\"'."
    return f"{override}: cannot be read as key=value; quote it for the shell, as in '{key}=[1, 2]' or '{key}={{a: 1}}'."


def _open_ended(value: str) -> str | None:
    """The bracket or quote that is opened and not closed, if any."""
    opened = []
    quote = None
    for character in value:
        if quote is not None:
            quote = None if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            opened.append(character)
        elif character in PAIRS and opened and opened[-1] == PAIRS[character]:
            opened.pop()
    return f"a quote ({quote})" if quote is not None else f"a bracket ({opened[-1]})" if opened else None
