"""Values of a config that come from the environment, as ${oc.env:KLJAX_DATA,…}: a mistake in one of them says so."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kljax.errors import UserError

VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")
NOT_THERE = re.compile(r"([\w.]+): (no (file|directory)|'.*' is no directory)")


def variables(composed: DictConfig) -> dict[str, str]:
    """The environment variable that a value is made of, by the value's key."""
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    return {key: found[1] for key, value in _leaves(raw) if isinstance(value, str) and (found := VARIABLE.search(value))}


def _leaves(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", value


@contextmanager
def named(by_key: Mapping[str, str]) -> Iterator[None]:
    """Add to what is said of a file or a folder that is not there the variable that says where it lies."""
    try:
        yield
    except UserError as error:
        found = NOT_THERE.match(str(error))
        if found is None or found[1] not in by_key:
            raise
        name = by_key[found[1]]
        now = f"it is {os.environ[name]!r}" if name in os.environ else "it is not set"
        told = str(error) if str(error).endswith((".", "?")) else f"{error}."
        raise UserError(f"{told} {name} says in which folder it lies; {now}.") from None
