"""Small decoders, one of each family, with weights large enough for their logits to differ."""

from functools import cache

import jax
import pytest
from flax import nnx

from kljax.config import DecoderConfig, Llama3Scaling
from kljax.models.decoder import Decoder

VOCAB = 13
SIZE = {
    "kind": "decoder",
    "qk_norm": False,
    "layers": 2,
    "d_model": 16,
    "d_mlp": 24,
    "heads": 4,
    "head_dim": 4,
    "context": 24,
    "rope_theta": 10000.0,
    "dropout": 0.3,
    "dtype": "float32",
    "param_dtype": "float32",
    "remat": "none",
    "logit_chunk": 3,
    "vocab_chunk": None,
}
GPT2 = {
    "positions": "learned",
    "norm": "layer",
    "mlp": "gelu",
    "bias": "all",
    "tied_head": True,
    "kv_heads": 4,
    "norm_eps": 1e-5,
}
LLAMA = {
    "positions": "rotary",
    "norm": "rms",
    "mlp": "swiglu",
    "bias": "none",
    "tied_head": False,
    "kv_heads": 2,
    "norm_eps": 1e-6,
}
SCALED = Llama3Scaling(kind="llama3", factor=4.0, low_freq_factor=0.5, high_freq_factor=2.5, original_context=6)
OLMO2 = LLAMA | {"normed": "outputs", "qk_norm": "whole"}
SMOLLM3 = LLAMA | {"nope_every": 2, "rope_scaling": SCALED, "rope_theta": 10.0}
PARTS = {"gpt2": GPT2, "llama": LLAMA, "olmo2": OLMO2, "smollm3": SMOLLM3}
SCALE = 4.0  # fresh weights give nearly uniform distributions, in which many a mistake hides


@pytest.fixture
def make_decoder():
    """make_decoder(family, seed, **changes): a decoder with weights SCALE times as large as fresh ones."""

    def make(family="gpt2", seed=0, **changes) -> Decoder:
        return nnx.merge(*_parts_of(DecoderConfig(**SIZE | PARTS[family] | changes), seed))

    return make


@cache
def _parts_of(config, seed):
    graphdef, params = nnx.split(Decoder(config, VOCAB, rngs=nnx.Rngs(seed)))
    return graphdef, jax.tree.map(lambda p: SCALE * p, params)


@pytest.fixture(params=["gpt2", "llama"])
def family(request) -> str:
    return request.param
