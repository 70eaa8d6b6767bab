"""Files of characters: their encoding and their lines, whether compressed or not."""

import gzip
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import IO, Any

import datasets

from kljax.config import TextSource
from kljax.errors import UserError

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Say = Callable[[str], None]
"""Where to say what was guessed, converted or left out."""


def through_datasets(kind: str, files: Sequence[Path], **options: Any) -> datasets.Dataset:
    """The rows of these files, by the builder of this kind."""
    names = [escape(str(file)) for file in files]
    return datasets.load_dataset(kind, data_files=names, split="train", **options)  # pyright: ignore


def load_text(files: Sequence[Path], source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """A row a line, in the column `text`."""
    encoding = encoding_of(files, source, field, say)
    for file in files:
        deque(lines_of(file, encoding), maxlen=0)  # refuses what is not in this encoding
    return through_datasets("text", files, encoding=encoding)


def encoding_of(files: Sequence[Path], source: TextSource, field: str, say: Say) -> str:
    """The config's encoding, or that of the byte order mark, or UTF-8."""
    if source.encoding is not None:
        return source.encoding
    with _opened(files[0], "rb") as stream:
        begin: Any = stream.read(3)
    found = next((name for mark, name in BYTE_ORDER_MARKS.items() if begin.startswith(mark)), "utf-8")
    if found == "utf-16":
        say(f"{field}: {files[0].name} begins as UTF-16 does and is read so; data.source.encoding says otherwise.")
    return found


def _opened(file: Path, mode: str, **options: Any) -> IO[Any]:
    return (gzip.open if file.suffix == ".gz" else open)(file, mode, **options)  # pyright: ignore


def lines_of(file: Path, encoding: str, newline: str | None = None) -> Iterator[str]:
    """The file's lines, or a `UserError` where it is not in this encoding."""
    try:
        with _opened(file, "rt", encoding=encoding, newline=newline) as stream:
            yield from stream
    except (UnicodeDecodeError, UnicodeError) as error:
        raise UserError(
            f"data.source.encoding: '{file}' is not {encoding} ({error}); expected the name of its encoding, such as cp1252 or "
            "latin-1."
        ) from None
    except LookupError:
        raise UserError(f"data.source.encoding: got {encoding!r}, expected the name of an encoding, such as utf-8.") from None
