"""The optimiser of a fit and of RL."""

from typing import Literal

from kljax.config.base import AboveZero, Natural, NonNegative, Share, strict


@strict
class OptimizerConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and decoupled weight decay."""

    learning_rate: AboveZero
    """AdamW's rate, after the warm-up."""
    schedule: Literal["constant", "linear", "cosine"]
    """The course of the rate after the warm-up; linear and cosine go to 0 at the last step."""
    warmup_steps: Natural
    """The k-th update has k/warmup_steps of the rate; 0: no warm-up."""
    b1: Share
    """Decay of AdamW's mean of gradients."""
    b2: Share
    """Decay of AdamW's mean of squared gradients."""
    eps: AboveZero
    """The number that AdamW adds to the root of the mean of squares."""
    weight_decay: NonNegative
    """Decoupled, on matrices only; 0: none."""
    clip_norm: AboveZero
    """A gradient whose norm over all parameters is larger is scaled down to it."""
