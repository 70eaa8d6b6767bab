"""A decoder of the project's own in a size that fits in a figure, and its optimiser."""

from typing import Literal

import jax
import jax.numpy as jnp

from kljax.config import DecoderConfig, MeshConfig
from kljax.config.optimizer import OptimizerConfig
from kljax.devices import mesh
from kljax.devices.state import Architecture, decoder_architecture


def decoder(vocab: int, context: int, width: int, layers: int) -> Architecture:
    """GPT-2's parts over `vocab` tokens, on one device."""
    config = DecoderConfig(
        kind="decoder",
        positions="learned",
        norm="layer",
        mlp="gelu",
        bias="all",
        qk_norm=False,
        tied_head=False,
        layers=layers,
        d_model=width,
        d_mlp=4 * width,
        heads=2,
        kv_heads=2,
        head_dim=width // 2,
        context=context,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        dropout=0.0,
        dtype="float32",
        param_dtype="float32",
        remat="none",
        logit_chunk=context,
        vocab_chunk=None,
    )
    return decoder_architecture(config, vocab, mesh.build(MeshConfig(data=1, fsdp=1, tensor=1)))


def adamw(rate: float, schedule: Literal["constant", "cosine"] = "constant") -> OptimizerConfig:
    """AdamW without decay of weights, which would be one more thing that holds a model back."""
    return OptimizerConfig(
        learning_rate=rate, schedule=schedule, warmup_steps=0, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=1.0
    )  # pyright: ignore


def fresh(architecture: Architecture, seeds: int):
    """Parameters of `seeds` models, stacked."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(architecture.init(seed) for seed in range(seeds)))
