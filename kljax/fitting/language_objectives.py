"""Objectives that learn to write text: the next token, and BERT's hidden ones."""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from kljax.config import EncoderConfig, MaskedToken
from kljax.data import bigram, grammar, labelled
from kljax.data.batches import TokenRows, conversation_rows, token_rows
from kljax.data.labelled import Texts
from kljax.data.text import is_conversation, whole_column
from kljax.devices.state import architecture
from kljax.errors import UserError
from kljax.fitting import masked_tokens
from kljax.fitting.intervals import Counts
from kljax.fitting.metrics import Figures
from kljax.fitting.objective import Objective, Rows, each_split, first_of
from kljax.fitting.resampled import ratio
from kljax.kl.sequences import masked_sum
from kljax.models.encoder import MaskedLm
from kljax.models.scoring import token_logp
from kljax.runs.setup import Setup

AS_IT_IS = 200  # held-out rows at which a model is looked at that is not fitted: it may be large


def next_token(setup: Setup) -> Objective:
    """A decoder's maximum likelihood: forward KL(data‖model) up to the data's entropy. Figures are nats a token."""
    config, arch = setup.config.pretrain, setup.architecture

    def windows(rows: datasets.Dataset, part: str) -> TokenRows:
        values = whole_column(rows, setup.splits.column)
        made = conversation_rows if is_conversation(values[0]) else token_rows
        return made(setup.tokenizer, values, config.length)

    train, held_out, test = each_split(setup, windows)
    _check_windows(setup, held_out)
    seen = _looked_at(setup)
    held_out = TokenRows(held_out.tokens[seen], held_out.mask[seen])

    def nats(model: Any, rows: Texts, key: Any = None) -> Array:
        return -masked_sum(token_logp(model, rows.tokens, rows.mask, dropout_key=key), rows.mask[:, 1:])  # pyright: ignore

    def mean(outputs: np.ndarray, rows: Texts) -> float:
        return float(outputs.sum(dtype=np.float64) / rows.mask[:, 1:].sum())

    def summary(outputs: np.ndarray) -> Figures:
        baseline = bigram.held_out_nats(train, held_out, setup.vocab_size)
        return {
            "held_out_perplexity_tok": math.exp(mean(outputs, Texts(held_out.tokens, held_out.mask))),
            "bigram_nats_tok": baseline,
            "bigram_perplexity_tok": math.exp(baseline),
        } | (_grammar_figures(setup.texts(setup.splits.held_out), outputs, held_out) if _of_grammar(setup) else {})

    return Objective(
        architecture=arch,
        batch=lambda step: Texts(*train.batch(config.seed, step, config.batch)),
        train=lambda n: first_of(Texts(train.tokens, train.mask), n),
        held_out=Texts(held_out.tokens, held_out.mask),
        test=None if test is None else Texts(test.tokens[seen], test.mask[seen]),
        loss=lambda model, rows, key: nats(model, rows, key).sum() / rows.mask[:, 1:].sum(),
        outputs=nats,
        figures=lambda outputs, rows: {"nats_tok": mean(outputs, rows)},
        resampled=lambda outputs, rows, counts: {"nats_tok": ratio(outputs, rows.mask[:, 1:].sum(axis=1), counts)},
        loss_name="nats_tok",
        summary=summary,
    )


def _looked_at(setup: Setup) -> slice:
    """Which held-out rows: the first, where the model is used as it is."""
    return slice(None) if setup.config.pretrain.steps else slice(AS_IT_IS)


def _of_grammar(setup: Setup) -> bool:
    return setup.config.data.source.kind == "grammar"


def _check_windows(setup: Setup, held_out: TokenRows) -> None:
    """The grammar's exact log-probs are of whole sentences, so each has to fit into one window."""
    if _of_grammar(setup) and len(held_out.tokens) != len(setup.splits.held_out):
        longest = max(len(text.split()) for text in setup.texts(setup.splits.held_out)) + 2
        raise UserError(
            f"pretrain.length: got {setup.config.pretrain.length}, expected at least {longest}, so that the grammar's longest "
            "sentence with its beginning and end fits into one window."
        )


def _grammar_figures(texts: Sequence[str], nats: np.ndarray, held_out: TokenRows) -> Figures:
    truth = np.array([grammar.logp(text) for text in texts[: len(nats)]])
    excess = nats + truth  # −log p_model − (−log p_data): its mean over data is the forward KL
    return {
        "grammar_entropy_nats_tok": grammar.entropy_per_token(),
        "forward_kl_data_model_seq": float(excess.mean()),
        "forward_kl_data_model_seq_se": float(excess.std(ddof=1) / math.sqrt(len(excess))),
        "forward_kl_data_model_tok": float(excess.sum() / held_out.mask[:, 1:].sum()),
    }


def masked_token(setup: Setup) -> Objective:
    """BERT's: which token stood where one is hidden. `loss` is nats a hidden token, `accuracy` how many are found."""
    config, model = setup.config.pretrain, setup.model
    assert isinstance(config.objective, MaskedToken)
    if not isinstance(model, EncoderConfig):
        raise UserError(
            "model: got a decoder, which sees no token after the hidden one; expected an encoder for "
            "pretrain/objective=masked_token, such as model=bert."
        )
    recipe = masked_tokens.recipe(setup.tokenizer, config.objective.probability)

    def pieces(rows: datasets.Dataset, part: str) -> Texts:
        return labelled.text_pieces(setup.tokenizer, setup.texts(rows), config.length)

    def hidden_once(rows: Texts) -> masked_tokens.Masked:
        tokens, mask = (jnp.asarray(array[_looked_at(setup)]) for array in (rows.tokens, rows.mask))
        return jax.tree.map(np.asarray, masked_tokens.hide(jax.random.key(config.seed), tokens, mask, recipe))

    def loss(model: Any, rows: Any, key: Key[Array, ""]) -> Array:
        hide_key, dropout_key = jax.random.split(key)
        hidden = masked_tokens.hide(hide_key, rows.tokens, rows.mask, recipe)
        nats = -masked_sum(masked_tokens.target_logp(model, hidden, dropout_key), hidden.chosen)  # pyright: ignore
        return nats.sum() / jnp.maximum(hidden.chosen.sum(), 1)

    def figures(outputs: np.ndarray, rows: Rows) -> Figures:
        nats, right, chosen = outputs.sum(axis=0, dtype=np.float64)
        return {"loss": float(nats / max(chosen, 1)), "accuracy": float(right / max(chosen, 1))}

    def drawn_again(outputs: np.ndarray, rows: Rows, counts: Counts) -> dict[str, np.ndarray]:
        return {name: ratio(outputs[:, i], outputs[:, 2], counts) for i, name in enumerate(("loss", "accuracy"))}

    train, held_out, test = each_split(setup, pieces)
    return Objective(
        architecture=architecture(lambda rngs: MaskedLm(model, setup.vocab_size, rngs=rngs), setup.mesh),
        batch=lambda step: labelled.batch(train, config.seed, step, config.batch),
        train=lambda n: hidden_once(first_of(train, n)),
        held_out=hidden_once(held_out),
        test=None if test is None else hidden_once(test),
        loss=loss,
        outputs=masked_tokens.found,
        figures=figures,
        resampled=drawn_again,
    )
