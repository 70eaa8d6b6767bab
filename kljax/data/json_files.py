"""JSON Lines and JSON files, every value of the type that the file shows.

Left alone, `datasets` makes dates of strings that look like dates, and rounds whole numbers that are too large for 64 bits.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from kljax.config import TextSource
from kljax.data.plain_files import Say, encoding_of, lines_of, through_datasets
from kljax.errors import UserError


def load_json(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """JSON Lines, or one list of objects; strings stay strings."""
    encoding = encoding_of(files, source, field, say)
    first: dict[str, dict[str, int]] = {}  # column → type → the first row that has it
    count = 0
    for row in itertools.chain.from_iterable(_objects(file, encoding, field) for file in files):
        for name, value in row.items():
            first.setdefault(name, {}).setdefault(_type(name, value, count, source), count)
        count += 1
    if not count:
        raise UserError(f"{field}: {source.path} is empty, expected at least one row.")
    for name, types in first.items():
        if set(types) - {"null"} == {"int", "float"}:
            say(f"{field}: the column {name} has whole numbers and others; all are read as float.")
    rows = through_datasets("json", files, encoding=encoding)
    if re.search("'(timestamp|date|time|duration)", str(rows.features)):  # JSON has none of them: they are strings there
        rows = datasets.Dataset.from_list([row for file in files for row in _objects(file, encoding, field)])
    if len(rows) != count:
        raise UserError(f"{field}: '{source.path}' has {count} rows, but {len(rows)} were read.")
    return rows


def _objects(file: Path, encoding: str, field: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, or of a file that is one list."""
    lines = lines_of(file, encoding)
    begin = next((line for line in lines if line.strip()), "")
    if begin.lstrip().startswith("["):
        try:
            rows = json.loads(begin + "".join(lines))
        except ValueError as error:
            raise UserError(f"{field}: '{file}' is no JSON ({error}).") from None
        yield from (_object(row, f"entry {i}", file, field) for i, row in enumerate(rows))
        return
    for number, line in enumerate(lines_of(file, encoding), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{field}: line {number} of '{file}' is no JSON ({error}); expected an object a line."
                ) from None
            yield _object(row, f"line {number}", file, field)


def _object(row: Any, place: str, file: Path, field: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{field}: {place} of '{file}' is {json.dumps(row)[:60]}, expected an object of columns.")
    return row


def _type(name: str, value: Any, row: int, source: TextSource) -> str:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(
            f"data.source.path: row {row} of '{source.path}' has the number {value} in column '{name}', more than 64 bits "
            "hold; write it in quotes, as text."
        )
    return "null" if value is None else type(value).__name__
