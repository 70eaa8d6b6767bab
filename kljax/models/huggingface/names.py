"""Which tensor of a Hugging Face file is which parameter: one table a family, which reading and writing share.

A table maps our modules to theirs, `#` standing for the layer's number. What a tensor is called and how it lies follows from
our leaf: a kernel is [in, out] here and [out, in] in the file, unless the file's module is GPT-2's `Conv1d`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["decoder", "masked_lm", "classifier"]

Keys = tuple[str | int, ...]
"""Where a parameter is in the tree; integers are layers."""

LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}

RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Endings of names in files of BERT's first years, which transformers still reads."""


@dataclass(frozen=True)
class Conv1d:
    """GPT-2's linear layer, [in, out] like ours. `third` picks one of three that lie side by side in one tensor."""

    name: str
    third: int | None = None


@dataclass(frozen=True)
class Names:
    """A family's tensors. A module in `heads` that begins with a dot lies in the body: it may be there without the head."""

    prefix: str  # of the body's names, in a file that is more than a body
    body: dict[str, str | Conv1d]
    heads: dict[Kind, dict[str, str]]
    copies: dict[str, str]  # what older files hold twice: the copy's name → that of what it is tied to
    buffers: tuple[str, ...]  # patterns in the body: masks, frequencies and position numbers of older files, computed here
    other_heads: tuple[str, ...]  # patterns: heads for tasks that kljax has not


@dataclass(frozen=True)
class Source:
    """Where one parameter lies: the tensor's name, whether as [out, in], which third of it, and in what kind of part."""

    name: str
    transposed: bool
    third: int | None
    part: Literal["body", "pooler", "head"]

    @property
    def module(self) -> str:
        """The name without its last word."""
        return self.name.rpartition(".")[0]


def find_source(names: Names, kind: Kind, path: Sequence[str | int], prefix: str) -> Source:
    """The tensor of the parameter at `path` in a model of this kind, in a file whose body's names begin with `prefix`."""
    in_body = path[0] == "body" if kind != "decoder" else path[0] != "head"
    layer = next((str(key) for key in path if isinstance(key, int)), "")
    *modules, leaf = ("#" if isinstance(key, int) else key for key in (path[1:] if path[0] == "body" else path))
    theirs = (names.body if in_body else names.heads[kind])[".".join(modules)]
    third = theirs.third if isinstance(theirs, Conv1d) else None
    transposed = leaf == "kernel" and not isinstance(theirs, Conv1d)
    module = theirs.name if isinstance(theirs, Conv1d) else theirs
    part = "body" if in_body else "pooler" if module.startswith(".") else "head"
    module = module.removeprefix(".").replace("#", layer)
    return Source(f"{'' if part == 'head' else prefix}{module}.{LEAVES[leaf]}", transposed, third, part)


def may_be_ignored(names: Names, kind: Kind, name: str, prefix: str) -> bool:
    """Whether a model of this kind does not need this tensor: a buffer, or a head for another task than its own.

    A masked language model or a classifier is a body with a head of its own, whatever other task the body had: BERT has been
    trained with two. A decoder's text comes from all that its file holds, or from a model that is not the one in the file.
    """
    in_body = name.startswith(prefix)
    patterns = [f"{prefix}{pattern}" for pattern in names.buffers] if in_body else []
    if kind != "decoder":
        patterns += [*names.other_heads, *_heads_of_other_kinds(names, kind, prefix)]
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _heads_of_other_kinds(names: Names, kind: Kind, prefix: str) -> Iterator[str]:
    for other, modules in names.heads.items():
        if other != kind:
            for module in modules.values():
                yield f"{prefix}{module[1:]}.*" if module.startswith(".") else f"{module}.*"


def copies_of(names: Names, prefix: str) -> dict[str, str]:
    """The names of tensors that a file may hold twice, and what each of them must be equal to."""
    return {
        copy: f"{prefix}{original[1:]}" if original.startswith(".") else original for copy, original in names.copies.items()
    }


GPT2 = Names(
    prefix="transformer.",
    body={
        "embed": "wte",
        "learned_positions": "wpe",
        "layers.#.attention_norm": "h.#.ln_1",
        "layers.#.attention.q": Conv1d("h.#.attn.c_attn", third=0),
        "layers.#.attention.k": Conv1d("h.#.attn.c_attn", third=1),
        "layers.#.attention.v": Conv1d("h.#.attn.c_attn", third=2),
        "layers.#.attention.out": Conv1d("h.#.attn.c_proj"),
        "layers.#.mlp_norm": "h.#.ln_2",
        "layers.#.mlp.up": Conv1d("h.#.mlp.c_fc"),
        "layers.#.mlp.down": Conv1d("h.#.mlp.c_proj"),
        "final_norm": "ln_f",
    },
    heads={"decoder": {"head": "lm_head"}, "classifier": {"out": "score"}},
    copies={"lm_head.weight": ".wte.weight"},
    buffers=("h.*.attn.bias", "h.*.attn.masked_bias"),
    other_heads=("multiple_choice_head.*", "qa_outputs.*"),
)

LLAMA = Names(
    prefix="model.",
    body={
        "embed": "embed_tokens",
        "layers.#.attention_norm": "layers.#.input_layernorm",
        "layers.#.attention.q": "layers.#.self_attn.q_proj",
        "layers.#.attention.k": "layers.#.self_attn.k_proj",
        "layers.#.attention.v": "layers.#.self_attn.v_proj",
        "layers.#.attention.out": "layers.#.self_attn.o_proj",
        "layers.#.attention.q_norm": "layers.#.self_attn.q_norm",  # Qwen3, OLMo 2
        "layers.#.attention.k_norm": "layers.#.self_attn.k_norm",
        "layers.#.mlp_norm": "layers.#.post_attention_layernorm",
        "layers.#.mlp.gate": "layers.#.mlp.gate_proj",
        "layers.#.mlp.up": "layers.#.mlp.up_proj",
        "layers.#.mlp.down": "layers.#.mlp.down_proj",
        "final_norm": "norm",
    },
    heads={"decoder": {"head": "lm_head"}, "classifier": {"out": "score"}},
    copies={"lm_head.weight": ".embed_tokens.weight"},
    buffers=("layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
    other_heads=("qa_outputs.*",),
)

OLMO2 = replace(
    LLAMA,
    body=LLAMA.body
    | {
        "layers.#.attention_norm": "layers.#.post_attention_layernorm",
        "layers.#.mlp_norm": "layers.#.post_feedforward_layernorm",
    },
)

BERT_BODY: dict[str, str | Conv1d] = {
    "embed": "embeddings.word_embeddings",
    "learned_positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "layers.#.attention.q": "encoder.layer.#.attention.self.query",
    "layers.#.attention.k": "encoder.layer.#.attention.self.key",
    "layers.#.attention.v": "encoder.layer.#.attention.self.value",
    "layers.#.attention.out": "encoder.layer.#.attention.output.dense",
    "layers.#.attention_norm": "encoder.layer.#.attention.output.LayerNorm",
    "layers.#.up": "encoder.layer.#.intermediate.dense",
    "layers.#.down": "encoder.layer.#.output.dense",
    "layers.#.mlp_norm": "encoder.layer.#.output.LayerNorm",
}

BERT = Names(
    prefix="bert.",
    body=BERT_BODY,
    heads={
        "masked_lm": {
            "dense": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
            "": "cls.predictions",
        },
        "classifier": {"dense": ".pooler.dense", "out": "classifier"},
    },
    copies={
        "cls.predictions.decoder.weight": ".embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=("embeddings.position_ids",),
    other_heads=("cls.seq_relationship.*", "qa_outputs.*"),
)

ROBERTA = Names(
    prefix="roberta.",
    body=BERT_BODY,
    heads={
        "masked_lm": {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "": "lm_head"},
        "classifier": {"dense": "classifier.dense", "out": "classifier.out_proj"},
    },
    copies={"lm_head.decoder.weight": ".embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
    buffers=("embeddings.position_ids", "pooler.dense.*"),  # RoBERTa's classifier has a dense layer of its own
    other_heads=("qa_outputs.*",),
)

DISTILBERT = Names(
    prefix="distilbert.",
    body={
        "embed": "embeddings.word_embeddings",
        "learned_positions": "embeddings.position_embeddings",
        "embed_norm": "embeddings.LayerNorm",
        "layers.#.attention.q": "transformer.layer.#.attention.q_lin",
        "layers.#.attention.k": "transformer.layer.#.attention.k_lin",
        "layers.#.attention.v": "transformer.layer.#.attention.v_lin",
        "layers.#.attention.out": "transformer.layer.#.attention.out_lin",
        "layers.#.attention_norm": "transformer.layer.#.sa_layer_norm",
        "layers.#.up": "transformer.layer.#.ffn.lin1",
        "layers.#.down": "transformer.layer.#.ffn.lin2",
        "layers.#.mlp_norm": "transformer.layer.#.output_layer_norm",
    },
    heads={
        "masked_lm": {"dense": "vocab_transform", "norm": "vocab_layer_norm", "": "vocab_projector"},
        "classifier": {"dense": "pre_classifier", "out": "classifier"},
    },
    copies={"vocab_projector.weight": ".embeddings.word_embeddings.weight"},
    buffers=("embeddings.position_ids",),
    other_heads=("qa_outputs.*",),
)

NAMES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "olmo2": OLMO2,
    "bert": BERT,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
}
"""`model_type` of config.json → its tensors."""
