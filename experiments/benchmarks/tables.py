"""Tables of figures on the terminal."""

import shlex
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from kljax.progress import console

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
