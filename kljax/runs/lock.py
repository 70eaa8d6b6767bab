"""One process writes a run's directory, or a fit's, at a time: a lock of the operating system, and who has it.

.lock        locked while a process writes; the system lets go of it however that process ends, by SIGKILL, too
.lock.json   who that is, for the sentence that others say: pid, host, since when. What a killed process left counts for nothing
"""

import errno
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kljax.disk import BESIDE, writing_to
from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.progress import console, working
from kljax.runs.config_file import CONFIG, HOLDER, LOCK

LOOK = 0.2  # seconds between two tries of a process that waits
NAMELESS = 1.0  # seconds in which one that has just taken the lock has said who it is
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # of a file system that knows none

RESTS = (f"*.json{BESIDE}", f"*.jsonl{BESIDE}", f"data/*{BESIDE}", ".*.partial", "checkpoints/*.orbax-checkpoint-tmp*")
"""Names of what a process that was killed, or had no room, has left in a directory of ours."""

_held: set[tuple[Path, int]] = set()  # directories of this process, each with the thread that writes it


@dataclass(frozen=True)
class _Place:
    """A directory, and those that had to be made for it, innermost first."""

    path: Path
    made: tuple[Path, ...]


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Be the one process that writes this directory, which is made; UserError where another one is.

    The thread that is it already may enter again. A directory without a config.yaml at the end is left as it was found.
    """
    if not _needs_lock(path):
        yield
        return
    if (lock := _try(place := _make(path))) is None:
        raise UserError(
            f"{path} is being written by {_holder(path)}; wait until that ends, stop it, or choose another name=…. "
            "Nothing was changed."
        )
    with _keeping(place, lock):
        yield


@contextmanager
def only_once(path: Path, what: str) -> Iterator[bool]:
    """The same for what several processes need and one makes: the others wait, and say for `what` and for whom.

    Gives whether this one had to wait. Whether it is there then is to be looked at: the one before may have been stopped.
    """
    if not _needs_lock(path):
        yield False
        return
    if waits := (lock := _try(place := _make(path))) is None:
        console.print(f"Waiting for {what} in {path}, on which {_holder(path)} is at work.", soft_wrap=True, markup=False)
        with working(f"waiting for {what}"):
            while (lock := _try(place := _make(path))) is None:
                time.sleep(LOOK)  # Ctrl-C ends it
    with _keeping(place, lock, sure=True):
        yield waits


def _needs_lock(path: Path) -> bool:
    """Whether there is a lock to take: not where this thread has it, nor of a file, which whoever looks at it refuses."""
    return (path.resolve(), threading.get_ident()) not in _held and (path.is_dir() or not path.exists())


def _make(path: Path) -> _Place:
    with writing_to(path):
        made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        path.mkdir(parents=True, exist_ok=True)
    return _Place(path, made)


def _try(place: _Place) -> FileLock | None:
    """The lock, taken; None where somebody else has it."""
    lock = FileLock(place.path / LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
    while True:
        try:
            with writing_to(place.path):
                lock.acquire()
            return lock
        except Timeout:
            return None
        except FileNotFoundError:  # whoever had it has just left the directory as it was found: away
            place.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            console.print(
                f"The file system of {place.path} knows no locks ({error.strerror}): nothing keeps a second launch of the same "
                "command from writing there, too.",
                soft_wrap=True,
                markup=False,
            )
            return lock  # not taken, and nothing to let go of


@contextmanager
def _keeping(place: _Place, lock: FileLock, *, sure: bool = False) -> Iterator[None]:
    """`sure`: the directory is ours, though it may have no config.yaml."""
    key = place.path.resolve(), threading.get_ident()
    try:
        with writing_to(place.path):
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            (place.path / HOLDER).write_text(json_text(who) + "\n", "utf-8")
        _held.add(key)
        if sure or (place.path / CONFIG).exists():
            _remove_rests(place.path)
        yield
    finally:
        _held.discard(key)
        with suppress(OSError):
            (place.path / HOLDER).unlink(missing_ok=True)
        as_found = not (place.path / CONFIG).exists()
        if as_found:
            with suppress(OSError):  # while it is still locked: whoever has opened it sees that it is no file any more
                (place.path / LOCK).unlink(missing_ok=True)
        lock.release()
        if as_found:
            with suppress(OSError):  # not empty
                for folder in place.made:
                    folder.rmdir()


def _remove_rests(path: Path) -> None:
    for pattern in RESTS:
        for rest in path.glob(pattern):
            if rest.name == f"manifest.json{BESIDE}":  # an analysis may be writing it
                continue
            with writing_to(rest):
                shutil.rmtree(rest) if rest.is_dir() and not rest.is_symlink() else rest.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")


def _holder(path: Path) -> str:
    """Who has the lock, in words."""
    last = time.monotonic() + NAMELESS
    while True:
        try:
            who = json.loads((path / HOLDER).read_bytes())
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            if time.monotonic() > last:
                return "another process"
            time.sleep(LOOK)
