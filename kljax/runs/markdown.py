"""Text of anybody's in a Markdown page: as code, which nothing in it can end."""

import re
from typing import Any

import yaml


def front_matter(values: dict[str, Any]) -> str:
    """The YAML block that a model card begins with."""
    return f"---\n{yaml.safe_dump(values, allow_unicode=True, sort_keys=False)}---"


def code(value: Any) -> str:
    """A code span with the value's characters, in one line: its fence is longer than any row of backticks inside."""
    text = " ".join(str(value).split()) or " "
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def plain(value: Any) -> str:
    """The value's characters, in one line, of which none is Markdown or HTML."""
    return re.sub(r"([\\\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(str(value).split()))


def bullets(items: dict[str, str]) -> str:
    """A list of what is called so and is so."""
    return "\n".join(f"- {name}: {text}" for name, text in items.items())


def table(rows: list[list[str]]) -> str:
    """A table whose first row is its head. A bar in a cell is none of its own."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [cells[0], ["---", *["---:"] * (len(cells[0]) - 1)], *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
