"""Low-rank adapters on chosen matrices of a decoder (Hu et al. 2021): x·W + (alpha/rank)·x·A·B, with W frozen.

B begins at 0, so that the adapted model begins as the frozen one, exactly. Parameters of adapters are `nnx.LoRAParam`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kljax.config import LoraAdapter
from kljax.models.decoder import Decoder
from kljax.types import Params


class AdaptedLinear(nnx.LoRALinear):
    """A linear layer with an adapter; its parameters are those of the layer, and `lora`."""

    def __init__(self, layer: nnx.Linear, adapter: LoraAdapter, *, rngs: nnx.Rngs):
        inputs, outputs = layer.kernel.get_metadata()["axes"]
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
        self.kernel, self.bias, self.dot_general = layer.kernel, layer.bias, layer.dot_general
        self.scale = adapter.alpha / adapter.rank

    def __call__(self, x: Float[Array, "*dims inputs"], out_sharding: Any = None) -> Float[Array, "*dims outputs"]:
        """The frozen layer's output plus the adapter's."""
        return nnx.Linear.__call__(self, x, out_sharding=out_sharding) + self.scale * self.lora(x)


def add_adapters(model: Decoder, adapter: LoraAdapter, *, rngs: nnx.Rngs) -> Decoder:
    """The model itself, its chosen matrices now adapted. A name that its layers do not have (`gate`) is passed over."""
    for layer in model.layers:
        for part in (layer.attention, layer.mlp):
            for name in adapter.targets:
                if (matrix := getattr(part, name, None)) is not None:
                    setattr(part, name, AdaptedLinear(matrix, adapter, rngs=rngs))
    return model


def merge(params: Params, adapter: LoraAdapter) -> Params:
    """Parameters of the plain decoder, W + (alpha/rank)·A·B, from those of the adapted one. Sums in float32."""
    if not isinstance(params, dict):
        return params
    merged = {name: merge(value, adapter) for name, value in params.items() if name != "lora"}
    if "lora" in params:
        kernel, lora = params["kernel"], params["lora"]
        low_rank = jnp.matmul(lora["lora_a"], lora["lora_b"], precision=jax.lax.Precision.HIGHEST)
        merged["kernel"] = (kernel.astype(jnp.float32) + adapter.alpha / adapter.rank * low_rank).astype(kernel.dtype)
    return merged
