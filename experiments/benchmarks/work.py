"""Work that a step has to do, whoever does it: floating-point operations of its matrix products, and bytes that it must move.

Pure arithmetic over sizes. Norms, softmax, rotary positions and the products of adapters, which are thin, are left out; so is
what is computed a second time (remat, logits in the backward pass). What is counted is a floor.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from kljax.config import DecoderConfig

GRADIENTS = 2  # of a product of two matrices: one product for each of them
MOMENTS = 2  # of Adam, one number a parameter each


@dataclass(frozen=True)
class Work:
    """Floating-point operations (a multiplication and an addition are two), and bytes read or written."""

    flops: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The least time: as if operations and transfers hid one another."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a rollout: N distinct prompts of P tokens, G samples of each, T new tokens in every one."""

    prompts: int
    samples: int
    prompt_length: int
    new_tokens: int

    @property
    def rows(self) -> int:
        """Completions."""
        return self.prompts * self.samples


@dataclass(frozen=True)
class Pass:
    """Counts: tokens through a decoder's layers, states to its vocabulary, (query, key) pairs that are visible."""

    tokens: int
    states: int
    pairs: int


def passes(sizes: Sizes, repeated: bool = False) -> tuple[Pass, Pass]:
    """The prompts' part of a forward pass and the completions' part.

    A prompt is the same for all its samples, and needs one pass; so does the state after it. The last token needs none, since
    nothing follows from it. `repeated`: as TRL and Tunix do it, every prompt once a sample, and the last token, too.
    """
    prompt, new, rows = sizes.prompt_length, sizes.new_tokens, sizes.rows
    distinct = rows if repeated else sizes.prompts
    seen = new if repeated else new - 1
    of_prompts = Pass(distinct * prompt, distinct, distinct * _triangle(prompt))
    return of_prompts, Pass(rows * seen, rows * (new - 1), rows * (seen * prompt + _triangle(seen)))


def forward_flops(model: DecoderConfig, vocab_size: int, passed: Pass) -> int:
    """Operations of one forward pass."""
    matrices = passed.tokens * body_size(model) + passed.states * model.d_model * vocab_size
    return 2 * matrices + _attention_flops(model, passed)


def body_size(model: DecoderConfig) -> int:
    """Entries of the matrices in all layers, without embedding and head."""
    width, kv_width = model.heads * model.head_dim, model.kv_heads * model.head_dim
    attention = model.d_model * (2 * width + 2 * kv_width)
    return model.layers * (attention + (3 if model.mlp == "swiglu" else 2) * model.d_model * model.d_mlp)


def step_work(
    model: DecoderConfig,
    vocab_size: int,
    sizes: Sizes,
    lora: bool = False,
    cache_dtype: str | None = None,
    repeated: bool = False,
) -> dict[str, Work]:
    """The parts of an RLHF step, one after another: sampling (`prefill`, `decode`), scoring by both models, `update`.

    Scoring is a forward pass of the `policy`, which sampling has made already where activations are kept, and one of the
    `reference`; `update` the backward pass of the policy and the optimiser. Under LoRA frozen matrices have no gradient of
    their own, only one of what goes through them. `cache_dtype`: None is the activations'.
    """
    prefill, decode = passes(sizes, repeated)
    weights = _weight_bytes(model, vocab_size)
    flops = [forward_flops(model, vocab_size, part) for part in (prefill, decode)]
    attention = sum(_attention_flops(model, part) for part in (prefill, decode))
    backward = GRADIENTS * attention + (sum(flops) - attention) * (1 if lora else GRADIENTS)
    return {
        "prefill": Work(flops[0], weights),
        "decode": Work(flops[1], weights * (sizes.new_tokens - 1) + _cache_bytes(model, sizes, cache_dtype, repeated)),
        "policy": Work(sum(flops), weights),
        "reference": Work(sum(flops), weights),
        "update": Work(backward, weights + (0 if lora else _optimizer_bytes(model, vocab_size))),
    }


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _attention_flops(model: DecoderConfig, passed: Pass) -> int:
    """Queries on keys, and weights on values, of every head."""
    return 2 * 2 * passed.pairs * model.heads * model.head_dim * model.layers


def _weight_bytes(model: DecoderConfig, vocab_size: int) -> int:
    """Every matrix read once, in the narrower of its own precision and that in which it is used."""
    width = min(jnp.dtype(model.param_dtype).itemsize, jnp.dtype(model.dtype).itemsize)
    return width * (body_size(model) + model.d_model * vocab_size)


def _cache_bytes(model: DecoderConfig, sizes: Sizes, dtype: str | None, repeated: bool) -> int:
    """Keys and values that sampling reads: at every step the prompts', and those of all tokens sampled by then."""
    seen = sizes.new_tokens if repeated else sizes.new_tokens - 1
    distinct = sizes.rows if repeated else sizes.prompts
    slots = seen * distinct * sizes.prompt_length + sizes.rows * _triangle(seen)
    return slots * 2 * model.kv_heads * model.head_dim * model.layers * jnp.dtype(dtype or model.dtype).itemsize


def _optimizer_bytes(model: DecoderConfig, vocab_size: int) -> int:
    """Parameters and moments, read and written; the embedding is one of them."""
    tables = (1 if model.tied_head else 2) * model.d_model * vocab_size
    return 2 * (1 + MOMENTS) * jnp.dtype(model.param_dtype).itemsize * (body_size(model) + tables)
