"""Files that somebody else may have written: looked at before they are opened, and read with bounds.

A FIFO or a device would be waited for, or read, without end; a text of brackets alone, or a YAML of aliases of aliases, becomes
far more than its bytes. What exceeds a bound raises ValueError, whose text goes on with a sentence about the file.
"""

import json
import math
import os
import stat
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 64 * 2**20
"""Bytes of a file that describes something: configs, indices, evaluations. The largest in use have some megabytes."""
DEEPEST = 64
"""Lists and objects inside one another."""
MOST = 1_000_000
"""Values of a YAML file, each alias counted as what it stands for."""
YAML_LARGEST = 2**20  # bytes: PyYAML reads some hundred thousand a second without its C
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast, where it was built
SHORT = 8000  # characters: it ends the process at some ten thousand lists inside one another

KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a directory"),
)


def check_file(file: Path, largest: int | None = None) -> None:
    """ValueError where this is no regular file, or one of more bytes than `largest`; OSError where it cannot be looked at.

    Links are followed: Hugging Face's cache is made of them.
    """
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in KINDS if test(found.st_mode)), "no file")
        raise ValueError(f"it is {kind}, expected a regular file")
    if largest is not None and found.st_size > largest:
        raise ValueError(f"it has {found.st_size:,} bytes, expected at most {largest:,}")


def check_folder(folder: Path, largest: Mapping[str, int], below: Iterable[str] = ()) -> None:
    """ValueError where something in the directory is neither file nor directory, or a file is too large for its ending.

    `below`: directories in it that are looked into, too. For libraries that look for files of many names by themselves.
    """
    for place in (folder, *(folder / name for name in below)):
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            if entry.exists() and not entry.is_dir():
                try:
                    check_file(entry, largest.get(entry.suffix))
                except ValueError as error:
                    raise ValueError(f"{entry.name}: {error}") from None


def read_bytes(file: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file. ValueError where it is none or too large, OSError as when it is opened."""
    check_file(file, largest)
    return file.read_bytes()


def read_text(file: Path, largest: int = LARGEST) -> str:
    """The characters of a regular file in UTF-8, likewise."""
    return read_bytes(file, largest).decode("utf-8")


def read_json(file: Path, largest: int = LARGEST) -> Any:
    """Values of a file of strict JSON, likewise."""
    return strict_json(read_bytes(file, largest))


def strict_json(text: str | bytes) -> Any:
    """Values of a JSON text. ValueError where it is none, or has a key twice, a number that is not finite, or deep nesting."""
    values = parsed_json(text)
    for value in _walked(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("it has a number that is too large")
        if isinstance(value, str) and not value.isascii():
            _check_unicode(value)
    return values


def parsed_json(text: str | bytes, constant: Any = None) -> Any:
    """The same, but that numbers and texts are not looked at. `constant` makes a number of NaN, Infinity and -Infinity."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        values = json.loads(text, object_pairs_hook=once, parse_constant=constant or _refuse)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(values)
    return values


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. ValueError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"it has {min(key for key in counts if counts[key] > 1)!r} twice")
    return found


def read_yaml(text: str) -> Any:
    """Values of a YAML text of plain values. ValueError where it is too deep, or more than its characters by aliases.

    yaml.YAMLError where it is no YAML.
    """
    try:
        values = yaml.load(text, LOADER if len(text) <= SHORT else yaml.SafeLoader)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    check_depth(values, MOST)
    return values


def read_arrays(file: Path, largest: int = 2**30) -> dict[str, Any]:
    """The arrays of an .npz file. ValueError where it cannot be read, or an array is not as large as its header says.

    What is packed has `largest` bytes at most: a header alone would have any number of them allocated.
    """
    import numpy as np

    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.file_size > largest:
                    raise ValueError(f"{info.filename} has {info.file_size:,} bytes, expected at most {largest:,}")
                with archive.open(info) as member:
                    shape, dtype = _array_header(member)
                if math.prod(shape) * dtype.itemsize > info.file_size:
                    raise ValueError(f"{info.filename} says that it has the shape {shape}, for which it is too short")
        with np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # of zip files, of what is packed in them, of headers: they have nothing in common
        raise ValueError(str(error) or type(error).__name__) from None


def _array_header(member: Any) -> tuple[tuple[int, ...], Any]:
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = readers[npy.read_magic(member)](member)
    return shape, dtype


def check_tree(folder: Path) -> None:
    """ValueError where something below a directory is neither file nor directory: a library would wait for it."""
    for place, _, files in os.walk(folder):
        for name in files:
            if (file := Path(place, name)).exists():
                try:
                    check_file(file)
                except ValueError as error:
                    raise ValueError(f"{file.relative_to(folder)}: {error}") from None


def check_depth(values: Any, most: int = sys.maxsize) -> None:
    """ValueError where lists and objects lie too deep inside one another, or hold more than `most` values in all.

    One that stands in many places counts in each.
    """
    for _ in _walked(values, most):
        pass


def is_name(name: Any) -> bool:
    """Whether this is the name of something in a directory itself: no path that leads out of it or deeper."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & {*name}
    return plain and len(os.fsencode(name.encode("utf-8", "replace").decode())) <= 255


def _walked(values: Any, most: int = sys.maxsize) -> Iterator[Any]:
    """Every value inside, the keys of objects, too; level by level, since recursion is what is bounded."""
    level, depth, count = [values], 0, 1
    while level:
        yield from level
        inside: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inside += value.keys()
                inside += value.values()
            elif isinstance(value, list | tuple | set):
                inside += value
            if count + len(inside) > most:
                raise ValueError(f"it holds more than {most:,} values")
        level, depth, count = inside, depth + 1, count + len(inside)
        if depth > DEEPEST + 1:
            raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"it has more than {DEEPEST} lists and objects inside one another"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"it has half a character, in {ascii(text)[:60]}") from None
