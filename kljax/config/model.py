"""Models by their parts, or with their files; and their adapters."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from kljax.config.base import AboveZero, Dtype, Natural, Positive, Share, strict

Remat = Literal["none", "mlp", "layer"]
Target = Literal["q", "k", "v", "out", "gate", "up", "down"]


@strict
class LinearScaling:
    """Rotary positions divided by a number (position interpolation, Chen et al. 2023)."""

    kind: Literal["linear"]
    """Says that the scaling is linear."""
    factor: AboveZero
    """The number that positions are divided by."""


@strict
class Llama3Scaling:
    """Rotary positions as Llama 3.1 has them: slow pairs are divided by `factor`, fast ones are not, with a blend between."""

    kind: Literal["llama3"]
    """Says that the scaling is Llama 3's."""
    factor: AboveZero
    """The number that positions of slow pairs are divided by."""
    low_freq_factor: AboveZero
    """Slow pairs make fewer turns than this within original_context."""
    high_freq_factor: AboveZero
    """Fast pairs make more turns than this within original_context."""
    original_context: Positive
    """The longest sequence, in tokens, before the positions were scaled."""


@strict
class YarnScaling:
    """YaRN (Peng et al. 2023): like llama3, blended by the pair's number, and cosine and sine are scaled, too."""

    kind: Literal["yarn"]
    """Says that the scaling is YaRN's."""
    factor: AboveZero
    """The number that positions of slow pairs are divided by."""
    attention_factor: AboveZero
    """The factor of cosine and sine."""
    beta_fast: AboveZero
    """Fast pairs make more turns than this within original_context."""
    beta_slow: AboveZero
    """Slow pairs make fewer turns than this within original_context."""
    truncate: bool
    """Whether the blend begins and ends at whole pairs."""
    original_context: Positive
    """The longest sequence, in tokens, before the positions were scaled."""


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling


@strict
class DecoderConfig:
    """The decoder, spelled by its parts: GPT-2, Llama, Qwen, OLMo are choices of them (configs/model/)."""

    kind: Literal["decoder"]
    """Says that it is a decoder; set by model=gpt2 or model=llama."""
    positions: Literal["learned", "rotary"]
    """A table of learned positions, or rotations of queries and keys."""
    norm: Literal["layer", "rms"]
    """LayerNorm or RMSNorm."""
    mlp: Literal["gelu", "swiglu"]
    """A GELU's two matrices, or a SwiGLU's three."""
    bias: Literal["none", "qkv", "all"]
    """On no matrix, on queries, keys and values, or on every one."""
    normed: Literal["inputs", "outputs"] = "inputs"
    """The side of attention and MLP that goes through a norm."""
    qk_norm: bool | Literal["whole"]
    """An RMS norm on each head's queries and keys; whole: on those of all heads together."""
    tied_head: bool
    """Whether the output matrix is the embedding."""
    layers: Positive
    """Number of layers."""
    d_model: Positive
    """Width of the residual stream."""
    d_mlp: Positive
    """Hidden width of the MLP; null: 4 d_model, of a SwiGLU 8/3 d_model rounded up to a multiple of 16."""
    heads: Positive
    """Query heads."""
    kv_heads: Positive
    """Heads of keys and values; fewer than heads: grouped-query attention; null: as many as heads."""
    head_dim: Positive
    """Width of a head; null: d_model / heads."""
    context: Positive
    """The longest sequence in tokens, prompt included."""
    norm_eps: AboveZero
    """The number that is added to the variance in a norm."""
    rope_theta: AboveZero
    """The base of rotary positions; without them it does nothing."""
    rope_scaling: LinearScaling | Llama3Scaling | YarnScaling | None = Field(default=None, discriminator="kind")
    """How rotary positions are stretched to longer sequences; null: not at all."""
    nope_every: Natural = 0
    """Every so many layers one has no positions (NoPE); 0: all have them."""
    dropout: Share
    """In pretraining only: RL samples and scores without."""
    dtype: Dtype
    """Of activations; log-probs are float32."""
    param_dtype: Dtype
    """Of parameters; those that are trained are float32."""
    remat: Remat
    """Computed again in the backward pass and not kept for it: nothing, each MLP, or each layer."""
    logit_chunk: Positive
    """Time steps projected to the vocabulary at once; below T, logits [B, T, V] never exist."""
    vocab_chunk: Positive | None
    """Entries of the vocabulary at once, too, summed up block by block; null: all."""


@strict
class EncoderConfig:
    """The encoder: BERT, DistilBERT and RoBERTa are choices of its parts (configs/model/)."""

    kind: Literal["encoder"]
    """Says that it is an encoder; set by model=bert."""
    layers: Positive
    """Number of layers."""
    d_model: Positive
    """Width of the residual stream."""
    d_mlp: Positive
    """Hidden width of the MLP; null: 4 d_model."""
    heads: Positive
    """Attention heads, a divisor of d_model."""
    context: Positive
    """The longest sequence, in tokens."""
    first_position: Natural
    """The row of the table of positions that the first token has: 0; 2 in RoBERTa."""
    segments: Natural
    """Rows of the table of segments, of which the first is used; 0: no such table."""
    head: Literal["tanh", "relu"]
    """Activation of the dense layer between the first token and the outputs."""
    norm_eps: AboveZero
    """The number that is added to the variance in a norm."""
    dropout: Share
    """In fitting only."""
    dtype: Dtype
    """Of activations; log-probs are float32."""
    param_dtype: Dtype
    """Of parameters."""
    remat: Remat
    """Computed again in the backward pass and not kept for it: nothing, each MLP, or each layer."""
    logit_chunk: Positive
    """Tokens projected to the vocabulary at once."""


@strict
class HuggingFaceModel:
    """A decoder or encoder with its weights: a directory as `save_pretrained` writes it, or a hub name. Or a LoRA of PEFT's."""

    kind: Literal["huggingface"]
    """Set by model=huggingface."""
    path: str
    """A directory as save_pretrained writes it, a hub name, or a LoRA of PEFT's."""
    revision: str | None = None
    """Branch, tag or commit of a hub name; null: its default."""
    base: str | None = None
    """The model under a LoRA of PEFT's; null: the one that its adapter_config.json names."""
    context: Positive | None
    """The longest sequence in tokens; null: the model's own."""
    dropout: Share
    """In pretraining only: RL samples and scores without."""
    dtype: Dtype
    """Of activations; log-probs are float32."""
    param_dtype: Dtype
    """Of parameters, whatever the file has; those that are trained are float32."""
    remat: Remat
    """Computed again in the backward pass and not kept for it: nothing, each MLP, or each layer."""
    logit_chunk: Positive
    """Time steps projected to the vocabulary at once."""
    vocab_chunk: Positive | None
    """Entries of the vocabulary at once, too (decoders); null: all."""


@strict
class NoAdapter:
    """Every parameter is trained."""

    kind: Literal["none"]
    """Set by adapter=none."""


@strict
class LoraAdapter:
    """Low-rank adapters (Hu et al. 2021): W + (alpha/rank)·A·B, W frozen; the frozen model is held once, the reference too."""

    kind: Literal["lora"]
    """Set by adapter=lora."""
    rank: Positive
    """Columns of A and rows of B."""
    alpha: AboveZero
    """The adapters' product is multiplied by alpha/rank."""
    targets: Annotated[list[Target], Field(min_length=1)] | None
    """Matrices of each layer that get adapters; null: every one that the model has."""
