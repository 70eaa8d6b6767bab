"""How completions are sampled, and what they are worth."""

from typing import Any, Literal

from kljax.config.base import Dtype, NonNegative, Number, Positive, Two, strict


@strict
class RolloutConfig:
    """How completions are sampled: from the whole distribution, which is the one that is scored."""

    prompts: Two  # a step, each with its samples (2 at least: standard errors are over distinct prompts)
    samples: Positive  # completions a prompt
    max_new_tokens: Positive
    temperature: NonNegative  # scales policy and reference logits alike, when sampling and when scoring; 0 is greedy
    cache_dtype: Dtype | None  # of keys and values while sampling; null: that of the activations
    updates: Positive  # optimiser steps a rollout; those after the first are off-policy, with importance weights
    microbatches: Positive  # parts of the batch whose gradients are added up, one after another: less memory, same gradient
    keep_activations: bool | None  # of sampling, for the gradient, which needs no forward pass then; null: where they fit


@strict
class RewardTerm:
    """One term of the reward; the reward is the weighted sum of all."""

    kind: Literal["jax", "python"]  # a factory of a JAX function, or a Python function of texts
    function: str  # a built-in name, or a dotted path to your own
    weight: Number
    arguments: dict[str, Any]  # keyword arguments for the factory (jax) or for each call (python)
