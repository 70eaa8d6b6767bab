"""The answer to each prompt, by maximum likelihood: the loss is on the answer's tokens and its end token alone."""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from jaxtyping import Array, Bool, Int

from kljax.config import ChatPrompt, PrefixPrompt, Target
from kljax.data.batches import PromptRows, prompt_rows
from kljax.data.conversations import Message
from kljax.data.labelled import batch
from kljax.data.text import whole_column
from kljax.data.tokenizers import chat_tokens, encode
from kljax.errors import UserError, did_you_mean
from kljax.fitting.intervals import Counts
from kljax.fitting.metrics import Figures
from kljax.fitting.objective import Objective, each_split, first_of
from kljax.fitting.resampled import ratio
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import token_logp
from kljax.progress import say
from kljax.runs.setup import Setup
from kljax.types import struct

FIELD = "pretrain.objective.column"


@struct
class Answered:
    """Prompts with their answers, padded on the right; `answer` is true at the answer's tokens and at its end token."""

    tokens: Int[np.ndarray, "rows L"]
    mask: Bool[np.ndarray, "rows L"]
    answer: Bool[np.ndarray, "rows L"]


def target(setup: Setup) -> Objective:
    """A decoder's forward KL(data‖model) of answers given their prompts, up to the data's entropy. Figures in nats a token.

    Prompts are those of RL (data.prompt): a policy that is trained from here reads what this fit has read. An answer ends with
    the token that ends a completion.
    """
    config = setup.config.pretrain
    if isinstance(setup.config.data.prompt, PrefixPrompt):
        raise UserError(
            "data.prompt: got prefix, which cuts a text and leaves its rest as the answer; expected whole or chat for "
            "pretrain/objective=target."
        )
    train, held_out, test = each_split(setup, lambda rows, part: answered(setup, rows, part))

    def nats(model: Any, rows: Answered, key: Any = None) -> Array:
        logp = token_logp(model, rows.tokens, rows.mask, dropout_key=key)  # pyright: ignore
        return -masked_sum(logp, rows.answer[:, 1:])  # pyright: ignore

    def figures(outputs: np.ndarray, rows: Answered) -> Figures:
        total = outputs.sum(dtype=np.float64)
        return {"nats_tok": float(total / rows.answer.sum()), "nats_seq": float(total / len(outputs))}

    def drawn_again(outputs: np.ndarray, rows: Answered, counts: Counts) -> dict[str, np.ndarray]:
        tokens = {"nats_tok": rows.answer.sum(axis=1), "nats_seq": np.ones(len(outputs))}
        return {name: ratio(outputs, below, counts) for name, below in tokens.items()}

    return Objective(
        architecture=setup.architecture,
        batch=lambda step: batch(train, config.seed, step, config.batch),
        train=lambda n: first_of(train, n),
        held_out=held_out,
        test=test,
        loss=lambda model, rows, key: nats(model, rows, key).sum() / rows.answer.sum(),
        outputs=nats,
        figures=figures,
        resampled=drawn_again,
        loss_name="nats_tok",
        summary=lambda outputs: {"held_out_perplexity_tok": math.exp(figures(outputs, held_out)["nats_tok"])},  # pyright: ignore
    )


def answered(setup: Setup, rows: datasets.Dataset, part: str) -> Answered:
    """The rows of a split as tokens. Rows without an answer, and those longer than pretrain.length, are left out, and said."""
    data, length = setup.config.data, setup.config.pretrain.length
    prompts = prompt_rows(setup.tokenizer, rows, data.prompt, data.seed, setup.splits.column, say)
    targets = _targets(setup, prompts, part)
    there = [i for i, text in enumerate(targets) if text is not None and text.strip()]
    end = _end(setup)
    answers = [[*tokens, end] for tokens in encode(setup.tokenizer, [targets[i] for i in there])]  # pyright: ignore
    asked = [prompts.tokens[i][prompts.mask[i]].tolist() for i in there]
    kept = [i for i, pair in enumerate(zip(asked, answers, strict=True)) if sum(map(len, pair)) <= length]
    if lacking := len(targets) - len(there):
        say(f"{FIELD}: {lacking} of {len(targets)} {part} rows have no answer and are left out.")
    if too_long := len(there) - len(kept):
        say(f"pretrain.length: {too_long} of {len(there)} {part} rows have more than {length} tokens and are left out.")
    if not there:
        raise UserError(f"{FIELD}: no {part} row has an answer; expected a column of texts, or conversations with answers.")
    if not kept:
        raise UserError(
            f"pretrain.length: no {part} row has at most {length} tokens, its prompt and its answer together; raise it."
        )
    return _padded([asked[i] for i in kept], [answers[i] for i in kept], length, setup.tokenizer.pad_token_id)  # pyright: ignore


def _end(setup: Setup) -> int:
    """The token that an answer ends with: of those that end a completion the one that the chat template closes an answer with,
    or else the tokenizer's own.
    """
    ends, tokenizer = setup.generation.ends, setup.tokenizer
    if isinstance(setup.config.data.prompt, ChatPrompt) and tokenizer.chat_template:
        asked: list[Message] = [{"role": "user", "content": "a"}]
        try:
            before = chat_tokens(tokenizer, asked, begin_answer=True)
            whole = chat_tokens(tokenizer, [*asked, {"role": "assistant", "content": "a"}], begin_answer=False)
        except UserError:  # a template that wants other messages
            before = whole = []
        if (closing := next((token for token in whole[len(before) :] if token in ends), None)) is not None:
            return closing
    return int(own) if (own := tokenizer.eos_token_id) in ends else ends[0]  # pyright: ignore


def _targets(setup: Setup, prompts: PromptRows, part: str) -> list[str | None]:
    objective, there = setup.config.pretrain.objective, prompts.rows.column_names
    assert isinstance(objective, Target)
    if objective.column is None:
        if prompts.targets is None:
            raise UserError(f"{FIELD}: got null, which is for conversations that end with an answer; expected a column: "
                            f"{', '.join(there)}.")  # fmt: skip
        if isinstance(setup.config.data.prompt, ChatPrompt) and setup.config.data.prompt.last_answer != "target":
            raise UserError(
                "data.prompt.last_answer: got continue, under which the answer is a part of the prompt; expected target."
            )
        return prompts.targets
    if objective.column not in there:
        near = did_you_mean(objective.column, there)
        raise UserError(f"{FIELD}: the {part} rows have no column '{objective.column}'; they have: {', '.join(there)}.{near}")
    values = whole_column(prompts.rows, objective.column)
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{FIELD}: '{objective.column}' holds {value!r} in {part} row {i}, expected a text.")
    return values


def _padded(asked: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], length: int, pad: int) -> Answered:
    places = np.arange(length)
    begins = np.array([len(prompt) for prompt in asked])[:, None]
    ends = begins + np.array([len(answer) for answer in answers])[:, None]
    mask = places < ends
    tokens = np.full(mask.shape, pad, np.int32)
    tokens[mask] = np.concatenate(
        [np.asarray([*prompt, *answer], np.int32) for prompt, answer in zip(asked, answers, strict=True)]
    )
    return Answered(tokens, mask, mask & (places >= begins))
