"""Supervised fitting."""

from typing import Literal

from pydantic import Field

from kljax.config.base import Fraction, Natural, NonNegative, Positive, Seed, Share, Two, strict
from kljax.config.optimizer import OptimizerConfig


@strict
class NextToken:
    """Each token from all before it: a decoder's base model."""

    kind: Literal["next_token"]
    """Set by pretrain/objective=next_token."""


@strict
class Target:
    """The answer to each prompt (data/prompt=whole or chat), by maximum likelihood; the prompt itself is not learned."""

    kind: Literal["target"]
    """Set by pretrain/objective=target."""
    column: str | None
    """The column of answers; null: of conversations, the answer that each ends with."""


WRITES = ("next_token", "target")
"""Objectives whose model writes text."""


@strict
class MaskedToken:
    """BERT: of the tokens that are chosen, 80 % are masked, 10 % replaced and 10 % kept; the model says which they were."""

    kind: Literal["masked_token"]
    """Set by pretrain/objective=masked_token."""
    probability: Fraction
    """That a token is chosen."""


@strict
class Classification:
    """The text's class: cross-entropy, which is forward KL(labels‖model)."""

    kind: Literal["classification"]
    """Set by pretrain/objective=classification."""
    label: str
    """The column of classes."""


@strict
class Regression:
    """The text's rating, by squared error: a reward model."""

    kind: Literal["regression"]
    """Set by pretrain/objective=regression."""
    label: str
    """The column of ratings."""


@strict
class Preference:
    """Bradley–Terry on pairs: −log σ(r(chosen) − r(rejected)); the text column is the chosen one. A reward model."""

    kind: Literal["preference"]
    """Set by pretrain/objective=preference."""
    rejected: str
    """The column of rejected texts."""


@strict
class RatedPairs:
    """Bradley–Terry on pairs of texts with different ratings, drawn by `pretrain.seed`. A reward model."""

    kind: Literal["rated_pairs"]
    """Set by pretrain/objective=rated_pairs."""
    label: str
    """The column of ratings."""
    margin: NonNegative
    """Pairs whose ratings differ by no more are not drawn."""


Watched = Literal[
    "loss",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "macro_f1",
    "brier",
    "calibration_error",
    "rmse",
    "pearson",
    "spearman",
    "agreement",
]
"""Held-out figures that early stopping can go by; each objective has some."""


@strict
class Augmentation:
    """Noise on the training texts' tokens, anew each epoch; each is the probability for a token."""

    delete: Share
    """The probability that a token is left out."""
    swap: Share
    """The probability that a token changes places with the one after it."""
    mask: Share
    """The probability that a token becomes the mask token, or the unknown one."""


@strict
class PretrainConfig:
    """Supervised fitting on the training rows, by maximum likelihood, which minimises forward KL(data‖model)."""

    objective: NextToken | Target | MaskedToken | Classification | Regression | Preference | RatedPairs = Field(
        discriminator="kind"
    )
    """The aim of fitting: what is learned from the rows."""
    steps: Natural
    """Updates at most; 0: a Hugging Face model as it is."""
    batch: Positive
    """Sequences a step."""
    length: Two
    """Tokens a sequence; longer texts are cut, into windows where every token is predicted."""
    augmentation: Augmentation
    """Noise on the training texts' tokens."""
    eval_every: Positive
    """Steps between looks at the held-out rows."""
    train_rows: Natural = 0
    """Training rows that a look takes beside the held-out ones, without dropout and noise; 0: none."""
    watch: Watched
    """The held-out figure by which the best parameters are known."""
    patience: Positive
    """Looks without a better figure before stopping; the best parameters are kept."""
    seed: Seed
    """Of the initial parameters, the order of rows, dropout and noise."""
    optimizer: OptimizerConfig
    """The optimiser of the fit."""
