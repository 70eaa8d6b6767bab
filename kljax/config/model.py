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
    factor: AboveZero


@strict
class Llama3Scaling:
    """Rotary positions as Llama 3.1 has them: slow pairs are divided by `factor`, fast ones are not, with a blend between."""

    kind: Literal["llama3"]
    factor: AboveZero
    low_freq_factor: AboveZero  # slow: fewer turns than this within original_context
    high_freq_factor: AboveZero  # fast: more turns than this
    original_context: Positive  # longest sequence before the positions were scaled


@strict
class YarnScaling:
    """YaRN (Peng et al. 2023): like llama3, blended by the pair's number, and cosine and sine are scaled, too."""

    kind: Literal["yarn"]
    factor: AboveZero
    attention_factor: AboveZero  # of cosine and sine
    beta_fast: AboveZero  # fast: more turns than this within original_context
    beta_slow: AboveZero  # slow: fewer turns than this
    truncate: bool  # the blend begins and ends at whole pairs
    original_context: Positive  # longest sequence before the positions were scaled


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling


@strict
class DecoderConfig:
    """The decoder, spelled by its parts: GPT-2, Llama, Qwen, OLMo are choices of them (configs/model/)."""

    kind: Literal["decoder"]
    positions: Literal["learned", "rotary"]
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    bias: Literal["none", "qkv", "all"]  # on no matrix, on queries, keys and values, on every one
    normed: Literal["inputs", "outputs"] = "inputs"  # what of attention and MLP goes through a norm
    qk_norm: bool | Literal["whole"]  # an RMS norm on each head's queries and keys; whole: on those of all heads together
    tied_head: bool  # the output matrix is the embedding
    layers: Positive
    d_model: Positive
    d_mlp: Positive  # of this and the next two, null in a file or a command line: by the other sizes (derived.py)
    heads: Positive
    kv_heads: Positive  # fewer than heads: grouped-query attention
    head_dim: Positive
    context: Positive  # longest sequence, prompt included
    norm_eps: AboveZero
    rope_theta: AboveZero  # rotary base
    rope_scaling: LinearScaling | Llama3Scaling | YarnScaling | None = Field(default=None, discriminator="kind")  # null: none
    nope_every: Natural = 0  # every so many layers one has no positions (NoPE); 0: all have them
    dropout: Share  # in pretraining only: RL samples and scores without
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters; those that are trained are float32
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # time steps projected to the vocabulary at once; below T, [B, T, V] never exists
    vocab_chunk: Positive | None  # entries of the vocabulary at once, too, summed up block by block; null: all


@strict
class EncoderConfig:
    """The encoder: BERT, DistilBERT and RoBERTa are choices of its parts (configs/model/)."""

    kind: Literal["encoder"]
    layers: Positive
    d_model: Positive
    d_mlp: Positive  # null in a file or a command line: 4 d_model
    heads: Positive
    context: Positive  # longest sequence
    first_position: Natural  # of the table of positions: 2 in RoBERTa
    segments: Natural  # rows of the table of segments, of which the first is used; 0: no such table
    head: Literal["tanh", "relu"]  # activation of the dense layer between the first token and the outputs
    norm_eps: AboveZero
    dropout: Share  # in fitting only
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # tokens projected to the vocabulary at once


@strict
class HuggingFaceModel:
    """A decoder or encoder with its weights: a directory as `save_pretrained` writes it, or a hub name. Or a LoRA of PEFT's."""

    kind: Literal["huggingface"]
    path: str
    revision: str | None = None  # branch, tag or commit of a hub name; null: its default
    base: str | None = None  # the model under a LoRA of PEFT's; null: the one that its adapter_config.json names
    context: Positive | None  # longest sequence; null: the model's own
    dropout: Share  # in pretraining only
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters, whatever the file has; those that are trained are float32
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # time steps projected to the vocabulary at once
    vocab_chunk: Positive | None  # entries of the vocabulary at once, too (decoders); null: all


@strict
class NoAdapter:
    """Every parameter is trained."""

    kind: Literal["none"]


@strict
class LoraAdapter:
    """Low-rank adapters (Hu et al. 2021): W + (alpha/rank)·A·B, W frozen; the frozen model is held once, the reference too."""

    kind: Literal["lora"]
    rank: Positive
    alpha: AboveZero
    targets: Annotated[list[Target], Field(min_length=1)] | None  # matrices of each layer; null: every one that the model has
