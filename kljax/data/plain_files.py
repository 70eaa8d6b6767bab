"""Files of characters: their encoding and their lines, whether compressed or not."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import datasets

from kljax.config import TextSource
from kljax.errors import UserError

TEXT = "text"
"""The column of the built-in sources, and of plain text files."""

COLUMNS = (TEXT, "prompt", "messages", "conversations")
"""Where texts or conversations are looked for if the config names no column: TRL's formats, and ShareGPT's."""

BYTE_ORDER_MARKS = {  # the longer one first: UTF-32's begins as UTF-16's does
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}

UNPACKING = (EOFError, zlib.error, gzip.BadGzipFile)
"""Errors that a compressed file can raise that is cut off or none."""

MOST_UNPACKED, LEAST_BOUND = 200, 2**24
"""Bytes that a compressed file may unpack to for each of its own, and what any may. Text is packed to a tenth at best."""

Say = Callable[[str], None]
"""Where to say what was guessed, converted or left out."""


def load_text(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """A row a line."""
    lines = [line.rstrip("\n") for file in files for line in lines_of(file, encoding_of(file, source, field, say))]
    return datasets.Dataset.from_dict({TEXT: lines})


def encoding_of(file: Path, source: TextSource, field: str, say: Say) -> str:
    """The config's encoding, or that of the byte order mark, or UTF-8."""
    if source.encoding is not None:
        return source.encoding
    try:
        with _opened(file, "rb") as stream:
            begin: Any = stream.read(4)
    except UNPACKING as error:
        raise UserError(f"{field}: '{file}' cannot be unpacked ({error}); get it again.") from None
    found = next((name for mark, name in BYTE_ORDER_MARKS.items() if begin.startswith(mark)), "utf-8")
    if found in ("utf-16", "utf-32"):
        say(f"{field}: {file.name} begins as {found.upper()} does and is read so; data.source.encoding says otherwise.")
    return found


def _opened(file: Path, mode: str, **options: Any) -> IO[Any]:
    return (gzip.open if file.suffix.lower() == ".gz" else open)(file, mode, **options)  # pyright: ignore


def _check_unpacked(file: Path) -> None:
    """Refuse what unpacks to so much more than its bytes that it is no text; it may be one line. Nothing of it is kept."""
    most, count = max(LEAST_BOUND, MOST_UNPACKED * file.stat().st_size), 0
    with gzip.open(file, "rb") as stream:
        while part := stream.read(2**20):
            if (count := count + len(part)) > most:
                raise UserError(
                    f"data.source.path: '{file}' has {file.stat().st_size:,} bytes and unpacks to more than {most:,}; expected "
                    "text. If it is, unpack it first."
                )


def lines_of(file: Path, encoding: str, newline: str | None = None) -> Iterator[str]:
    """The file's lines, or a `UserError` where it is not in this encoding, or cut off."""
    try:
        with _opened(file, "rt", encoding=encoding, newline=newline) as stream:
            if file.suffix.lower() == ".gz":
                _check_unpacked(file)
            yield from stream
    except UnicodeError as error:
        raise UserError(
            f"data.source.encoding: '{file}' is not {encoding} ({error}); expected the name of its encoding, such as cp1252 or "
            "latin-1."
        ) from None
    except LookupError:
        raise UserError(f"data.source.encoding: got {encoding!r}, expected the name of an encoding, such as utf-8.") from None
    except UNPACKING as error:
        raise UserError(f"data.source.path: '{file}' cannot be unpacked ({error}); get it again.") from None
