"""A decoder or an encoder with numbers for a whole text: the logits of its classes, or one score (a reward model)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from kljax.config import DecoderConfig, EncoderConfig
from kljax.models.decoder import Decoder, causal_mask, dropout, linear, positions_of
from kljax.models.encoder import Encoder

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Classifier(nnx.Module):
    """Outputs from one token's hidden state: a decoder's last, an encoder's first, which goes through a dense layer."""

    def __init__(self, config: DecoderConfig | EncoderConfig, vocab_size: int, outputs: int, *, rngs: nnx.Rngs):
        self.config = config
        encodes = isinstance(config, EncoderConfig)
        if encodes:
            self.body = Encoder(config, vocab_size, rngs=rngs)
        else:
            self.body = Decoder(replace(config, tied_head=True), vocab_size, rngs=rngs)  # no matrix to the vocabulary
        self.dense = linear(config.d_model, config.d_model, ("embed", "heads"), config, rngs, bias=True) if encodes else None
        self.out = linear(config.d_model, outputs, ("embed", "outputs"), config, rngs, bias=encodes)

    def __call__(
        self, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"], dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "B outputs"]:
        """Outputs of each row, float32. Padding may be on either side. Dropout only where a key is given."""
        if isinstance(self.body, Encoder):
            hidden = self.body(tokens, mask, dropout_key)
            place = jnp.argmax(mask, axis=-1)
        else:
            hidden, _ = self.body(tokens, positions_of(mask), causal_mask(mask), dropout_key=dropout_key)
            place = mask.shape[-1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1)
        state = jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]
        if self.dense is not None:
            state = ACTIVATIONS[self.config.head](self.dense(state))  # pyright: ignore
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, self.config.layers + 1)
        return self.out(dropout(state, self.config.dropout, key)).astype(jnp.float32)
