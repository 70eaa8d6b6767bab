"""The parts that tasks share in making prompts of rows."""

from collections.abc import Mapping
from typing import Any

from kljax.errors import UserError


def check_prompt(prompt: str) -> None:
    """Refuse a prompt without a place for the row's text."""
    if not isinstance(prompt, str) or "{text}" not in prompt:
        raise UserError(f"arguments.prompt: got {prompt!r}, expected a text with {{text}} in it, for the row's text.")


def filled(prompt: str, text: str) -> str:
    """The prompt with the text in the place of {text}; other braces stay."""
    return prompt.replace("{text}", text)


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The column's text without space around it; "" where there is none."""
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise UserError(f"task.arguments: column '{column}' holds {value!r}, expected a text.")
    return (value or "").strip()
