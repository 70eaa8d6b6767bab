"""Low-rank adapters on chosen matrices of a decoder (Hu et al. 2021): x·W + (alpha/rank)·x·A·B, with W frozen.

B begins at 0, so that the adapted model begins as the frozen one, exactly. Parameters of adapters are `nnx.LoRAParam`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kljax.config import DecoderConfig, LoraAdapter
from kljax.errors import UserError
from kljax.models.decoder import Decoder
from kljax.models.layers import make_layers
from kljax.types import Params


class AdaptedLinear(nnx.LoRALinear):
    """A linear layer with an adapter; its parameters are those of the layer, which `over` gives it, and `lora`."""

    def __init__(self, layer: nnx.Linear, adapter: LoraAdapter, *, rngs: nnx.Rngs):
        *_, inputs, outputs = layer.kernel.get_metadata()["axes"]
        super().__init__(
            layer.in_features,
            layer.out_features,
            lora_rank=adapter.rank,
            lora_dtype=layer.dtype,
            # Uniform in ±1/√inputs, as in PEFT
            a_initializer=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            a_metadata={"axes": (inputs, "rank")},
            b_metadata={"axes": ("rank", outputs)},
            use_bias=layer.bias is not None,
            dtype=layer.dtype,
            rngs=rngs,
        )
        self.dot_general = layer.dot_general
        self.scale = adapter.alpha / adapter.rank

    def over(self, layer: nnx.Linear) -> "AdaptedLinear":
        """Itself, with the parameters of this layer."""
        self.kernel, self.bias = layer.kernel, layer.bias
        return self

    def __call__(self, x: Float[Array, "*dims inputs"], out_sharding: Any = None) -> Float[Array, "*dims outputs"]:
        """The frozen layer's output plus the adapter's."""
        return nnx.Linear.__call__(self, x, out_sharding=out_sharding) + self.scale * self.lora(x)


def matrices(config: DecoderConfig) -> tuple[str, ...]:
    """Names of the matrices that each layer of such a decoder has, and that can be adapted."""
    return ("q", "k", "v", "out", *(("gate",) if config.mlp == "swiglu" else ()), "up", "down")


def check_targets(config: DecoderConfig, adapter: LoraAdapter) -> list[str]:
    """Targets that this decoder has not. UserError where it has none of them, or where one is named twice."""
    there, targets = matrices(config), adapter.targets or []
    if repeated := [name for name in targets if targets.count(name) > 1]:
        raise UserError(f"adapter.targets: '{repeated[0]}' is named twice in {_spell(targets)}; expected each matrix once.")
    absent = [name for name in targets if name not in there]
    if targets and len(absent) == len(targets):
        raise UserError(
            f"adapter.targets: got {_spell(targets)}, but the layers of this model have {', '.join(there)}; expected some of "
            "these, or null for all."
        )
    return absent


def targets_note(config: DecoderConfig, adapter: LoraAdapter) -> str | None:
    """A sentence for the launch on targets that are only in part those of the model; None where there is nothing to say."""
    if not (absent := check_targets(config, adapter)):
        return None
    adapted = [name for name in matrices(config) if name in (adapter.targets or ())]
    return (
        f"adapter.targets: the layers of this model have no {' and no '.join(absent)}; adapted are {', '.join(adapted)}. "
        "adapter.targets=null adapts every matrix that a model has."
    )


def add_adapters(model: Decoder, adapter: LoraAdapter, *, rngs: nnx.Rngs) -> Decoder:
    """The model itself, its chosen matrices now adapted. UserError where it has none of them."""
    check_targets(model.config, adapter)
    chosen = list(_chosen(model.layers, adapter.targets or matrices(model.config)))
    linears = [getattr(part, name) for part, name in chosen]

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.List([AdaptedLinear(linear, adapter, rngs=rngs) for linear in linears])

    adapted = make_layers(make, model.config.layers, rngs)
    for (part, name), linear, with_adapter in zip(chosen, linears, adapted, strict=True):
        setattr(part, name, with_adapter.over(linear))
    return model


def _chosen(layer: Any, names: Sequence[str]) -> Iterator[tuple[nnx.Module, str]]:
    for part in (layer.attention, layer.mlp):
        yield from ((part, name) for name in names if hasattr(part, name))


def _spell(targets: list[Any]) -> str:
    return f"[{', '.join(targets)}]"


def merge(params: Params, adapter: LoraAdapter) -> Params:
    """Parameters of the plain decoder, W + (alpha/rank)·A·B, from those of the adapted one.

    A merged matrix is float32 whatever W is: in bfloat16 most of what the adapters add would be lost.
    """
    if not isinstance(params, dict):
        return params
    merged = {name: merge(value, adapter) for name, value in params.items() if name != "lora"}
    if "lora" in params:
        kernel, lora = params["kernel"], params["lora"]
        low_rank = jnp.matmul(lora["lora_a"], lora["lora_b"], precision=jax.lax.Precision.HIGHEST)
        merged["kernel"] = kernel.astype(jnp.float32) + adapter.alpha / adapter.rank * low_rank
    return merged
