"""Texts and conversations that a user types to the tokens that a model reads, as training had them."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kljax.config import ChatPrompt, DataConfig
from kljax.data import conversations
from kljax.data.chats import chats
from kljax.data.conversations import Message
from kljax.data.tokenizers import encode
from kljax.errors import UserError
from kljax.types import Tokenizer

Prompt = str | Sequence[Message]
"""A text, or a conversation: messages with role and content."""

PLAIN = ChatPrompt(kind="chat", system=None, message="{text}", words=None, max_tokens=1, last_answer="continue")


@dataclass(frozen=True)
class Prompting:
    """How a prompt is made: a text after the beginning token, or as a message in the chat template (`chat`).

    Conversations go through the chat template in either case.
    """

    tokenizer: Tokenizer
    chat: ChatPrompt | None = None
    begins: bool = True  # a text that is no message has the beginning token before it

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The tokens of each prompt; all are texts, or all are conversations."""
        if isinstance(prompts[0], str):
            return self._texts([str(text) for text in prompts])
        if not self.tokenizer.chat_template:
            raise UserError("prompts: got conversations, but the tokenizer has no chat template; expected texts.")
        config = replace(self.chat or PLAIN, message="{text}", words=None, last_answer="continue")
        return chats(self.tokenizer, [_conversation(one) for one in prompts], config, {}).prompts

    def _texts(self, texts: list[str]) -> list[list[int]]:
        if self.chat is not None:  # its number of words is that of the data's texts: what is typed is taken whole
            return chats(self.tokenizer, texts, replace(self.chat, words=None), {}).prompts
        begin: list[Any] = [self.tokenizer.bos_token_id] if self.begins else []
        rows = [[*begin, *tokens] for tokens in encode(self.tokenizer, texts)]
        if not all(rows):
            raise UserError("prompts: got an empty text, and no beginning token is put before it; expected some text.")
        return rows

    def __str__(self) -> str:
        """Describe what becomes of a prompt."""
        tokenizer = self.tokenizer
        if self.chat is not None:
            system = f", after the system message {self.chat.system!r}" if self.chat.system else ""
            return f"a text is the message {self.chat.message!r} in the tokenizer's chat template{system}"
        plain = f"text after the beginning token {tokenizer.bos_token}" if self.begins else "text, nothing before it"
        return plain + ("; a conversation in the tokenizer's chat template" if tokenizer.chat_template else "")


def of_run(tokenizer: Tokenizer, data: DataConfig) -> Prompting:
    """The run's own: its chat template and message, where its prompts were chats, or else the beginning token."""
    return Prompting(tokenizer, data.prompt if isinstance(data.prompt, ChatPrompt) else None)


def listed(prompts: Prompt | Iterable[Prompt], field: str = "prompts") -> list[Prompt]:
    """One prompt or several as a list of some, all of a kind."""
    if isinstance(prompts, str) or (isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], Mapping)):
        return [prompts]  # pyright: ignore
    expected = "a text, a conversation (a list of messages), or a list of either"
    if isinstance(prompts, Mapping | Set) or hasattr(prompts, "columns"):
        kind = "one message" if isinstance(prompts, Mapping) and "role" in prompts else f"a {type(prompts).__name__}"
        raise UserError(f"{field}: got {kind}, expected {expected}, such as one column of a table.")
    try:
        found: list[Any] = list(prompts)
    except TypeError:
        raise UserError(f"{field}: got {prompts!r}, expected {expected}.") from None
    if not found:
        raise UserError(f"{field}: got none, expected one at least.")
    texts = [isinstance(one, str) for one in found]
    if any(texts) and not all(texts):
        raise UserError(
            f"{field}: got texts beside {found[texts.index(False)]!r}, expected texts alone or conversations alone."
        )
    if not any(texts):
        for one in found:
            _conversation(one, field)
    return found


def _conversation(given: Any, field: str = "prompts") -> list[Message]:
    try:
        return conversations.messages(list(given) if isinstance(given, Sequence | np.ndarray) else given)
    except ValueError as error:
        raise UserError(f"{field}: got {str(error).rstrip('.')}.") from None
