"""The verdict as a table on a terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kljax.analysis.judging import verdict
from kljax.progress import console
from kljax.runs import markdown


def show(result: Mapping[str, Any], said: Sequence[str]) -> None:
    """Print the figures, and what must be known of them."""
    console.print(f"a: {result['a']}\nb: {result['b']}", soft_wrap=True, markup=False)
    console.print(f"[…] is an interval of {result['level']:.0%}.", soft_wrap=True, markup=False)
    table = Table()
    for column in (result["question"], "a against b"):
        table.add_column(Text(column))
    for label, value in verdict.rows(result):
        table.add_row(Text(label), Text(value))
    console.print(table)
    for sentence in said:
        console.print(sentence, soft_wrap=True, markup=False)


def text(result: Mapping[str, Any], said: Sequence[str]) -> str:
    """The same as Markdown, with the judges' notes."""
    cells = [[markdown.plain(label), markdown.plain(value)] for label, value in verdict.rows(result)]
    about = {
        "a": markdown.code(result["a"]),
        "b": markdown.code(result["b"]),
        "page": markdown.code(result["page"]),
        "intervals": f"of {result['level']:.0%}",
    }
    parts = [f"# {markdown.plain(result['question'])}", markdown.bullets(about), markdown.table([["", "a against b"], *cells])]
    parts += ["\n".join(f"- {markdown.plain(sentence)}" for sentence in said)] if said else []
    if result["notes"]:
        notes = [
            f"- {markdown.plain(one['judge'])}, of {markdown.code(one['prompt'])}: {markdown.plain(one['note'])}"
            for one in result["notes"]
        ]
        parts += ["## Notes", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"
