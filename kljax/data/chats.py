"""Prompts that go through a chat template: the conversations of the data, or one message around each text."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kljax.config import ChatPrompt, PrefixPrompt, WholePrompt
from kljax.data import conversations
from kljax.data.conversations import Message
from kljax.data.text import is_conversation
from kljax.data.tokenizers import chat_tokens, decode, encode
from kljax.errors import UserError
from kljax.types import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """The tokens of each prompt, and how one is made shorter."""

    prompts: list[list[int]]
    shortened: Callable[[int, int], list[int]]
    conversations: list[list[Message]] | None = None
    targets: list[str | None] | None = None


PASSED_ON = ("tools", "chat_template_kwargs")
"""Columns of TRL's conversational formats that are for the template: the tools that may be called, and variables of its own."""

MARK = "kljax"
"""Stands for what a user says, where a template is looked at."""


def chats(tokenizer: Tokenizer, values: list[Any], config: ChatPrompt, columns: Mapping[str, list[Any]]) -> Encoded:
    """Each conversation in the tokenizer's chat template, up to where the assistant's answer begins.

    `columns` are those of PASSED_ON that the data have.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "data.prompt.kind: got chat, but the tokenizer has no chat template; expected one in tokenizer_config.json or "
            "chat_template.jinja, or data/prompt=prefix or whole."
        )
    given = bool(values) and is_conversation(values[0])
    asked = [_given(i, value, config) if given else (_around(value, config), None) for i, value in enumerate(values)]
    messages, targets = [messages for messages, _ in asked], [target for _, target in asked]

    variables = [
        _variables(i, {name: column[i] for name, column in columns.items()}) for i in range(len(values) if given else 0)
    ]

    def encoded(i: int, asked: list[Message]) -> list[int]:
        goes_on = asked[-1]["role"] == "assistant"
        more = variables[i] if given else {}
        try:
            return chat_tokens(tokenizer, asked, begin_answer=not goes_on, continue_last=goes_on, variables=more)
        except UserError as error:
            field = "" if str(error).startswith("tokenizer: ") else f"{_refused(tokenizer, asked, config)}: "
            raise UserError(f"{field}{error} It is row {i} of the prompts.") from None

    def shortened(i: int, width: int) -> list[int]:
        """The prompt whose last message has lost so much of its end that it fits."""
        *before, last = messages[i]
        tokens = encode(tokenizer, [last["content"]])[0]
        prompt, left = prompts[i], len(tokens)
        while len(prompt) > width:
            left -= len(prompt) - width
            if left <= 0:
                raise is_too_long(i, values[i], len(prompts[i]), config)
            # Not half a character, which would be another one.
            last = last | {"content": decode(tokenizer, [tokens[:left]])[0].rstrip("\N{REPLACEMENT CHARACTER}")}
            prompt = encoded(i, [*before, last])
        messages[i] = [*before, last]
        return prompt

    prompts = [encoded(i, conversation) for i, conversation in enumerate(messages)]
    return Encoded(prompts, shortened, messages if given else None, targets if given else None)


def _variables(i: int, of: Mapping[str, Any]) -> dict[str, Any]:
    """Variables that a row gives the template beside its messages."""
    tools, more = of.get("tools"), of.get("chat_template_kwargs")
    row = f"data.source.path: row {i} of the prompts has"
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except ValueError:
        raise UserError(f"{row} tools={of['tools'][:60]!r}, expected a list or JSON of one.") from None
    if more is not None and not isinstance(more, Mapping):
        raise UserError(f"{row} chat_template_kwargs={more!r}, expected names and values.")
    return ({"tools": tools} if tools else {}) | {name: value for name, value in (more or {}).items() if value is not None}


def without_template(tokenizer: Tokenizer, config: ChatPrompt) -> Callable[[str], str]:
    """From a prompt of these to what the user says in it: for people, who are not shown the roles and the system message."""
    asked = [*_system(config), {"role": "user", "content": MARK}]
    around = decode(tokenizer, [chat_tokens(tokenizer, asked, begin_answer=True)])[0]
    before, found, after = around.rpartition(MARK)

    def cut(prompt: str) -> str:
        if not (found and prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before + after)):
            return prompt
        return prompt[len(before) : len(prompt) - len(after)]

    return cut


def _around(text: str, config: ChatPrompt) -> list[Message]:
    """The config's message with the text in it."""
    begun = text if config.words is None else " ".join(text.split()[: config.words])
    return [*_system(config), {"role": "user", "content": config.message.replace("{text}", begun)}]


def _given(i: int, value: Any, config: ChatPrompt) -> tuple[list[Message], str | None]:
    """The row's conversation, and the answer with which it ended, if that is its target."""
    for name, plain in (("message", "{text}"), ("words", None)):
        if getattr(config, name) != plain:
            raise UserError(
                f"data.prompt.{name}: got {getattr(config, name)!r}, but the data are conversations, which are taken as they "
                f"are; expected {plain or 'null'}."
            )
    messages = conversations.messages(value)
    target = None
    if config.last_answer == "target" and messages[-1]["role"] == "assistant":
        *messages, answer = messages
        target = answer["content"]
    if not messages:
        raise UserError(
            f"data.source.column: the conversation in row {i} of the prompts is an answer alone, expected a question."
        )
    if config.system is not None and messages[0]["role"] == "system":
        raise UserError(
            f"data.prompt.system: got {config.system[:40]!r}, but the conversation in row {i} of the prompts has a system "
            "message of its own; expected null."
        )
    return [*_system(config), *messages], target


def _system(config: ChatPrompt) -> list[Message]:
    return [] if config.system is None else [{"role": "system", "content": config.system}]


def _refused(tokenizer: Tokenizer, messages: list[Message], config: ChatPrompt) -> str:
    """The field because of which these messages were refused: the system message, if they pass without it."""
    if config.system is None:
        return "data.prompt.kind"
    try:
        chat_tokens(tokenizer, messages[1:], begin_answer=True)
    except UserError:
        return "data.prompt.kind"
    return "data.prompt.system"


def is_too_long(i: int, value: Any, length: int, config: PrefixPrompt | WholePrompt | ChatPrompt) -> UserError:
    """The sentence about prompt `i`, made of `value`, of `length` tokens."""
    shorter = "data.prompt.words" if config.kind == "chat" and not is_conversation(value) else "data/prompt=prefix"
    shown = value if isinstance(value, str) else value[-1].get("content", value[-1].get("value", ""))
    return UserError(
        f"data.prompt.max_tokens: prompt {i} ({shown[:40]!r}…) has {length - 1} tokens, expected at most {config.max_tokens}. "
        f"Raise data.prompt.max_tokens, choose data.prompt.too_long=drop or cut, or, without a task, cut texts with {shorter}."
    )
