"""CSV files, every field as it stands there.

`datasets`' own reader takes words such as NA and null for missing values, makes 7 of 007 and fills up lines that lack a field.
"""

import csv
import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import datasets

from kljax.config import TextSource
from kljax.data.plain_files import COLUMNS, Say, encoding_of, lines_of
from kljax.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def load_csv(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """Every field as text, and the columns in which every field is a number as numbers; `say` gets which."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    header: list[str] = []
    rows: list[list[str]] = []
    for file in files:
        encoding = encoding_of(file, source, field, say)
        names, more = _read(file, encoding, _separator(file, encoding, source, field, say), field)
        if file is not files[0] and names != header:
            raise UserError(f"{field}: '{file}' has the columns {', '.join(names)}, '{files[0]}' {', '.join(header)}.")
        header, rows = names, rows + more
    if not rows:
        raise UserError(f"{field}: {source.path} is empty, expected at least one row.")
    texts = [source.column] if source.column is not None else COLUMNS
    columns, converted = {}, []
    for name, values in zip(header, zip(*rows, strict=True), strict=True):
        columns[name] = list(values)
        if name not in texts and (numbers := _numbers(values)) is not None:
            columns[name] = numbers
            converted.append(f"{name} ({'whole numbers' if isinstance(numbers[0], int) else 'numbers'})")
    if converted:
        say(f"{field}: read as numbers, as every field of them is one: {', '.join(converted)}; all other columns are text.")
    return datasets.Dataset.from_dict(columns)


def _numbers(values: Sequence[str]) -> list[int] | list[float] | None:
    """The fields as numbers, or None where one is none, or would lose digits."""
    if all(WHOLE_NUMBER.fullmatch(value) for value in values):
        whole = [int(value) for value in values]
        return whole if all(-(2**63) <= number < 2**63 for number in whole) else None
    if not all(NUMBER.fullmatch(value) for value in values):
        return None
    numbers = [float(value) for value in values]
    exact = (math.isfinite(x) and Decimal(repr(x)) == Decimal(value) for x, value in zip(numbers, values, strict=True))
    return numbers if all(exact) else None


def _separator(file: Path, encoding: str, source: TextSource, field: str, say: Say) -> str:
    """The config's separator, or the first that divides the header."""
    if source.separator is not None:
        if len(source.separator) != 1:
            raise UserError(f"data.source.separator: got {source.separator!r}, expected one character.")
        return source.separator
    if ".tsv" in file.suffixes:
        return "\t"
    header = next((line for line in lines_of(file, encoding) if line.strip()), "")
    found = next((separator for separator in SEPARATORS if _divides(header, separator)), ",")
    if found != ",":
        say(f"{field}: the fields of {file.name} are divided at {found!r}; data.source.separator says otherwise.")
    return found


def _divides(header: str, separator: str) -> bool:
    try:
        return len(next(csv.reader([header], delimiter=separator, strict=True))) > 1
    except csv.Error:  # a quote that closes before another separator
        return False


def _read(file: Path, encoding: str, separator: str, field: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows; a line with another number of fields than the header is refused by its number, blank lines are none."""
    reader = csv.reader(lines_of(file, encoding, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    try:
        for record in reader:
            if not header and record:
                header = _header(file, record, field)
            elif record and len(record) != len(header):
                raise UserError(
                    f"{field}: line {reader.line_num} of '{file}' has {len(record)} fields, the header has {len(header)} "
                    f"({', '.join(header)}); expected as many. A field with {separator!r} in it stands in quotes."
                )
            elif record:
                rows.append(record)
    except csv.Error as error:
        raise UserError(f"{field}: line {reader.line_num} of '{file}' is no CSV ({error}).") from None
    return header, rows


def _header(file: Path, record: list[str], field: str) -> list[str]:
    names = [name or f"Unnamed: {i}" for i, name in enumerate(record)]  # as pandas calls them
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{field}: the header of '{file}' has the column '{twice}' twice; expected different names.")
    return names
