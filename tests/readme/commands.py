"""Every command that a user is told: in Markdown, in the Makefile, in comments of configs and docstrings of scripts."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kljax.commands import COMMANDS

ROOT = Path(__file__).parents[2]
BEGINS = re.compile(r"(\w+=\S+ )*(python3?|bash|make|pip|tensorboard|kljax(?= ))\b")
CONSOLE = re.compile(rf"^kljax ({'|'.join(name for name in COMMANDS if (ROOT / 'experiments' / f'{name}.py').exists())})\b")
"""The console command where it is what a script is."""
NAMED = re.compile(r"kljax (analyze|export|frontier|judge|mine)")


@dataclass(frozen=True)
class Command:
    """A command as it is printed, on one line, and where."""

    text: str
    file: str
    line: int

    @property
    def words(self) -> list[str]:
        """As a shell divides it, without its comment."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def all_commands() -> list[Command]:
    """Of all places; the same command in two places is there twice."""
    return [*in_markdown(), *in_makefile(), *in_configs(), *in_scripts()]


def scripts() -> list[str]:
    """Of experiments/: a file's name (`python experiments/…`), or below it a module's (`python -m experiments.…`)."""
    found = [file for file in (ROOT / "experiments").rglob("*.py") if '__name__ == "__main__"' in file.read_text("utf-8")]
    return sorted(map(_script, found))


def _script(file: Path) -> str:
    inside = file.relative_to(ROOT)
    return file.name if len(inside.parts) == 2 else ".".join(inside.with_suffix("").parts).removesuffix(".__main__")


def in_markdown() -> Iterator[Command]:
    """Lines of ```sh blocks, and code within a line that begins as a command does."""
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text, name = file.read_text("utf-8"), str(file.relative_to(ROOT))
        blocks = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
        for block in blocks:
            if block[1] == "sh":
                yield from _lines(block[2], name, _line_of(text, block.start(2)))
        spans = [block.span() for block in blocks]
        for code in re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", text):
            inside = any(begin <= code.start() < end for begin, end in spans)
            named = NAMED.fullmatch(" ".join(code[1].split()))  # a command that is spoken of
            if not inside and not named and BEGINS.match(code[1]) and " " in code[1]:
                yield Command(" ".join(code[1].split()), name, _line_of(text, code.start()))


def in_makefile() -> Iterator[Command]:
    """The lines of recipes that start a script."""
    text = (ROOT / "Makefile").read_text("utf-8").replace("$(BIN)/python", "python")
    for command in _lines(text, "Makefile", 1):
        found = re.search(r"python (-m )?experiments[/.].*", command.text)
        if found:
            yield Command(re.sub(r"\$\(KLJAX_MODELS\)", "models", found[0]), command.file, command.line)


def in_configs() -> Iterator[Command]:
    """Comments that are a command and, after two spaces, what it is for."""
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            if (comment := re.match(r"# +(.*)", line)) and BEGINS.match(comment[1]):
                yield Command(re.split(r"  +", comment[1])[0], str(file.relative_to(ROOT)), number)


def in_scripts() -> Iterator[Command]:
    """Lines of docstrings of the scripts, their code and the commands', and of the shell script's first comment."""
    for file in sorted([*(ROOT / "experiments").rglob("*"), *(ROOT / "kljax" / "commands").rglob("*.py")]):
        if file.suffix == ".py":
            text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        elif file.suffix == ".sh":
            lines = file.read_text("utf-8").splitlines()
            text = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
        else:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if BEGINS.match(line) or CONSOLE.match(line):
                yield Command(re.split(r"  +", line)[0], str(file.relative_to(ROOT)), number)


def _lines(text: str, file: str, first: int) -> Iterator[Command]:
    """Lines that are not empty, each joined with those that it goes on in."""
    whole = ""
    for number, line in enumerate(text.splitlines(), start=first):
        whole += line.strip()
        if whole.endswith("\\"):
            whole = whole[:-1].rstrip() + " "
            continue
        if whole and not whole.startswith("#"):
            yield Command(whole, file, number)
        whole = ""


def _line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
