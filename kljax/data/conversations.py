"""Conversations as TRL's data formats have them: lists of messages with a role and a content, or ShareGPT's from and value."""

from collections.abc import Mapping, Sequence
from typing import Any

from kljax.errors import did_you_mean

Message = dict[str, Any]
"""role, content, and whatever else the data have: it goes to the chat template as it is."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
ALIASES = {"human": "user", **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model"), "assistant")}
"""ShareGPT's words for roles, and Gemma's."""


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
            text = found.get(content, "" if "tool_calls" in found else None)
            if not isinstance(text, str):
                raise ValueError(f"a message whose {content} is {text!r}, expected text")
            if (name := ALIASES.get(str(found[role]), found[role])) not in ROLES:
                raise ValueError(
                    f"a message of the role {name!r}, expected one of {', '.join(ROLES)}.{did_you_mean(str(name), ROLES)}"
                )
            rest = {key: value for key, value in found.items() if key not in (role, content)}
            return {"role": name, "content": text} | rest
    raise ValueError(f"a message with the keys {', '.join(found) or 'none'}, expected role and content, or from and value")


def strings(value: Any) -> list[str]:
    """Every text inside a value, however deep: names, keys of tools, arguments of calls."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for one in pair for text in strings(one)]
    return [text for one in value for text in strings(one)] if isinstance(value, list | tuple) else []


def said(text: str | list[Message]) -> str:
    """The text itself, or the contents of a conversation's messages, one after another."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)
