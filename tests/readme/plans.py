"""How each command is run for a test: as it is, in a short form, or not beyond its options; and what stands for DIR and …"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.readme.commands import CONSOLE, Command
from tests.readme.fixtures import MODEL, REWARD_MODEL

NOT_RUN = {
    # what the command has in it: why it is composed and checked, but not run
    r"experiment=(sst2|smollm2|headlines|multi30k|gsm8k|movie_reviews|overoptimisation|review_)": "data or models elsewhere",
    r"experiments\.studies\.overfitting": "data beside the repository, and minutes",
    r"experiments\.studies\.overoptimisation": "runs of experiment=overoptimisation",
    r"--(trl|tunix)-python": "environments of other libraries",
    r"experiments[./]benchmarks[./]gpu": "an accelerator, or 8 minutes",
    r"experiments\.benchmarks\.memory": "the memory of a whole process",
    r"run=runs/mine|runs/mine ": "a run of the reader's own",
    r"judge.* score=": "answers of people",
    r"^make (test|lint|coverage|demo)\b": "what CI runs; a part of other commands here",
    r"^make ": "its recipe is among the commands",
    r"\.\[(cuda|tpu|parity)\]": "a device, or gigabytes",
    r"--size (m|gpu|smollm2)": "minutes on a machine of two cores",
    r"^marimo ": "a server, which does not end",
}
LONG = {
    # run as printed in a fresh clone only: minutes, or programs of its own that nothing here shares
    r"-m experiments\.": "minutes",
    r"experiments/directions\.py": "minutes",
    r"^tensorboard ": "a server, which does not end",
    r"^pip ": "a fresh environment",
    r"--out /tmp/": "another folder for the same",
}
STANDS_FOR = [
    # in which command, what is printed, and what it stands for in a test
    (r"reward\.model", "DIR", REWARD_MODEL),
    (r"experiments/export\.py", "DIR", "exported"),
    (r"merge=false", "runs/…", "runs/mine/lora"),
    (r"model=huggingface", " …", " data/source=text data.source.path=reviews.csv data.source.column=review reward=length"),
    (r"", "DIR", MODEL),
    (r"", "runs/…", "runs/grammar/default"),
    (r"", "step=…", "step=latest"),
    (r"", "adapter=…", "adapter=none"),
    (r"", " …", ""),
    (r"", " [OUT]", ""),
]


@dataclass(frozen=True)
class Plan:
    """What is done with a command. `skipped`: why it is not run; `long`: why it is run in a fresh clone only."""

    command: Command
    words: tuple[str, ...]
    skipped: str | None
    long: str | None


def plan(command: Command) -> Plan:
    """The plan of any command that is printed anywhere."""
    text = as_a_script = CONSOLE.sub(r"python experiments/\1.py", command.text, count=1)
    for where, printed, meant in STANDS_FOR:
        if re.search(where, as_a_script):
            text = text.replace(printed, meant)
    words = tuple(Command(text, command.file, command.line).words)
    return Plan(command, words, _reason(command.text, NOT_RUN), _reason(command.text, LONG))


def without_environment(words: tuple[str, ...]) -> tuple[str, ...]:
    """Without NAME=value in front of a program."""
    return without_environment(words[1:]) if re.match(r"[A-Z_]+=", words[0]) else words


def _reason(text: str, table: dict[str, str]) -> str | None:
    return next((reason for pattern, reason in table.items() if re.search(pattern, text)), None)


def leftovers(words: tuple[str, ...]) -> list[str]:
    """Words that still have a placeholder in them."""
    return [word for word in words if "…" in word or re.search(r"\bDIR\b", word)]


def script_of(words: tuple[str, ...]) -> str | None:
    """The script of `python experiments/…`, by its file's name, or of `python -m experiments.…`, by its module's."""
    words = without_environment(words)
    if words[0] not in ("python", "python3") or len(words) < 2:
        return None
    if words[1] == "-m" and len(words) > 2 and words[2].startswith("experiments."):
        return words[2]
    return Path(words[1]).name if words[1].startswith("experiments/") else None


def given_to(words: tuple[str, ...]) -> list[str]:
    """What such a script is called with."""
    words = without_environment(words)
    return list(words[3:] if words[1] == "-m" else words[2:])
