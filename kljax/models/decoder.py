"""One decoder that spells the GPT-2, Llama, Qwen and OLMo families: each is a choice of parts (configs/model/).

Parameters carry logical axes (`axes` in their metadata: vocab, embed, heads, kv_heads, mlp, …), which
`devices/mesh.py` maps to the axes of a device mesh. Parameters and activations have the config's dtypes; logits are float32.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.config import DecoderConfig, EncoderConfig
from kljax.models.layers import apply, fold, make_layers
from kljax.models.ops.attention import Attended, attention, join_heads, split_heads
from kljax.models.ops.linear import dot_general
from kljax.models.ops.recall import NOTHING, Activations, recall
from kljax.models.ops.rotary import Rotation, rotate, rotation, turned
from kljax.models.ops.swiglu import swiglu
from kljax.models.ops.vocabulary import Head

Cache = tuple[Any, Any]
"""Keys and values of the layers, each [L, B, kv_heads, S, K] or a list of L without the first axis.

Heads before slots: the layout in which a decode step reads them as they lie.
"""

INIT_STD = 0.02  # as GPT-2; matrices that write into the residual stream are scaled by 1/√(2·layers)


def positions_of(mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """0, 1, 2, … over the real tokens of each row: padding on the left does not shift them."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def causal_mask(mask: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """True where query i may look at key j: j is real and not after i."""
    length = mask.shape[-1]
    return jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, :]


def write(cache: Cache, new: Cache, slot: Any) -> Cache:
    """The cache with new keys and values from `slot` on, of one layer or of all."""

    def put(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=old.ndim - 2)

    return jax.tree.map(put, cache, new)


class Decoder(nnx.Module):
    """Tokens to hidden states to logits.

    `activations` says how rows lie on the devices between layers. Without it a compiler that sees parameters divided over
    their width divides the activations likewise, and each device works on every row.
    """

    def __init__(self, config: DecoderConfig, vocab_size: int, *, rngs: nnx.Rngs, activations: NamedSharding | None = None):
        self.config = config
        self.activations = activations
        self.vocab_size = vocab_size
        self.embed = embedding(vocab_size, config, "vocab", rngs)
        self.learned_positions = embedding(config.context, config, "context", rngs) if config.positions == "learned" else None
        self.layers = make_layers(lambda rngs: Layer(config, rngs=rngs, activations=activations), config.layers, rngs)
        self.final_norm = _norm(config, rngs)
        self.head = (
            None if config.tied_head else linear(config.d_model, vocab_size, ("embed", "vocab"), config, rngs, bias=False)
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        cache: Cache | None = None,
        slot: int | Int[Array, ""] = 0,
        dropout_key: Key[Array, ""] | None = None,
        known: Activations | None = None,
    ) -> tuple[Float[Array, "B T D"], Activations]:
        """Hidden states after the final norm, and what each layer used and computed of these tokens.

        Without a cache the T tokens look at one another (S = T). With one they are put at `slot`, more than one at the last
        slots, and look at all S that the mask allows, which shows no token a later one; the cache itself stays as it is.
        Dropout is applied only where a key is given. What is `known` of the layers is not computed again.
        """
        config, turn, own = self.config, None, _OfLayer(cache=cache, known=known)
        x = self.embed(tokens)
        if self.learned_positions is not None:
            x = x + self.learned_positions(positions)
        if config.positions == "rotary":
            turn = rotation(positions, config.context, config.head_dim, config.rope_theta, config.rope_scaling)
        if config.nope_every:
            own = own._replace(turns=(np.arange(config.layers) + 1) % config.nope_every != 0)
        keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers + 1)
        if keys is not None:
            own = own._replace(dropout_key=keys[:-1])
        x = _held(dropout(x, config.dropout, None if keys is None else keys[-1]), self.activations)
        x, found = fold(self.layers, x, (turn, mask, slot), own, again=config.remat == "layer")
        return self.final_norm(x), found

    def logits(self, hidden: Float[Array, "*dims D"]) -> Float[Array, "*dims V"]:
        """Next-token logits, float32."""
        out = self.embed.attend(hidden) if self.head is None else self.head(hidden)
        return out.astype(jnp.float32)

    def over_vocabulary(self, states: Float[Array, "B T D"]) -> Head:
        """States and table as `vocabulary` needs them for the logits of these states."""
        return Head(states, self.embed.embedding[...] if self.head is None else self.head.kernel[...].T)


class _OfLayer(NamedTuple):
    """Beside its parameters: its keys and values, its dropout's key, whether it has positions, what is known of it."""

    cache: Any = None
    dropout_key: Any = None
    turns: Any = None
    known: Activations | None = None


class Layer(nnx.Module):
    """Attention and MLP, each added to the residual stream, with a norm before each (GPT-2, Llama) or after it (OLMo 2)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, activations: NamedSharding | None = None):
        self.config = config
        self.activations = activations
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = (GeluMlp if config.mlp == "gelu" else SwigluMlp)(config, rngs=rngs)

    def __call__(self, x: Array, turn: Rotation | None, mask: Array, slot: Any, own: _OfLayer) -> tuple[Array, Activations]:
        """One layer; see `Decoder.__call__`."""
        config, known = self.config, own.known or NOTHING
        keys = (None, None) if own.dropout_key is None else tuple(jax.random.split(own.dropout_key))
        turn = turn if turn is None or own.turns is None else turned(turn, own.turns)
        before = config.normed == "inputs"
        attended, found = self.attention(self.attention_norm(x) if before else x, turn, mask, own.cache, slot, known)
        attended = attended if before else self.attention_norm(attended)
        middle = recall(x + dropout(attended, config.dropout, keys[0]), known.middle)
        changed, inner = apply(self.mlp, config.remat == "mlp", self.mlp_norm(middle) if before else middle, known.inner)
        changed = changed if before else self.mlp_norm(changed)
        out = recall(middle + dropout(changed, config.dropout, keys[1]), known.out)
        return _held(out, self.activations), found._replace(middle=middle, inner=inner, out=out)


class Attention(nnx.Module):
    """Multi-head attention; with fewer key/value heads than heads, grouped-query."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        q_dim, kv_dim = config.heads * config.head_dim, config.kv_heads * config.head_dim
        bias = config.bias != "none"
        self.q = linear(config.d_model, q_dim, ("embed", "heads"), config, rngs, bias)
        self.k = linear(config.d_model, kv_dim, ("embed", "kv_heads"), config, rngs, bias)
        self.v = linear(config.d_model, kv_dim, ("embed", "kv_heads"), config, rngs, bias)
        self.out = linear(
            q_dim, config.d_model, ("heads", "embed"), config, rngs, config.bias == "all", std=_residual_std(config)
        )
        q_width, k_width = (q_dim, kv_dim) if config.qk_norm == "whole" else (config.head_dim, config.head_dim)
        self.q_norm = _norm(config, rngs, q_width) if config.qk_norm else None
        self.k_norm = _norm(config, rngs, k_width) if config.qk_norm else None

    def __call__(
        self, x: Array, turn: Rotation | None, mask: Array, cache: Any, slot: Any, known: Activations
    ) -> tuple[Array, Activations]:
        """Attention over the tokens themselves, or over the cache into which they are written."""
        config = self.config
        q, k, v = (matrix(x) for matrix in (self.q, self.k, self.v))
        if config.qk_norm == "whole":
            q, k = self.q_norm(q), self.k_norm(k)  # pyright: ignore
        q, k, v = (split_heads(each, config.head_dim) for each in (q, k, v))
        if config.qk_norm is True:
            q, k = self.q_norm(q), self.k_norm(k)  # pyright: ignore
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        found = NOTHING._replace(keys=k, values=v, queries=q)
        if cache is not None:
            k, v = write(cache, (k, v), slot)
        q, k, v = recall((q, k, v), None if known.queries is None else (known.queries, known.keys, known.values))
        already = None if known.attended is None else Attended(known.attended, known.log_total)
        out, log_total = attention(q, k, v, mask, already)
        return self.out(join_heads(out)), found._replace(attended=out, log_total=log_total)


class GeluMlp(nnx.Module):
    """GPT-2: down(gelu(up(x))), the tanh form of GELU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        bias = config.bias == "all"
        self.up = linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs, bias)
        self.down = linear(config.d_mlp, config.d_model, ("mlp", "embed"), config, rngs, bias, std=_residual_std(config))

    def __call__(self, x: Array, known: Any) -> tuple[Array, tuple[Array, ...]]:
        """The MLP, token by token, and what its activation function got."""
        inner = recall((self.up(x),), known)
        return self.down(jax.nn.gelu(*inner, approximate=True)), inner


class SwigluMlp(nnx.Module):
    """Llama: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        bias = config.bias == "all"
        self.gate = linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs, bias)
        self.up = linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs, bias)
        self.down = linear(config.d_mlp, config.d_model, ("mlp", "embed"), config, rngs, bias, std=_residual_std(config))

    def __call__(self, x: Array, known: Any) -> tuple[Array, tuple[Array, ...]]:
        """The MLP, token by token, and what its activation function got."""
        inner = recall((self.gate(x), self.up(x)), known)
        return self.down(swiglu(*inner)), inner


def _held(x: Array, sharding: NamedSharding | None) -> Array:
    """x, its rows over the devices as `sharding` says, where they can be divided so."""
    if sharding is None or x.shape[0] % math.prod(sharding.mesh.shape[axis] for axis in sharding.spec[0]):
        return x
    return jax.lax.with_sharding_constraint(x, sharding)


def dropout(x: Array, rate: float, key: Any) -> Array:
    """Dropout where there is a key, scaled to keep the mean."""
    return x if key is None or rate == 0 else nnx.Dropout(rate)(x, deterministic=False, rngs=nnx.Rngs(dropout=key))


def _residual_std(config: DecoderConfig) -> float:
    return INIT_STD / (2 * config.layers) ** 0.5


def linear(
    inputs: int,
    outputs: int,
    axes: tuple[str, str],
    config: DecoderConfig | EncoderConfig,
    rngs: nnx.Rngs,
    bias: bool,
    std: float = INIT_STD,
) -> nnx.Linear:
    """A matrix with the config's dtypes; `axes` are the logical axes of its inputs and outputs."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        dot_general=dot_general,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata={"axes": axes},
        bias_metadata={"axes": axes[1:]},
        rngs=rngs,
    )


def embedding(rows: int, config: DecoderConfig | EncoderConfig, axis: str, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of `rows` vectors; `axis` is the logical axis of its rows."""
    return nnx.Embed(
        rows,
        config.d_model,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        embedding_init=nnx.initializers.normal(INIT_STD),
        embedding_metadata={"axes": (axis, "embed")},
        rngs=rngs,
    )


def layer_norm(config: DecoderConfig | EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the model's width."""
    return nnx.LayerNorm(config.d_model, bias_metadata={"axes": ("norm",)}, **_norm_options(config, rngs))


def _norm(config, rngs, width=None) -> nnx.LayerNorm | nnx.RMSNorm:
    if width is not None or config.norm == "rms":
        return nnx.RMSNorm(width or config.d_model, **_norm_options(config, rngs))
    return layer_norm(config, rngs)


def _norm_options(config: DecoderConfig | EncoderConfig, rngs: nnx.Rngs) -> dict[str, Any]:
    return {
        "epsilon": config.norm_eps,
        "dtype": jnp.dtype(config.dtype),
        "param_dtype": jnp.dtype(config.param_dtype),
        "scale_metadata": {"axes": ("norm",)},
        "rngs": rngs,
    }
