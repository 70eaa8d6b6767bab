"""The BERT family's encoder: every token sees every other. BERT, DistilBERT and RoBERTa are choices of its parts.

Logical axes and dtypes as in the decoder. Attention weights are not dropped out, unlike the paper's: activations are.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.config import EncoderConfig
from kljax.models.decoder import dropout, embedding, layer_norm, linear, positions_of
from kljax.models.layers import apply, fold, make_layers
from kljax.models.ops.attention import attend, join_heads, split_heads
from kljax.models.ops.vocabulary import Head


class Encoder(nnx.Module):
    """Tokens to hidden states."""

    def __init__(self, config: EncoderConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.embed = embedding(vocab_size, config, "vocab", rngs)
        self.learned_positions = embedding(config.first_position + config.context, config, "context", rngs)
        self.segments = embedding(config.segments, config, "segments", rngs) if config.segments else None
        self.embed_norm = layer_norm(config, rngs)
        self.layers = make_layers(partial(EncoderLayer, config), config.layers, rngs)

    def __call__(
        self, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"], dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "B S D"]:
        """Hidden states of the last layer. Padding, on either side, is not seen. Dropout only where a key is given."""
        config = self.config
        x = self.embed(tokens) + self.learned_positions(config.first_position + positions_of(mask))
        if self.segments is not None:
            x = x + self.segments(jnp.zeros_like(tokens))
        keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers + 1)
        x = dropout(self.embed_norm(x), config.dropout, None if keys is None else keys[-1])
        own = None if keys is None else keys[:-1]
        return fold(self.layers, x, (mask,), own, again=config.remat == "layer")[0]


class EncoderLayer(nnx.Module):
    """Attention and MLP, each added to the residual stream and normalised after that."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention = EncoderAttention(config, rngs=rngs)
        self.attention_norm = layer_norm(config, rngs)
        self.up = linear(config.d_model, config.d_mlp, ("embed", "mlp"), config, rngs, bias=True)
        self.down = linear(config.d_mlp, config.d_model, ("mlp", "embed"), config, rngs, bias=True)
        self.mlp_norm = layer_norm(config, rngs)

    def __call__(self, x: Array, mask: Array, key: Any) -> tuple[Array, None]:
        """One layer; see `Encoder.__call__`. The GELU is the exact one."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = self.attention_norm(x + dropout(self.attention(x, mask), self.config.dropout, keys[0]))
        changed = apply(self, self.config.remat == "mlp", x, method=EncoderLayer.feed_forward)
        return self.mlp_norm(x + dropout(changed, self.config.dropout, keys[1])), None

    def feed_forward(self, x: Array) -> Array:
        """The MLP, token by token."""
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class EncoderAttention(nnx.Module):
    """Multi-head attention of every token to every token that is not padding."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.q = linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs, bias=True)
        self.k = linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs, bias=True)
        self.v = linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs, bias=True)
        self.out = linear(config.d_model, config.d_model, ("heads", "embed"), config, rngs, bias=True)

    def __call__(self, x: Array, mask: Array) -> Array:
        """Attention over all keys that `mask` calls real."""
        q, k, v = (split_heads(matrix(x), x.shape[-1] // self.config.heads) for matrix in (self.q, self.k, self.v))
        return self.out(join_heads(attend(q, k, v, mask[:, None, :])))


class MaskedLm(nnx.Module):
    """An encoder that says which token stood at each place."""

    def __init__(self, config: EncoderConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.body = Encoder(config, vocab_size, rngs=rngs)
        self.dense = linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs, bias=True)
        self.norm = layer_norm(config, rngs)
        self.bias = nnx.Param(jnp.zeros(vocab_size, jnp.dtype(config.param_dtype)), axes=("vocab",))

    def logits(self, hidden: Float[Array, "*dims D"]) -> Float[Array, "*dims V"]:
        """Logits of the token at each place, float32; the output matrix is the embedding."""
        return (self.body.embed.attend(self._before_table(hidden)) + self.bias[...]).astype(jnp.float32)

    def over_vocabulary(self, hidden: Float[Array, "B T D"]) -> Head:
        """States, table and bias as `vocabulary` needs them for the same logits."""
        return Head(self._before_table(hidden), self.body.embed.embedding[...], self.bias[...])

    def _before_table(self, hidden: Array) -> Array:
        return self.norm(jax.nn.gelu(self.dense(hidden), approximate=False))
