"""Programs that lie in somebody's files, computed in a process of their own, with a limit of time and of memory.

A chat template is one, and so is a regular expression: either can ask for a computation without end, or for a text that no
memory holds, from within libraries that cannot be interrupted. A template stays what Jinja's sandbox makes of it beside that.
Where the operating system has no limit of address space (Windows, macOS) only time and the length of the answer are limited.
"""

import atexit
import json
import pickle
import select
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

SECONDS = 5.0  # of one computation
STARTING = 60.0  # of the process, and of what it imports, on a machine that is busy
LONGEST = 16 * 2**20  # bytes of an answer
WORKER = Path(__file__).with_name("isolated_worker.py")


class Stopped(Exception):
    """A computation that exceeded a limit: what it did, in the words that end a sentence."""


class Failed(Exception):
    """An error of the program itself, in its own words."""


def call(function: str, *arguments: Any, seconds: float = SECONDS) -> Any:
    """The result of a function of isolated_worker.py. Stopped or Failed where it does not."""
    with _lock:
        worker = _running()
        try:
            answer = worker.ask(function, arguments, seconds)
        except BaseException:
            _stop()
            raise
    if "error" in answer:
        raise Failed(answer["error"])
    return answer["value"]


class _Worker:
    def __init__(self) -> None:
        # -P: nothing beside the script stands for a library's module of that name
        command = [sys.executable, "-P", str(WORKER)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._loaded: set[str] = set()

    def ask(self, function: str, arguments: tuple[Any, ...], seconds: float) -> dict[str, Any]:
        if function not in self._loaded:  # what it imports counts for nothing
            self._answer(("load", (function,)), STARTING, STARTING)
            self._loaded.add(function)
        return self._answer((function, arguments), seconds, seconds)

    def _answer(self, asked: Any, seconds: float, said: float) -> dict[str, Any]:
        request = pickle.dumps((*asked, seconds))
        try:
            self._process.stdin.write(len(request).to_bytes(8, "big"))  # pyright: ignore
            self._process.stdin.write(request)  # pyright: ignore
        except BrokenPipeError:
            raise Stopped("needs more memory than it may have") from None
        until = time.monotonic() + seconds
        size = int.from_bytes(self._read(8, until, said), "big")
        if size > LONGEST:
            raise Stopped(f"makes a text of more than {LONGEST:,} bytes")
        return json.loads(self._read(size, until, said))

    def _read(self, count: int, until: float, said: float) -> bytes:
        stream: Any = self._process.stdout
        parts, left = [], count
        while left:
            if not select.select([stream], [], [], max(until - time.monotonic(), 0.0))[0]:
                raise Stopped(f"takes more than {said:g} seconds")
            if not (part := stream.read(left)):
                raise Stopped("needs more memory than it may have, or ended its process")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


_lock = Lock()
_worker: _Worker | None = None


def _running() -> _Worker:
    global _worker
    if _worker is None:
        _worker = _Worker()
    return _worker


@atexit.register
def _stop() -> None:
    global _worker
    if _worker is not None:
        _worker.stop()
    _worker = None
