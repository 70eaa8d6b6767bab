"""The answer to each prompt, by maximum likelihood: the loss is on the answer's tokens and its end token alone."""

import math
from typing import Any

import datasets
import numpy as np
from jaxtyping import Array

from kljax.config import ChatPrompt, PrefixPrompt, Target
from kljax.data.answered import Answered, answered, end_of_answer
from kljax.data.batches import PromptRows, prompt_rows
from kljax.data.labelled import batch
from kljax.data.text import whole_column
from kljax.errors import UserError, did_you_mean
from kljax.fitting.intervals import Counts
from kljax.fitting.metrics import Figures
from kljax.fitting.objective import Objective, each_split, first_of
from kljax.fitting.resampled import ratio
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import token_logp
from kljax.progress import say
from kljax.runs.setup import Setup
from kljax.tasks.rows import TARGET

FIELD = "pretrain.objective.column"


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
    train, held_out, test = each_split(setup, lambda rows, part: answered_rows(setup, rows, part))

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


def answered_rows(setup: Setup, rows: datasets.Dataset, part: str) -> Answered:
    """The rows of a split as tokens. Rows without an answer, and those longer than pretrain.length, are left out, and said."""
    data, length = setup.config.data, setup.config.pretrain.length
    prompts = prompt_rows(setup.tokenizer, rows, data.prompt, data.seed, setup.splits.column, say, f"{part} prompts")
    answers = _answers(setup, prompts, part)
    there = sum(text is not None and bool(text.strip()) for text in answers)
    end = end_of_answer(setup.tokenizer, setup.generation.ends, in_template=isinstance(data.prompt, ChatPrompt))
    found, kept = answered(setup.tokenizer, prompts, answers, end, length)
    if lacking := len(answers) - there:
        say(f"{FIELD}: {lacking} of {len(answers)} {part} rows have no answer and are left out.")
    if too_long := there - len(kept):
        say(f"pretrain.length: {too_long} of {there} {part} rows have more than {length} tokens and are left out.")
    if not there:
        raise UserError(f"{FIELD}: no {part} row has an answer; expected a column of texts, or conversations with answers.")
    if not len(kept):
        raise UserError(
            f"pretrain.length: no {part} row has at most {length} tokens, its prompt and its answer together; raise it."
        )
    return found


def _answers(setup: Setup, prompts: PromptRows, part: str) -> list[str | None]:
    objective, there = setup.config.pretrain.objective, prompts.rows.column_names
    assert isinstance(objective, Target)
    name = TARGET if objective.column is None and setup.config.task.kind != "none" else objective.column
    if name is None:
        if prompts.targets is None:
            raise UserError(f"{FIELD}: got null, which is for conversations that end with an answer; expected a column: "
                            f"{', '.join(there)}.")  # fmt: skip
        if isinstance(setup.config.data.prompt, ChatPrompt) and setup.config.data.prompt.last_answer != "target":
            raise UserError(
                "data.prompt.last_answer: got continue, under which the answer is a part of the prompt; expected target."
            )
        return prompts.targets
    if name not in there:
        near = did_you_mean(name, there)
        raise UserError(f"{FIELD}: the {part} rows have no column '{name}'; they have: {', '.join(there)}.{near}")
    values = whole_column(prompts.rows, name)
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{FIELD}: '{name}' holds {value!r} in {part} row {i}, expected a text.")
    return values
