"""JSON Lines and JSON files, every value of the type that the file shows.

`datasets`' own reader makes dates of strings that look like dates, rounds large numbers, and gives blocks of 10 MB the types
of the first. So the rows are parsed here, and columns of anything but plain values of one type are kept as JSON.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from kljax.config import TextSource
from kljax.data.plain_files import Say, encoding_of, lines_of
from kljax.errors import UserError
from kljax.json_text import cell_text, shown

PLAIN = {str: "string", bool: "bool", int: "int64", float: "float64"}
"""Types of values that a column holds as they are, where all of its values are of one."""


def load_json(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """The rows of JSON Lines, or of files that are each one list of objects. A key that a row lacks is None there."""
    rows = [row for file in files for row in _objects(file, encoding_of(file, source, field, say), field)]
    if not rows:
        raise UserError(f"{field}: {source.path} is empty, expected at least one row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, features = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        for i, value in enumerate(values):
            _check_numbers(value, f"row {i} of '{source.path}' has in column '{name}'")
        types = {type(value) for value in values if value is not None}
        plain = PLAIN.get(next(iter(types))) if len(types) == 1 else None
        features[name] = datasets.Json() if plain is None else datasets.Value(plain)
        columns[name] = values if plain else [None if value is None else cell_text(value) for value in values]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _objects(file: Path, encoding: str, field: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, or of a file that is one list."""
    begin = next((line for line in lines_of(file, encoding) if line.strip()), "")
    if begin.lstrip().startswith("["):
        rows = _parsed("".join(lines_of(file, encoding)), f"{field}: '{file}' is")
        yield from (_object(row, f"entry {i}", file, field) for i, row in enumerate(rows))
        return
    for number, line in enumerate(lines_of(file, encoding), start=1):
        if line.strip():
            row = _parsed(line, f"{field}: line {number} of '{file}' is", "; expected an object a line")
            yield _object(row, f"line {number}", file, field)


def _parsed(text: str, where: str, way_out: str = "") -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} no JSON ({error}){way_out}.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _object(row: Any, place: str, file: Path, field: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{field}: {place} of '{file}' is {shown(row)[:60]}, expected an object of columns.")
    return row


def _check_numbers(value: Any, where: str) -> None:
    """Refuse whole numbers that no column of 64 bits holds, and NaN and infinity inside a list or an object."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"data.source.path: {where} the number {value}, more than 64 bits hold; write it in quotes, as text.")
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, float) and not math.isfinite(one):
                raise UserError(f"data.source.path: {where} {one} in {shown(value)[:60]}, expected finite numbers or null.")
            _check_numbers(one, where)
