"""A forward pass that was made already: what sampling computed, in place of a second computation of the same.

The policy makes every product over the tokens of prompts and completions while it samples. Where its layers' activations are
kept, the gradient needs none of these products again: each is replaced by its known value, and the gradient goes on to what
would have computed it (`recall`). The memory is what a backward pass without remat takes anyway, but from sampling on.
"""

from typing import Any, NamedTuple, TypeVar

import jax
from jaxtyping import Array, Float

from kljax.models.layers import keep

Tree = TypeVar("Tree")


class Activations(NamedTuple):
    """Results of a decoder layer for T tokens: enough to do without its products. Of all: arrays [L, …] or lists of L.

    Queries and keys have their positions; `middle` is the residual stream after attention, `inner` what the MLP's activation
    function gets. Keys and values are found of the T tokens, and known of all S slots that they look at.
    """

    keys: Float[Array, "B kv_heads S K"]
    values: Float[Array, "B kv_heads S K"]
    queries: Float[Array, "B heads T K"]
    attended: Float[Array, "B heads T K"]
    log_total: Float[Array, "B heads T 1"]
    middle: Float[Array, "B T D"]
    inner: tuple[Float[Array, "B T F"], ...]
    out: Float[Array, "B T D"]


NOTHING = Activations(*[None] * len(Activations._fields))  # pyright: ignore
"""Of a layer of which nothing is known: None in every field."""


class Known(NamedTuple):
    """The activations of every layer with which a policy sampled: of N prompts, each once, and of their B completions.

    A completion's keys and values are those of its prompt, too.
    """

    prompts: Activations
    completions: Activations


def without_slots(found: Activations) -> Activations:
    """Without keys and values, which lie in the cache."""
    return found._replace(keys=None, values=None)  # pyright: ignore


def recall(computed: Tree, known: Tree | None) -> Tree:
    """`known` in value, `computed` in gradient; `computed` where nothing is known.

    Nobody asks for the value of `computed` then: the compiler leaves out what is needed for it alone, a product first of all,
    whose gradient needs its factors and not its result.
    """
    return keep(computed) if known is None else _recall(computed, known)


@jax.custom_vjp
def _recall(computed: Any, known: Any) -> Any:
    return known


_recall.defvjp(lambda computed, known: (known, None), lambda _, cotangent: (cotangent, None))
