"""Digests of a run's files, by which damage is seen: neither Orbax nor its stores check the arrays that they read.

<run>/manifest.json                of what is text, or written once: config.yaml, model.json, tokenizer/, evaluation/, …
<run>/checkpoints/*/manifest.json  of all files of a folder of arrays, written when they lie there: without one it is unfinished

A manifest holds bytes and SHA-256 of each file, and a SHA-256 of its own. A command line asks, too: no JAX.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from kljax.disk import whole_file
from kljax.errors import UserError
from kljax.json_text import json_text, key_text
from kljax.reading import check_file, read_bytes, strict_json

MANIFEST = "manifest.json"
FROM_A_COPY = "restore it from a copy, or begin anew (name=…)"
WRITTEN_AGAIN = "restore it from a copy, or delete it: the command that began the run writes it again"

Digest = dict[str, Any]
"""Of a file: bytes and sha256; `next`, the same of what is about to take its place."""


class Damaged(UserError):
    """A file is not what was written. `reason` is the sentence without its way out."""

    def __init__(self, reason: str, way_out: str):
        super().__init__(f"run: {reason}; {way_out}.")
        self.reason = reason


def write_atomically(file: Path, text: str) -> None:
    """Write beside, then rename: a reader or a killed process never leaves half a file. UTF-8 whatever the locale."""
    with whole_file(file) as beside:
        beside.write_text(text, "utf-8")


def seal(folder: Path, of: str | None, **more: Any) -> None:
    """Write the manifest of a folder whose files lie there whole. `of`: whose it is. `more`: what else it is to hold."""
    files = {str(file.relative_to(folder)): _digest(file) for file in _files_in(folder)}
    _write(folder, {"name": folder.name, "of": of, "files": files, **more})


def check_folder(folder: Path, of: str | None, way_out: str = FROM_A_COPY) -> dict[str, Any]:
    """Raise `Damaged` where a sealed folder is not what was written, by `of`, under this name; else what its manifest holds."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        lacking = "is missing" if not folder.exists() else f"was not finished: it has no {MANIFEST}"
        raise Damaged(f"{folder} {lacking}", way_out)
    found = _read(folder, way_out)
    if found.get("name") != folder.name:
        raise Damaged(f"{folder} was written under another name, {found.get('name')}", way_out)
    if found.get("of") != of:
        raise Damaged(f"{folder} was written by another run", way_out)
    for name, digest in found["files"].items():
        _check(folder / name, digest, way_out)
    return found


def write_text(run: Path, name: str, text: str) -> None:
    """Write a text of the run and its digest. A process that is killed in between leaves the file before, or this one."""
    digest = {"bytes": len(content := text.encode()), "sha256": hashlib.sha256(content).hexdigest()}
    with _changing(run) as files:
        known = files.get(name)
        if known is not None and (run / name).exists():
            if "next" in known and _digest(run / name) == known["next"]:  # a process was killed before it could note that
                known = known["next"]
            _write(run, {"files": files | {name: {**known, "next": digest}}})
        write_atomically(run / name, text)
        _write(run, {"files": files | {name: digest}})


def note(run: Path, names: Iterable[str]) -> None:
    """Take digests of files of the run, and of all files in folders of it, as they lie there now."""
    with _changing(run) as files:
        for name in names:
            files = {known: digest for known, digest in files.items() if not _belongs(known, name)}
            there = _files_in(run / name) if (run / name).is_dir() else [run / name]
            files |= {str(file.relative_to(run)): _digest(file) for file in there}
        _write(run, {"files": files})


def check(run: Path, name: str, way_out: str = FROM_A_COPY) -> None:
    """Raise `Damaged` where a file of the run, or one in a folder of it, is not what was written."""
    if not (run / MANIFEST).exists():
        raise Damaged(
            f"{run / MANIFEST} is missing, without which nobody knows whether {run / name} is what was written",
            "restore it from a copy, or give the command that began the run again: it takes the files as they are",
        )
    way = "restore it from a copy, or delete it: the command that began the run takes the files as they are"
    files = _read(run, way)["files"]
    known = {file: digest for file, digest in files.items() if _belongs(file, name)}
    if not known:
        raise Damaged(f"{run / name} is not in {run / MANIFEST}: the writing of it was interrupted", way_out)
    for file, digest in known.items():
        _check(run / file, digest, way_out)


def lists(run: Path, name: str) -> bool:
    """Whether the run's manifest knows a file, be it there or not."""
    return (run / MANIFEST).exists() and name in _read(run, FROM_A_COPY)["files"]


def of_beginning(file: Path, size: int) -> Digest:
    """The digest of the first bytes of a log, to which more is added."""
    with file.open("rb") as opened:
        return {"bytes": size, "sha256": hashlib.sha256(opened.read(size)).hexdigest()}


def check_beginning(file: Path, digest: Digest, way_out: str) -> None:
    """Raise `Damaged` where a log does not begin as it did."""
    if of_beginning(file, digest["bytes"]) != digest:
        raise Damaged(f"{file} was cut off or changed: its first {digest['bytes']:,} bytes are not what was written", way_out)


class _changing:
    """The files of a run's manifest, while nobody else changes it."""

    def __init__(self, run: Path):
        self._run, self._lock = run, FileLock(run / f".{MANIFEST}.lock")

    def __enter__(self) -> dict[str, Digest]:
        with suppress(OSError):  # of a file system that knows no locks; what else is wrong with it the writing will say
            self._lock.acquire()
        try:
            return _read(self._run, "delete it: the files are then taken as they are")["files"]
        except FileNotFoundError:
            return {}
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


def _files_in(folder: Path) -> list[Path]:
    """But its manifest and what locks leave."""
    files = (file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
    return sorted(file for file in files if not file.name.startswith(".lock"))


def _belongs(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _digest(file: Path) -> Digest:
    check_file(file)
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _check(file: Path, digest: Digest, way_out: str) -> None:
    try:
        there = _digest(file)
    except FileNotFoundError:
        raise Damaged(f"{file} is missing", way_out) from None
    except OSError as error:
        raise Damaged(f"{file} cannot be read ({error.strerror})", way_out) from None
    except ValueError as error:
        raise Damaged(f"{file} cannot be read: {error}", way_out) from None
    written = {name: digest[name] for name in there}
    if there in (written, digest.get("next")):
        return
    if there["bytes"] != digest["bytes"]:
        how = f"has {there['bytes']:,} bytes and was written with {digest['bytes']:,}"
    else:
        how = "was changed since it was written (its SHA-256 is another)"
    raise Damaged(f"{file} {how}", way_out)


def _read(folder: Path, way_out: str) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        values = strict_json(read_bytes(file))
        own = values.pop("sha256")
        files: Mapping[str, Digest] = values["files"]
        if own == _own_digest(values) and isinstance(files, dict):
            return values
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Damaged(f"{file} was cut off or changed since it was written", way_out)


def _write(folder: Path, values: Mapping[str, Any]) -> None:
    write_atomically(folder / MANIFEST, json_text({**values, "sha256": _own_digest(values)}, indent=1) + "\n")


def _own_digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(key_text(values).encode()).hexdigest()
