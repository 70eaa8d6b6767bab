"""How completions are sampled, and what they are worth."""

from typing import Any, Literal

from kljax.config.base import Dtype, NonNegative, Number, Positive, Two, strict


@strict
class RolloutConfig:
    """How completions are sampled: from the whole distribution, which is the one that is scored."""

    prompts: Two
    """Distinct prompts a step, each with its samples; standard errors are over them."""
    samples: Positive
    """Completions a prompt."""
    max_new_tokens: Positive
    """The longest completion, in tokens."""
    temperature: NonNegative
    """Divides policy and reference logits alike, when sampling and when scoring; 0 is greedy, which cannot be trained."""
    cache_dtype: Dtype | None
    """Of keys and values while sampling; null: that of the activations."""
    updates: Positive
    """Optimiser updates a rollout; those after the first are off-policy, with importance weights."""
    microbatches: Positive
    """Parts of the batch whose gradients are added up, one after another: less memory, same gradient."""
    keep_activations: bool | None
    """Whether those of sampling serve the gradient, which needs no forward pass then; null: where they fit."""


@strict
class RewardTerm:
    """One term of the reward; the reward is the weighted sum of all."""

    kind: Literal["jax", "python"]
    """A factory of a JAX function, or a Python function of texts."""
    function: str
    """A built-in name, or a dotted path to your own."""
    weight: Number
    """The factor of the term in the sum; 0: it is only reported."""
    arguments: dict[str, Any]
    """Keyword arguments for the factory (jax) or for each call (python)."""
