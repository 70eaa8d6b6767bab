"""The commands of `kljax`, one a module, which is imported when it is chosen: Hydra and what else it needs take a while.

What is imported here is the standard library, so that Ctrl-C is answered from the first moment on.
"""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from kljax import __version__
from kljax.errors import MISTAKE, did_you_mean
from kljax.interrupt import INTERRUPTED, StopRequest

COMMANDS = {
    "train": "RLHF with a KL penalty: the base model, if it is not there yet, fine-tuning, held-out prompts",
    "pretrain": "fit a base model, a classifier or a reward model by maximum likelihood",
    "analyze": "restore any step of a run and evaluate it on held-out prompts",
    "export": "write a step of a run as a Hugging Face directory, or its LoRA as PEFT's",
    "frontier": "reward against KL over finished runs: a table, a CSV and a PNG",
    "judge": "a blinded page on which people judge completions of two runs, and what came back",
    "runs": "list the runs and fits below a folder: what varies, how far, reward, KL, damage",
    "completion": 'the lines by which bash, zsh or fish complete all of this: eval "$(kljax completion bash)"',
}

OPTIONS = ("--help", "-h", "--version", "-V")
UNREAD = 141  # exit code, as of a program that the signal of a broken pipe ends


def main() -> None:
    """Run `kljax` and `python -m kljax`: the command named first, with the rest of the command line."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS and len(rest) == 2 and rest[0] in ("-sc", "--shell-completion"):
        name, rest = _completion(name, rest)
    if name in COMMANDS:
        sys.argv = [f"kljax {name}", *rest]  # as it is called: for its help, and for the record of the run
        start(name)
    elif name in OPTIONS and not rest:
        with reader_may_leave():
            print(f"kljax {__version__}" if name in ("--version", "-V") else usage())
    else:
        print(f"kljax: {_mistake(name, rest)}", file=sys.stderr)
        sys.exit(MISTAKE)


def start(name: str) -> None:
    """Import a command and answer the command line by it. Ctrl-C waits until it is imported, and is one line then."""
    try:
        with StopRequest() as stop:
            command = import_module(f"kljax.commands.{name}")
        if stop.asked:
            raise KeyboardInterrupt
        with reader_may_leave():
            command.main()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End without a traceback where whoever reads what is printed has read enough, as in `kljax runs | head -3`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout, select.POLLOUT)
        if not any(event & select.POLLERR for _, event in output.poll(0)):
            raise  # of another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it goes nowhere
        sys.exit(UNREAD)


def _completion(name: str, asked: list[str]) -> tuple[str, list[str]]:
    """The command for Hydra's install=… and uninstall=…, whose own lines know programs of one word alone."""
    does, _, shell = asked[1].partition("=")
    return {"install": ("completion", [shell]), "uninstall": ("completion", ["uninstall", shell])}.get(does, (name, asked))


def usage() -> str:
    """All commands, a line each."""
    lines = [f"  {name:12}{does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kljax COMMAND …",
            "",
            "KL regularisation in RLHF, in JAX.",
            "",
            *lines,
            "",
            "kljax COMMAND --help says what one takes; kljax --version says which kljax this is.",
        ]
    )


def _mistake(name: str, rest: list[str]) -> str:
    known = ", ".join(COMMANDS)
    if name in OPTIONS:
        asks = f"; the help of a command is that of kljax {rest[0]} --help" if rest[0] in COMMANDS else ""
        return f"{rest[0]}: got it after {name}, expected nothing there{asks}."
    near = did_you_mean(name.lower(), [*COMMANDS, "--help", "--version"])
    if name.startswith("--") and near:
        return f"{name}: no such option, expected --help, --version or a command: {known}.{near}"
    if name.startswith("-") or "=" in name:
        return f"{name}: got it before a command, expected one of {known} first, as in kljax train {name}."
    return f"{name}: no such command, expected one of {known}.{near}"
