"""CSV files, every field as it stands there.

Left alone, `datasets` takes words such as NA and null for missing values, makes 7 of 007 and fills up lines that lack a field.
So each file is looked through first, and read as text.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from kljax.config import TextSource
from kljax.data.plain_files import Say, encoding_of, lines_of, through_datasets
from kljax.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass
class _Table:
    """What a look through a CSV file found; the first column is 0."""

    header: list[str]
    rows: int = 0
    whole: set[int] = field(default_factory=set)  # columns of whole numbers
    numbers: set[int] = field(default_factory=set)  # columns of numbers


def load_csv(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """Every field as text, then the columns in which every field is a number as numbers; the launch says which."""
    encoding = encoding_of(files, source, field, say)
    separator = _separator(files[0], encoding, source, field, say)
    tables = [_look_through(file, encoding, separator, field) for file in files]
    header = tables[0].header
    for file, table in zip(files, tables, strict=True):
        if table.header != header:
            raise UserError(f"{field}: '{file}' has the columns {', '.join(table.header)}, '{files[0]}' {', '.join(header)}.")
    names = datasets.Features({name: datasets.Value("string") for name in header})
    rows = through_datasets(
        "csv", files, sep=separator, encoding=encoding, keep_default_na=False, na_filter=False, column_names=header, header=0,
        features=names,
    )  # fmt: skip
    if len(rows) != sum(table.rows for table in tables):
        raise UserError(f"{field}: '{source.path}' has {sum(table.rows for table in tables)} rows, but {len(rows)} were read.")
    return _with_numbers(rows, tables, source, field, say)


def _with_numbers(
    rows: datasets.Dataset, tables: Sequence[_Table], source: TextSource, field: str, say: Say
) -> datasets.Dataset:
    header = tables[0].header
    filled = [table for table in tables if table.rows]
    converted = []
    for i, name in enumerate(header):
        if name != source.column and filled and all(i in table.numbers for table in filled):
            whole = all(i in table.whole for table in filled)
            rows = rows.cast_column(name, datasets.Value("int64" if whole else "float64"))
            converted.append(f"{name} ({'whole numbers' if whole else 'numbers'})")
    if converted:
        say(f"{field}: read as numbers, as every field of them is one: {', '.join(converted)}; all other columns are text.")
    return rows


def _separator(file: Path, encoding: str, source: TextSource, field: str, say: Say) -> str:
    """The config's separator, or the one that divides the header."""
    if source.separator is not None:
        if len(source.separator) != 1:
            raise UserError(f"data.source.separator: got {source.separator!r}, expected one character.")
        return source.separator
    if ".tsv" in file.suffixes:
        return "\t"
    header = next(lines_of(file, encoding), "")
    found = next((separator for separator in SEPARATORS if separator in header), ",")
    if found != ",":
        say(f"{field}: the fields of {file.name} are divided at {found!r}; data.source.separator says otherwise.")
    return found


def _look_through(file: Path, encoding: str, separator: str, field: str) -> _Table:
    """Refuse a line with another number of fields than the header; find the columns of numbers."""
    reader = csv.reader(lines_of(file, encoding, newline=""), delimiter=separator, strict=True)
    table = None
    try:
        for record in reader:
            if not record:
                continue  # a blank line
            if table is None:
                table = _begun(file, record, field)
                continue
            if len(record) != len(table.header):
                raise UserError(
                    f"{field}: line {reader.line_num} of '{file}' has {len(record)} fields, the header has {len(table.header)} "
                    f"({', '.join(table.header)}); expected as many. A field with {separator!r} in it stands in quotes."
                )
            table.rows += 1
            table.numbers = {i for i in table.numbers if NUMBER.fullmatch(record[i])}
            table.whole = {i for i in table.whole & table.numbers if WHOLE_NUMBER.fullmatch(record[i])}
    except csv.Error as error:
        raise UserError(f"{field}: line {reader.line_num} of '{file}' is no CSV ({error}).") from None
    if table is None or not table.rows:
        raise UserError(f"{field}: {file} is empty, expected at least one row.")
    return table


def _begun(file: Path, header: list[str], field: str) -> _Table:
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]  # as pandas calls them
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{field}: the header of '{file}' has the column '{twice}' twice; expected different names.")
    return _Table(names, 0, set(range(len(names))), set(range(len(names))))
