"""Division of the decoder into what is trained, what is frozen, and what it is held to.

Three choices that do not depend on one another: all parameters or LoRA adapters; a reference that is the base model, a copy of
it in another precision or another checkpoint; and whether that reference stays or follows the policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from kljax.config import LoraAdapter, NeverRefresh, NoAdapter, ReferenceConfig, RefreshAverage, RefreshEvery
from kljax.devices.mesh import param_shardings
from kljax.devices.state import Architecture
from kljax.models.decoder import Decoder
from kljax.models.layers import stack
from kljax.models.lora import add_adapters, merge
from kljax.types import Params, struct


@struct
class Frozen:
    """Parameters that no step changes: arguments of the compiled step, never constants in it.

    `base` is there under LoRA only. Where there is no `reference` it is the base, or it moves and is part of the train state.
    It may lie in the host's memory: `Adaptation.reference` fetches it.
    """

    base: Params
    reference: Params
    reward: Params


@dataclass(frozen=True)
class Adaptation:
    """The decoder in training: which parameters are trained, and how they and the frozen ones make the model."""

    architecture: Architecture
    adapter: LoraAdapter | None
    graphdef: nnx.GraphDef
    shapes: Params
    shardings: Params

    def policy(self, trained: Params, frozen: Frozen) -> Decoder:
        """The model of these trained parameters."""
        return nnx.merge(self.graphdef, trained, *([] if frozen.base is None else [frozen.base]))

    def reference(self, moving: Params, frozen: Frozen) -> Decoder:
        """The model that the policy is held to; `moving` is None for one that stays."""
        if moving is not None:
            return self.policy(moving, frozen)
        return nnx.merge(self.architecture.graphdef, frozen_reference(frozen))

    def init(self, base: Params, seed: int) -> Params:
        """Trained parameters that leave the policy as the base model is: a copy of it, or fresh adapters."""
        if self.adapter is None:
            return base
        return self._adapters(seed)

    def merged(self, trained: Params, base: Params) -> Params:
        """The policy's parameters as a plain decoder has them, stacked; matrices with an adapter are float32."""
        if self.adapter is None:
            return stack(trained)
        both = nnx.merge(self.graphdef, stack(trained), stack(base))
        shardings = self.architecture.shardings  # those of every other model: one program looks at them all
        merged = jax.jit(partial(merge, adapter=self.adapter), out_shardings=shardings)
        return merged(nnx.to_pure_dict(nnx.state(both)))  # pyright: ignore

    def _adapters(self, seed: int) -> Params:
        def make(key):
            adapted = add_adapters(_without_values(self.architecture), self.adapter, rngs=nnx.Rngs(key))  # pyright: ignore
            return nnx.to_pure_dict(nnx.state(adapted, nnx.LoRAParam))  # pyright: ignore

        return jax.jit(make, out_shardings=self.shardings)(jax.random.key(seed))


def adaptation(arch: Architecture, config: NoAdapter | LoraAdapter) -> Adaptation:
    """The config's choice for this architecture; nothing is computed."""
    if isinstance(config, NoAdapter):
        return Adaptation(arch, None, arch.graphdef, arch.shapes, arch.shardings)

    def adapt(model: Decoder) -> Decoder:
        return add_adapters(model, config, rngs=nnx.Rngs(0))

    graphdef, adapters, _ = nnx.split(nnx.eval_shape(adapt, _without_values(arch)), nnx.LoRAParam, ...)
    shardings = param_shardings(adapters, arch.mesh)
    return Adaptation(arch, config, graphdef, nnx.to_pure_dict(adapters), shardings)  # pyright: ignore


def _without_values(arch: Architecture) -> Decoder:
    """The decoder with shapes for parameters: what is frozen is not made to see where adapters belong."""
    return nnx.merge(arch.graphdef, arch.shapes)


def freeze(adapted: Adaptation, config: ReferenceConfig, base: Params, reference: Params, reward: Params) -> Frozen:
    """Frozen arrays that the step gets beside its state: nothing twice, and no reference where that moves."""
    lora, moves = adapted.adapter is not None, not isinstance(config.refresh, NeverRefresh)
    own = None if moves or (lora and reference is base) else reference
    if config.memory == "host":
        own = jax.tree.map(lambda p: jax.device_put(p, p.sharding.with_memory_kind("pinned_host")), own)
    return Frozen(base=base if lora else None, reference=own, reward=reward)


def frozen_reference(frozen: Frozen) -> Params:
    """A reference that stays, on the device, wherever it lies while it is not used."""
    return jax.tree.map(_on_device, frozen.base if frozen.reference is None else frozen.reference)


def _on_device(p: Array) -> Array:
    return jax.device_put(p, jax.memory.Space.Device) if jax.typeof(p).memory_space == jax.memory.Space.Host else p


Refresh = Callable[[Params, Params, Int[Array, ""]], Params]
"""(reference, policy's trained parameters, steps done) → the reference of the step that begins.

Not of the one that ends: what a checkpoint holds is then the reference to which the last step held the policy.
"""


def make_refresh(config: ReferenceConfig) -> Refresh:
    """How the reference follows the policy. One that stays is not in the train state: None in, None out."""
    chosen = config.refresh
    if isinstance(chosen, RefreshEvery):
        return partial(_every, chosen.steps)
    if isinstance(chosen, RefreshAverage):
        return partial(_average, chosen.decay)
    return lambda reference, trained, done: reference


def _every(steps: int, reference: Params, trained: Params, done: Int[Array, ""]) -> Params:
    now = (done % steps == 0) & (done > 0)
    return jax.tree.map(lambda old, new: jnp.where(now, new.astype(old.dtype), old), reference, trained)


def _average(decay: float, reference: Params, trained: Params, done: Int[Array, ""]) -> Params:
    return jax.tree.map(lambda old, new: jnp.where(done > 0, decay * old + (1 - decay) * new, old), reference, trained)


def cast(params: Params, dtype: str) -> Params:
    """The parameters in another precision, each where it lies."""
    return jax.tree.map(lambda p: p.astype(dtype), params)


def moving_shapes(adapted: Adaptation, config: ReferenceConfig) -> Params:
    """Shapes of a reference that moves, as the train state holds it; None for one that stays."""
    if isinstance(config.refresh, NeverRefresh):
        return None
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.dtype(config.dtype)), adapted.shapes)
