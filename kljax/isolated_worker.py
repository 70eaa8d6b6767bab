"""The process of `isolated`: one request after another, until the other side ends. A script of its own: it imports no kljax."""

import json
import math
import pickle
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY = 2**30  # bytes beside what the process has once its libraries are there


def render(template: str, messages: list[Any], how: dict[str, bool], variables: dict[str, Any]) -> str:
    """A chat template, as transformers' apply_chat_template renders it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template(conversations=[messages], chat_template=template, **how, **variables)[0][0]


def matching(pattern: str, texts: list[str]) -> list[str]:
    """Those of the texts that a regular expression matches as a whole."""
    compiled = re.compile(pattern)
    return [text for text in texts if compiled.fullmatch(text)]


def load(name: str) -> None:
    """Import what a function needs, then bound the memory of all that is computed from here on."""
    if name == "render":
        import transformers.utils.chat_template_utils  # noqa: F401

        render("{{ messages }}", [], {}, {})
    with suppress(ImportError, OSError, ValueError):  # where there is no such limit
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


FUNCTIONS = {"load": load, "render": render, "matching": matching}


def main() -> None:
    """Answer each request: its length in eight bytes, then a pickle, from a process that is trusted; answers are JSON."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print is no answer
    while len(size := requests.read(8)) == 8:
        name, arguments, seconds = pickle.loads(requests.read(int.from_bytes(size, "big")))
        signal.alarm(math.ceil(seconds) + 1)  # should the other side be gone by then: this ends the process, in any library
        answer = json.dumps(_answer(name, arguments)).encode()
        signal.alarm(0)
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


def _answer(name: str, arguments: Any) -> dict[str, Any]:
    try:
        return {"value": FUNCTIONS[name](*arguments)}
    except MemoryError:
        return {"error": "it needs more memory than it may have"}
    except Exception as error:  # a template can raise anything, in words of its own
        return {"error": (" ".join(str(error).split()) or type(error).__name__)[:2000]}


if __name__ == "__main__":
    main()
