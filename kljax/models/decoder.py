"""One decoder that spells both the GPT-2 and the Llama family: each is a choice of parts (configs/model/).

Parameters carry logical axes (`axes` in their metadata: vocab, embed, heads, kv_heads, mlp, …), which
`training/mesh.py` maps to the axes of a device mesh. Parameters are float32; activations have the config's dtype; logits
are float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.config import ModelConfig

Cache = list[tuple[Float[Array, "B S K_heads K"], Float[Array, "B S K_heads K"]]]
"""Keys and values of each layer."""

INIT_STD = 0.02  # as GPT-2; matrices that write into the residual stream are scaled by 1/√(2·layers)


def positions_of(mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """0, 1, 2, … over the real tokens of each row: padding on the left does not shift them."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def causal_mask(mask: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """True where query i may look at key j: j is real and not after i."""
    length = mask.shape[-1]
    return jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, :]


def empty_cache(config: ModelConfig, batch: int, length: int) -> Cache:
    """A cache of zeros for `batch` rows of `length` slots."""
    shape = (batch, length, config.kv_heads, config.head_dim)
    return [(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.layers)]


class Decoder(nnx.Module):
    """Tokens to hidden states to logits."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.vocab_size = vocab_size
        self.embed = _embedding(vocab_size, config, "vocab", rngs)
        self.learned_positions = _embedding(config.context, config, "context", rngs) if config.positions == "learned" else None
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])
        self.final_norm = _norm(config, rngs)
        self.head = (
            None
            if config.tied_head
            else _linear(config.d_model, vocab_size, ("embed", "vocab"), config, rngs, std=INIT_STD, bias=False)
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        cache: Cache | None = None,
        slot: int | Int[Array, ""] = 0,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states after the final norm, and the keys and values that were used.

        Without a cache the T tokens look at one another (S = T). With one they are written at `slot` and look at all S
        slots that the mask allows. Dropout is applied only where a key is given.
        """
        x = self.embed(tokens)
        if self.learned_positions is not None:
            x = x + self.learned_positions(positions)
        keys = (
            [None] * (len(self.layers) + 1)
            if dropout_key is None
            else list(jax.random.split(dropout_key, len(self.layers) + 1))
        )
        x = _dropout(x, self.config.dropout, keys[-1])
        used: Cache = []
        for i, layer in enumerate(self.layers):
            run = jax.checkpoint(_apply_layer, static_argnums=()) if self.config.remat else _apply_layer
            graphdef, params = nnx.split(layer)
            x, layer_cache = run(
                nnx.to_pure_dict(params),
                x,
                positions,
                mask,
                None if cache is None else cache[i],
                slot,
                keys[i],
                graphdef=graphdef,
            )
            used.append(layer_cache)
        return self.final_norm(x), used

    def logits(self, hidden: Float[Array, "*dims D"]) -> Float[Array, "*dims V"]:
        """Next-token logits, float32."""
        out = self.embed.attend(hidden) if self.head is None else self.head(hidden)
        return out.astype(jnp.float32)


class Layer(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = (GeluMlp if config.mlp == "gelu" else SwigluMlp)(config, rngs=rngs)

    def __call__(self, x: Array, positions: Array, mask: Array, cache: Any, slot: Any, key: Any) -> tuple[Array, Any]:
        """One layer; see `Decoder.__call__`."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        attended, cache = self.attention(self.attention_norm(x), positions, mask, cache, slot)
        x = x + _dropout(attended, self.config.dropout, keys[0])
        return x + _dropout(self.mlp(self.mlp_norm(x)), self.config.dropout, keys[1]), cache


class Attention(nnx.Module):
    """Multi-head attention; with fewer key/value heads than heads, grouped-query."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        q_dim, kv_dim = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q = _linear(config.d_model, q_dim, ("embed", "heads"), config, rngs)
        self.k = _linear(config.d_model, kv_dim, ("embed", "kv_heads"), config, rngs)
        self.v = _linear(config.d_model, kv_dim, ("embed", "kv_heads"), config, rngs)
        self.out = _linear(q_dim, config.d_model, ("heads", "embed"), config, rngs, std=_residual_std(config))

    def __call__(self, x: Array, positions: Array, mask: Array, cache: Any, slot: Any) -> tuple[Array, Any]:
        """Attention over the tokens themselves, or over the cache into which they are written."""
        config = self.config
        q = self.q(x).reshape(*x.shape[:2], config.heads, config.head_dim)
        k = self.k(x).reshape(*x.shape[:2], config.kv_heads, config.head_dim)
        v = self.v(x).reshape(*x.shape[:2], config.kv_heads, config.head_dim)
        if config.positions == "rotary":
            q, k = rotate(q, positions, config.rope_theta), rotate(k, positions, config.rope_theta)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache[0], k, slot, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache[1], v, slot, axis=1)
        attended = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return self.out(attended.reshape(*x.shape[:2], -1)), (k, v)


class GeluMlp(nnx.Module):
    """GPT-2: down(gelu(up(x))), the tanh form of GELU."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.up = _linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs)
        self.down = _linear(config.d_mlp, config.d_model, ("mlp", "embed"), config, rngs, std=_residual_std(config))

    def __call__(self, x: Array) -> Array:
        """The MLP, token by token."""
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


class SwigluMlp(nnx.Module):
    """Llama: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.gate = _linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs)
        self.up = _linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs)
        self.down = _linear(config.d_mlp, config.d_model, ("mlp", "embed"), config, rngs, std=_residual_std(config))

    def __call__(self, x: Array) -> Array:
        """The MLP, token by token."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


def rotate(x: Float[Array, "B T heads K"], positions: Int[Array, "B T"], theta: float) -> Float[Array, "B T heads K"]:
    """Rotary positions in the two-halves layout of Hugging Face: pairs are (x_i, x_{i+K/2}). Computed in float32."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None] * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _apply_layer(params, x, positions, mask, cache, slot, key, *, graphdef):
    # Parameters are an argument, so that jax.checkpoint sees every input of the layer.
    return nnx.merge(graphdef, params)(x, positions, mask, cache, slot, key)


def _dropout(x: Array, rate: float, key: Any) -> Array:
    return x if key is None or rate == 0 else nnx.Dropout(rate)(x, deterministic=False, rngs=nnx.Rngs(dropout=key))


def _residual_std(config: ModelConfig) -> float:
    return INIT_STD / (2 * config.layers) ** 0.5


def _linear(inputs, outputs, axes, config, rngs, std=INIT_STD, bias=None) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=config.bias if bias is None else bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata={"axes": axes},
        bias_metadata={"axes": axes[1:]},
        rngs=rngs,
    )


def _embedding(rows, config, axis, rngs) -> nnx.Embed:
    return nnx.Embed(
        rows,
        config.d_model,
        dtype=jnp.dtype(config.dtype),
        embedding_init=nnx.initializers.normal(INIT_STD),
        embedding_metadata={"axes": (axis, "embed")},
        rngs=rngs,
    )


def _norm(config, rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    shared = {
        "epsilon": config.norm_eps,
        "dtype": jnp.dtype(config.dtype),
        "scale_metadata": {"axes": ("norm",)},
        "rngs": rngs,
    }
    if config.norm == "rms":
        return nnx.RMSNorm(config.d_model, **shared)
    return nnx.LayerNorm(config.d_model, bias_metadata={"axes": ("norm",)}, **shared)
