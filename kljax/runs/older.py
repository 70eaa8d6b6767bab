"""Trees as older versions wrote them, each layer by itself: layers.0, layers.1, … Here the layers are one array [L, …]."""

import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from kljax.models.layers import LAYERS, layer_of, unroll

_NUMBERED = re.compile(rf"\b{LAYERS}\.\d+\.")


def is_older(names: Iterable[str]) -> bool:
    """Whether arrays of these names, as in layers.0.norm, were written so."""
    return any(_NUMBERED.search(name) for name in names)


def one_by_one(tree: Any, layers: int) -> Any:
    """A stacked tree of arrays, shapes or shardings in that form."""
    if not isinstance(tree, dict):
        return tree
    parts = {name: one_by_one(each, layers) for name, each in tree.items()}
    if LAYERS in tree:
        unrolled = unroll({LAYERS: tree[LAYERS]}, layers)[LAYERS]
        parts[LAYERS] = {str(i): layer_of(unrolled, i) for i in range(layers)}
    return parts


def as_hashed(tree: Any) -> Any:
    """A stacked tree of arrays with the names of which older versions took the hash: a list of layers."""
    if not isinstance(tree, dict):
        return tree
    parts = {name: as_hashed(each) for name, each in tree.items()}
    if LAYERS in tree:
        parts[LAYERS] = [layer_of(tree[LAYERS], i) for i in range(depth(tree))]
    return parts


def stacked(tree: Any) -> Any:
    """The inverse, of arrays."""
    if not isinstance(tree, dict):
        return tree
    parts = {name: stacked(each) for name, each in tree.items()}
    if LAYERS in tree:
        each = [tree[LAYERS][str(i)] for i in range(len(tree[LAYERS]))]
        parts[LAYERS] = jax.tree.map(lambda *layers: jnp.stack(layers), *each)
    return parts


def depth(tree: Any) -> int:
    """How many layers a stacked tree of arrays or shapes has."""
    if not isinstance(tree, dict):
        return 0
    if LAYERS in tree:
        return jax.tree.leaves(tree[LAYERS])[0].shape[0]
    return max((depth(each) for each in tree.values()), default=0)
