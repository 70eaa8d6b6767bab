"""The optimiser of a fit and of RL."""

from typing import Literal

from kljax.config.base import AboveZero, Natural, NonNegative, Share, strict


@strict
class OptimizerConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and decoupled weight decay."""

    learning_rate: AboveZero
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up, to 0 at the last step
    warmup_steps: Natural  # the k-th update has k/warmup_steps of the rate
    b1: Share
    b2: Share
    eps: AboveZero
    weight_decay: NonNegative  # on matrices only
    clip_norm: AboveZero
