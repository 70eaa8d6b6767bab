"""Completions of prompts with their tokens and log-probs: sampled by a model, or given by the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kljax.data.tokenizers import completion_ids, completion_texts, decode, special_tokens
from kljax.types import Rollout, Tokenizer

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 8  # completions that are printed of many


@dataclass(frozen=True)
class Drawn:
    """How completions came to be: by which model, with which seed, at which temperature, cut by what (0, 1: not at all)."""

    identity: str
    by: str
    seed: int
    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether each token was drawn from the model's whole distribution."""
        return self.temperature > 0 and not self.top_k and self.top_p == 1

    def __str__(self) -> str:
        how = f"at temperature {self.temperature:g}" if self.temperature else "greedily"
        cut = [f"{name} {value:g}" for name, value, off in (("top_k", self.top_k, 0), ("top_p", self.top_p, 1)) if value != off]
        return " ".join([f"drawn from {self.by}", how, *cut, f"with seed {self.seed}"])


@dataclass(frozen=True, eq=False, repr=False)
class Completions:
    """Completions, one after another for each prompt. Padding never shows: entry i of a list is completion i's.

    `rollout` has them as arrays, `samples` of a prompt adjacent; its `behaviour_logp` is log p(token) in
    nats at `temperature`, under the model whose `sample` or `score` has made this. `drawn` is None of given texts.
    """

    rollout: Rollout
    samples: int
    temperature: float
    tokenizer: Tokenizer
    scored_by: str
    drawn: Drawn | None = None

    def __len__(self) -> int:
        return len(self.rollout.tokens)

    @property
    def prompts(self) -> list[str]:
        """The text of each completion's prompt, special tokens left out."""
        return self._texts[0]

    @property
    def texts(self) -> list[str]:
        """The text of each completion, special tokens left out: prompt + text is one decoding of both."""
        return self._texts[1]

    @cached_property
    def _texts(self) -> tuple[list[str], list[str]]:
        return completion_texts(self.tokenizer, self.rollout)

    @property
    def token_ids(self) -> list[list[int]]:
        """The tokens of each completion, an end token included."""
        return completion_ids(self.rollout)

    @property
    def tokens(self) -> list[list[str]]:
        """The part of the text that each token adds; of a special token its name."""
        width = self.rollout.prompt_mask.shape[1]
        prompts = zip(np.asarray(self.rollout.tokens)[:, :width], np.asarray(self.rollout.prompt_mask), strict=True)
        before = [row[mask].tolist() for row, mask in prompts]
        return [pieces(self.tokenizer, *pair) for pair in zip(before, self.token_ids, strict=True)]

    @property
    def logp(self) -> list[Float[np.ndarray, "tokens"]]:
        """log p of each token given all before it, nats."""
        rows = zip(np.asarray(self.rollout.behaviour_logp), np.asarray(self.rollout.mask), strict=True)
        return [row[mask] for row, mask in rows]

    def frame(self) -> "pd.DataFrame":
        """One row a completion: prompt, text, tokens (how many), logp (their sum, nats per sequence)."""
        import pandas as pd

        lengths = np.asarray(self.rollout.mask).sum(axis=1)
        logp = [row.sum(dtype=np.float64) for row in self.logp]
        return pd.DataFrame({"prompt": self.prompts, "text": self.texts, "tokens": lengths, "logp": logp})

    def __repr__(self) -> str:
        origin = f"given, scored by {self.scored_by}" if self.drawn is None else str(self.drawn)
        rows = [f"  {prompt!r} → {text!r}" for prompt, text in zip(self.prompts[:SHOWN], self.texts[:SHOWN], strict=True)]
        more = [f"  … {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([f"{len(self)} completions, {origin}", *rows, *more])


CONTEXT = 8  # tokens before a token on which it can depend how it is spelled: spaces, and characters of several tokens


def pieces(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> list[str]:
    """The part that each token adds to the text that `before` begins; of a special token its name.

    Of a character that several tokens make, the last one adds it and the others nothing.
    """
    special: Any = special_tokens(tokenizer)
    every = [*before[-CONTEXT:], *ids]
    ends = range(len(every) - len(ids), len(every))
    shorter = decode(tokenizer, (every[max(end - CONTEXT, 0) : end] for end in ends))
    longer = decode(tokenizer, (every[max(end - CONTEXT, 0) : end + 1] for end in ends))
    added = [text[len(kept) :] for text, kept in zip(longer, map(_whole, shorter), strict=True)]
    return [special.get(token) or _whole(text) for token, text in zip(ids, added, strict=True)]


def _whole(text: str) -> str:
    """The text without the signs at its end that stand for a character whose last bytes are still to come."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
