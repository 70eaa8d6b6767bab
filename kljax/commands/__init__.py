"""The commands of `kljax`, one a module, which is imported when it is chosen: Hydra and what else it needs take a while.

What is imported here is the standard library, so that Ctrl-C is answered from the first moment on.
"""

import sys
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
    "runs": "list the runs and fits below a folder: what varies, how far, reward, KL, damage",
    "completion": 'the lines by which bash, zsh or fish complete all of this: eval "$(kljax completion bash)"',
}


def main() -> None:
    """What `kljax` and `python -m kljax` do: the command named first, with the rest of the command line."""
    name, *rest = sys.argv[1:] or ["--help"]
    if rest[:1] in (["-sc"], ["--shell-completion"]) and (asked := rest[-1].partition("="))[0] in ("install", "uninstall"):
        name, rest = "completion", [*(["uninstall"] if asked[0] == "uninstall" else []), asked[2]]  # Hydra's knows one word
    if name in COMMANDS:
        sys.argv = [f"kljax {name}", *rest]  # as it is called: for its help, and for the record of the run
        start(name)
    elif name in ("--help", "-h", "--version") and not rest:
        print(f"kljax {__version__}" if name == "--version" else usage())
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
        command.main()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


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
    if name in ("--help", "-h", "--version"):
        asks = f"; the help of a command is that of kljax {rest[0]} --help" if rest[0] in COMMANDS else ""
        return f"{rest[0]}: got it after {name}, expected nothing there{asks}."
    if name.startswith("-") or "=" in name:
        return f"{name}: got it before a command, expected one of {known} first, as in kljax train {name}."
    return f"{name}: no such command, expected one of {known}.{did_you_mean(name, COMMANDS)}"
