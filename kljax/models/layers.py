"""A model's layers, which are alike, as one: their parameters stacked, and one body that is computed for each in turn.

A leaf of the layers is one array [L, …], for which a program holds a loop over the layers: it is no larger for thirty of them
than for three, and compiles as fast. Or it is a list of L arrays, *unrolled*, for which the program holds each layer by itself:
on a CPU it then runs a little faster, as a loop copies each layer's part of an array before it is multiplied. `fold` computes
whichever it is given. Files and all that lies outside of a training step have the stacked form.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import DictKey, SequenceKey, tree_map_with_path
from jaxtyping import Array

from kljax.types import Params

LAYERS = "layers"
"""The part of a model that holds them, and the logical axis that their parameters have first."""

Layered = Any
"""A tree of what each layer has of its own: arrays [L, …], or lists of L arrays."""


def make_layers(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> Any:
    """`count` layers as one module: the numbers that making one after another would draw, traced once."""
    shape = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    keys = len(jax.tree.leaves(nnx.state(shape)))  # each parameter draws one
    stream = rngs.default
    key, first = stream.key[...], stream.count[...]

    def one(layer: Array) -> Params:
        own = nnx.Rngs(key)
        own.default.count[...] = first + layer * keys
        return nnx.to_pure_dict(nnx.state(make(own)))  # pyright: ignore

    stream.count[...] = first + jnp.uint32(count * keys)
    stacked = nnx.merge(nnx.graphdef(shape), jax.vmap(one)(jnp.arange(count, dtype=jnp.uint32)))
    for variable in jax.tree.leaves(nnx.state(stacked), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        variable.set_metadata(axes=(LAYERS, *variable.get_metadata().get("axes", ())))
    return stacked


def fold(layers: nnx.Module, x: Array, shared: tuple[Any, ...], own: Layered, *, again: bool = False) -> tuple[Array, Layered]:
    """x through each layer in turn: layer(x, *shared, its part of `own`) → (x, found). The last x, and what each found.

    With `again` what is inside a layer is computed again in the backward pass, not kept.
    """
    graphdef, params = nnx.split(layers)
    call = partial(_called, graphdef, type(layers).__call__, again)
    params = nnx.to_pure_dict(params)  # pyright: ignore
    if not is_unrolled(params):

        def body(x: Array, each: tuple[Params, Any]) -> tuple[Array, Any]:
            return call(each[0], x, *shared, each[1])

        # A loop's backward pass keeps whatever it is told to: products, and what `keep` marks. The rest is cheap to compute.
        return jax.lax.scan(body if again else jax.checkpoint(body, prevent_cse=False, policy=KEPT), x, (params, own))
    found = []
    for i in range(_depth(params)):
        x, of_layer = call(layer_of(params, i), x, *shared, layer_of(own, i))
        found.append(of_layer)
    return x, jax.tree.map(lambda *each: list(each), *found)


KEEP = "keep"
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(KEEP)
)


def keep(tree: Any) -> Any:
    """The same, to be kept for the backward pass of a loop over the layers."""
    return jax.tree.map(lambda x: checkpoint_name(x, KEEP), tree)


def apply(module: nnx.Module, again: bool, x: Array, *inputs: Any, method: Callable[..., Any] | None = None) -> Any:
    """module(x, *inputs), or a method of it; with `again` what is inside is computed again in the backward pass, not kept."""
    graphdef, params = nnx.split(module)
    return _called(graphdef, method or type(module).__call__, again, nnx.to_pure_dict(params), x, *inputs)  # pyright: ignore


@partial(jax.jit, static_argnums=(0, 1, 2))
def _called(graphdef: nnx.GraphDef, method: Callable[..., Any], again: bool, params: Params, x: Array, *inputs: Any) -> Any:
    """Modules of one structure are traced, differentiated and lowered once, however many there are."""

    def call(params: Params, x: Array, *inputs: Any) -> Any:
        return method(nnx.merge(graphdef, params), x, *inputs)

    return (_recomputed(call) if again else call)(params, x, *inputs)


def _recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Do what `jax.checkpoint` is for, for a function of (params, x, …).

    On CPUs XLA drops the barriers by which `jax.checkpoint` keeps the two computations apart, and then finds that they are the
    same: everything is kept after all. So here the second one depends on the cotangent, by a zero that no pass can fold.
    """
    run = jax.custom_vjp(function)

    def forward(*inputs: Any) -> tuple[Any, Any]:
        return function(*inputs), inputs

    def backward(inputs: Any, cotangents: Any) -> Any:
        params, x, *rest = inputs
        zero = 0 * jax.tree.leaves(cotangents)[0].ravel()[0]
        return jax.vjp(function, params, x + zero.astype(x.dtype), *rest)[1](cotangents)

    run.defvjp(forward, backward)
    return run


def is_unrolled(tree: Any) -> bool:
    """Whether layers lie one by one in it."""
    return any(map(_is_list, jax.tree.leaves(tree, is_leaf=_is_list)))


def layer_of(tree: Layered, layer: int) -> Any:
    """The part of one layer: an entry of each list, or of each array's first axis."""
    return jax.tree.map(lambda each: each[layer], tree, is_leaf=_is_list)


def unroll(tree: Any, count: int) -> Any:
    """The tree, its `count` layers one by one: of arrays, of their shapes or of their shardings; one that is so as it is."""

    def parts(path: Any, leaf: Any) -> Any:
        if not in_layers(path) or isinstance(path[-1], SequenceKey):
            return leaf
        if isinstance(leaf, NamedSharding):
            return [NamedSharding(leaf.mesh, PartitionSpec(*leaf.spec[1:]), memory_kind=leaf.memory_kind)] * count
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * count
        return [leaf[i] for i in range(count)]

    return tree_map_with_path(parts, tree)


Form = Callable[[Any], Any]
"""From the stacked form of parameters, shapes or shardings to that of a program."""


def form_of(unrolled: bool, count: int) -> Form:
    """The form of a program that holds each of `count` layers by itself, or of one that has a loop."""
    return partial(unroll, count=count) if unrolled else lambda tree: tree


def stack(tree: Any) -> Any:
    """The inverse of `unroll`; what is stacked stays as it is."""

    def whole(leaf: Any) -> Any:
        if not _is_list(leaf):
            return leaf
        first = leaf[0]
        if isinstance(first, NamedSharding):
            return NamedSharding(first.mesh, PartitionSpec(None, *first.spec), memory_kind=first.memory_kind)
        if isinstance(first, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(leaf), *first.shape), first.dtype)
        return jnp.stack(leaf)

    return jax.tree.map(whole, tree, is_leaf=_is_list)


def like(example: Any, tree: Any) -> Any:
    """A stacked tree in the form of the example."""
    return jax.tree.map(lambda of, leaf: list(leaf) if _is_list(of) else leaf, example, tree, is_leaf=_is_list)


def in_layers(path: tuple[Any, ...]) -> bool:
    """Whether a leaf with this path is one of the layers'."""
    return any(isinstance(key, DictKey) and key.key == LAYERS for key in path)


def rank(path: tuple[Any, ...], leaf: Any) -> int:
    """How many axes a parameter has in its own layer: 2 of a matrix, 1 of a bias or a norm."""
    stacked = in_layers(path) and not isinstance(path[-1], SequenceKey)
    return leaf.ndim - stacked


def names_of_layers(path: Sequence[str | int], leaf: Any) -> list[tuple[str | int, ...]]:
    """The path of a stacked parameter in each layer, the layer's number after "layers"; of another parameter its own alone."""
    if LAYERS not in path:
        return [tuple(path)]
    at = path.index(LAYERS) + 1
    return [(*path[:at], i, *path[at:]) for i in range(leaf.shape[0])]


def _depth(tree: Layered) -> int:
    return len(next(filter(_is_list, jax.tree.leaves(tree, is_leaf=_is_list))))


def _is_list(leaf: Any) -> bool:
    return isinstance(leaf, list)
