"""Writing to a disk that may refuse: whole files or none, and what the system says as one sentence."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kljax.errors import UserError

BESIDE = ".new"  # ends the name of a file that is being written
ELSEWHERE = "or choose another place"
DISK = {
    errno.ENOSPC: ("no space is left on its disk", f"make room, {ELSEWHERE}"),
    errno.EDQUOT: ("your quota of its disk is used up", f"delete some of your files, {ELSEWHERE}"),
    errno.EFBIG: (
        "a file would be larger than its disk or this process may have (ulimit -f)",
        f"raise that limit, {ELSEWHERE}",
    ),
    errno.EROFS: ("its disk can only be read", f"mount it for writing, {ELSEWHERE}"),
    errno.EACCES: ("permission denied", f"ask its owner for the permission, {ELSEWHERE}"),
    errno.EPERM: ("that is not permitted", f"ask its owner for the permission, {ELSEWHERE}"),
    errno.ENAMETOOLONG: ("a name is longer than its disk allows", "choose shorter names"),
    errno.ENOTDIR: ("a part of the path is a file, no directory", "choose another place"),
    errno.EIO: ("the disk reports an error of its own (input/output)", "look at the disk, which may be failing"),
    errno.ESTALE: ("the network's disk has lost the file (stale handle)", "mount it again"),
    errno.EMFILE: ("this process has too many files open (ulimit -n)", "raise that limit"),
}
"""Refusals of a disk or an operating system, in words, and what can be done about it."""


@contextmanager
def writing_to(path: Path | str) -> Iterator[None]:
    """UserError where the disk does not take what is written within: to `path`, or to the file that the error names.

    Libraries pass on what the system says in errors of their own, by its words: those are known, too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (refused := of_the_disk(error, path)) is None:
            raise
        raise refused from error


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to, which replaces it when all is written: nobody finds half of it."""
    beside = file.with_name(f"{file.name}{BESIDE}")
    with writing_to(file):
        try:
            yield beside
            beside.replace(file)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


class Growing:
    """A file that is added to, piece by piece, each in the system's hands when `add` returns: it survives SIGKILL."""

    def __init__(self, file: Path):
        self._file = file
        with writing_to(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = file.open("ab", buffering=0)  # nothing is left for `close`, where it could not be written either

    def add(self, piece: bytes) -> None:
        """Add all of it. A disk that fills up takes the beginning, and refuses the rest."""
        with writing_to(self._file):
            while piece:
                piece = piece[self._stream.write(piece) :]

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


@contextmanager
def of_the_disk_as_well() -> Iterator[None]:
    """UserError for an OSError within that is the disk's or the system's and that nobody has said anything of: a last net."""
    try:
        yield
    except OSError as error:
        if (refused := of_the_disk(error)) is None:
            raise
        raise refused from error


def of_the_disk(error: BaseException, path: Path | str | None = None) -> UserError | None:
    """The sentence for an error that is the disk's or the system's; None for any other, which may be a bug.

    Without a `path` only an OSError counts: others may speak of anything.
    """
    for one in [error] if path is None else _causes(error):
        if (code := _code(one, by_words=path is not None)) is not None:
            cause, way_out = DISK[code]
            named = _named(one, path)
            return UserError(
                f"{_short(named) if named else 'A file'} cannot be {'written' if path else 'opened or written'}: {cause}; "
                f"{way_out}. What was saved before is whole, and the same command goes on from there."
            )
    return None


def _named(error: BaseException, path: Path | str | None) -> Path | str | None:
    """The file that the error names where that lies elsewhere than `path`, beside or below which are only helpers of ours."""
    file = os.fspath(error.filename) if isinstance(error, OSError) and isinstance(error.filename, str | Path) else None
    if file is None or path is None:
        return file or path
    return path if Path(path).absolute().parent in Path(file).absolute().parents else file


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    seen = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__  # pyright: ignore


def _code(error: BaseException, *, by_words: bool) -> int | None:
    if isinstance(error, OSError) and error.errno in DISK:
        return error.errno
    text = str(error) if by_words else ""
    return next((code for code in DISK if os.strerror(code) in text), None)


def _short(path: Path | str) -> str:
    """A path for a sentence: what is too long for a file's name would fill the terminal."""
    return text if len(text := str(path)) <= 300 else f"{text[:150]}…{text[-40:]}"
