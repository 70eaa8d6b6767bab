"""Tables of figures: on the terminal, and between marks of a Markdown file."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from kljax.errors import UserError
from kljax.training.progress import console
from kljax.training.run_directory import write_atomically

WIDTH = 128  # characters of a table on the terminal

Rows = list[list[str]]
"""A table, its head first."""


def measured_on(at: dict[str, Any]) -> str:
    """When, where, with what and by which command, of what `machine.describe` says."""
    versions = ", ".join(f"{name} {at['versions'][name]}" for name in ("jax", "jaxlib", "flax"))
    changes = " with uncommitted changes" if at["uncommitted_changes"] else ""
    device = at["processor"] if at["device_kind"] == "cpu" else f"{at['device_kind']} ({at['processor']})"
    return (
        f"{at['date'][:10]}, {device}, {at['cores']} cores, {at['memory_bytes'] / 2**30:.0f} GiB, load average "
        f"{at['load_average']:.1f} at the start; Python {at['python']}, {versions}, commit "
        f"{(at['git_commit'] or 'unknown')[:10]}{changes}; `python {shlex.join(at['command'])}`."
    )


def show(title: str, tables: Sequence[Rows]) -> None:
    """The tables on the terminal."""
    console.print(f"\n{title}", soft_wrap=True)
    for rows in tables:
        table = Table(*rows[0], box=box.SIMPLE_HEAD, width=WIDTH)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table, crop=False)


def write_between(file: Path, mark: str, heading: str, tables: Sequence[Rows]) -> None:
    """Put heading and tables between the lines `<!-- mark -->` and `<!-- /mark -->`; all else stays."""
    before, after = parts_around(file, mark)
    body = "\n\n".join([heading, *(markdown(rows) for rows in tables)])
    write_atomically(file, f"{before}\n{body}\n{after}")


def parts_around(file: Path, mark: str) -> tuple[str, str]:
    """The file's text up to the line `<!-- mark -->`, and from the line `<!-- /mark -->` on; refused where it has none."""
    first, last = (f"<!-- {slash}{mark} -->" for slash in ("", "/"))
    before, begun, rest = (file.read_text() if file.exists() else "").partition(first)
    _, ended, after = rest.partition(last)
    if not (begun and ended):
        raise UserError(f"--docs: {file} has no section between lines '{first}' and '{last}'; put them where it shall stand.")
    return before + first, last + after


def markdown(rows: Rows) -> str:
    """The table as Markdown has it, numbers to the right."""
    lines = [" | ".join(row) for row in rows]
    lines.insert(1, "|".join(["---", *["---:"] * (len(rows[0]) - 1)]))
    return "\n".join(f"| {line} |" if not line.startswith("---") else f"|{line}|" for line in lines)
