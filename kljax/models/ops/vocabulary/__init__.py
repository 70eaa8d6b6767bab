"""From hidden states to numbers a token, over the vocabulary: log-probs, exact KLs, entropy, with their gradients.

Logits exist for a few steps at a time, in both directions, and where the vocabulary is large for a block of it: `chunks`. What
is computed of the logits that are there, in closed form for the backward pass, too, is in `figures`. All that reads logits in
training comes through here: RL's scores, maximum likelihood (forward KL to the data), masked tokens. `chunk` is a number of
time steps, `block` one of entries of the vocabulary (None: all); neither changes a number beyond rounding.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from kljax.models.ops.vocabulary.chunks import Head, map_logits, of_whole_logits
from kljax.models.ops.vocabulary.figures import LOG_PROB, Comparison, compare, comparison, log_prob

__all__ = ["Comparison", "Head", "compare", "comparisons", "log_prob", "log_probs", "map_whole_logits"]


def log_probs(head: Head, tokens: Int[Array, "B T"], *, chunk: int, block: int | None) -> Float[Array, "B T"]:
    """log p(token), nats, of every token: `log_prob` of the head's logits."""
    return map_logits(LOG_PROB, chunk, block, (head,), tokens)


def comparisons(
    heads: tuple[Head, Head], tokens: Int[Array, "B T"], *, temperature: float, chunk: int, block: int | None
) -> Comparison:
    """All that `Comparison` names of policy and reference, in this order, [B, T]: `compare` of logits / temperature."""
    return map_logits(comparison(temperature), chunk, block, heads, tokens)


def map_whole_logits(function: Callable[[list[Array], Any], Any], heads: tuple[Head, ...], given: Any, *, chunk: int) -> Any:
    """function(logits of each head [B c V], given [B c]) → a tree of [B c], for all T: what must see the vocabulary at once."""
    return map_logits(of_whole_logits(function), chunk, None, heads, given)
