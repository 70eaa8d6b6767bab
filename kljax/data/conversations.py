"""Conversations as TRL's data formats have them: lists of messages with a role and a content, or ShareGPT's from and value."""

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
"""role, content, and whatever else the data have: it goes to the chat template as it is."""

ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's words for two of the roles."""


def messages(value: Any) -> list[Message]:
    """The messages of one row, each with role and content. ValueError says what is wrong, after the word "holds"."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ValueError(f"{value!r}, expected a list of messages")
    return [_message(message) for message in value]


def _message(given: Any) -> Message:
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} among its messages, expected role and content, or from and value")
    found = {key: value for key, value in given.items() if value is not None}  # Arrow fills up what other rows have
    for role, content in (("role", "content"), ("from", "value")):
        if role in found:
            if not isinstance(text := found.get(content), str):
                raise ValueError(f"a message whose {content} is {text!r}, expected text")
            rest = {key: value for key, value in found.items() if key not in (role, content)}
            return {"role": ROLES.get(found[role], found[role]), "content": text} | rest
    raise ValueError(f"a message with the keys {', '.join(found) or 'none'}, expected role and content, or from and value")


def said(text: str | list[Message]) -> str:
    """The text itself, or the contents of a conversation's messages, one after another."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)
