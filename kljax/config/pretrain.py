"""Supervised fitting."""

from typing import Literal

from pydantic import Field

from kljax.config.base import Fraction, Natural, NonNegative, Positive, Seed, Share, Two, strict
from kljax.config.optimizer import OptimizerConfig


@strict
class NextToken:
    """Each token from all before it: a decoder's base model."""

    kind: Literal["next_token"]


@strict
class MaskedToken:
    """BERT: of the tokens that are chosen, 80 % are masked, 10 % replaced and 10 % kept; the model says which they were."""

    kind: Literal["masked_token"]
    probability: Fraction  # that a token is chosen


@strict
class Classification:
    """The text's class: cross-entropy, which is forward KL(labels‖model)."""

    kind: Literal["classification"]
    label: str  # the column of classes


@strict
class Regression:
    """The text's rating, by squared error: a reward model."""

    kind: Literal["regression"]
    label: str  # the column of ratings


@strict
class Preference:
    """Bradley–Terry on pairs: −log σ(r(chosen) − r(rejected)); the text column is the chosen one. A reward model."""

    kind: Literal["preference"]
    rejected: str  # the column of rejected texts


@strict
class RatedPairs:
    """Bradley–Terry on pairs of texts with different ratings, drawn by `pretrain.seed`. A reward model."""

    kind: Literal["rated_pairs"]
    label: str  # the column of ratings
    margin: NonNegative  # pairs whose ratings differ by no more are not drawn


@strict
class Augmentation:
    """Noise on the training texts' tokens, anew each epoch; each is the probability for a token."""

    delete: Share
    swap: Share  # with the token after it
    mask: Share  # by the mask token, or the unknown one


@strict
class PretrainConfig:
    """Supervised fitting on the training rows, by maximum likelihood, which minimises forward KL(data‖model)."""

    objective: NextToken | MaskedToken | Classification | Regression | Preference | RatedPairs = Field(discriminator="kind")
    steps: Natural  # 0: a Hugging Face model as it is
    batch: Positive  # sequences a step
    length: Two  # tokens a sequence, longer texts are cut, into windows where every token is predicted
    augmentation: Augmentation
    eval_every: Positive  # steps between looks at the held-out rows
    watch: Literal["loss", "accuracy", "f1", "agreement"]  # the held-out figure by which the best parameters are known
    patience: Positive  # looks without a better figure before stopping; the best parameters are kept
    seed: Seed
    optimizer: OptimizerConfig
