"""Which tensor of a Hugging Face file is which parameter: one table a family, which reading and writing share.

A table maps our modules to theirs, `#` standing for the layer's number. What a tensor is called and how it lies follows from
our leaf: a kernel is [in, out] here and [out, in] in the file, unless the file's module is GPT-2's `Conv1d`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["decoder", "masked_lm", "classifier"]

Keys = tuple[str | int, ...]
"""Where a parameter is in the tree; integers are layers."""

LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}

RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Endings of names in files of BERT's first years, which transformers still reads."""

BUFFERS = ("*.attn.bias", "*.attn.masked_bias", "*rotary_emb.inv_freq", "*embeddings.position_ids")
"""What older files hold beside their weights: masks, frequencies and position numbers, all computed here."""


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
    ignored: tuple[str, ...]  # patterns: copies of tied tensors, and heads that have no use here


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
    """Whether a model of this kind can do without this tensor: a buffer, a copy of a tied one, another kind's head."""
    bare = name.removeprefix(prefix)
    patterns = (*BUFFERS, *names.ignored, *_heads_of_other_kinds(names, kind))
    return any(fnmatchcase(bare, pattern) for pattern in patterns)


def _heads_of_other_kinds(names: Names, kind: Kind) -> Iterator[str]:
    for other, modules in names.heads.items():
        if other != kind:
            yield from (f"{module.removeprefix('.')}.*" for module in modules.values())


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
    ignored=("lm_head.weight", "multiple_choice_head.*"),
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
        "layers.#.attention.q_norm": "layers.#.self_attn.q_norm",  # Qwen3
        "layers.#.attention.k_norm": "layers.#.self_attn.k_norm",
        "layers.#.mlp_norm": "layers.#.post_attention_layernorm",
        "layers.#.mlp.gate": "layers.#.mlp.gate_proj",
        "layers.#.mlp.up": "layers.#.mlp.up_proj",
        "layers.#.mlp.down": "layers.#.mlp.down_proj",
        "final_norm": "norm",
    },
    heads={"decoder": {"head": "lm_head"}, "classifier": {"out": "score"}},
    ignored=("lm_head.weight", "qa_outputs.*"),
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
    ignored=("cls.predictions.decoder.*", "cls.seq_relationship.*", "qa_outputs.*"),
)

ROBERTA = Names(
    prefix="roberta.",
    body=BERT_BODY,
    heads={
        "masked_lm": {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "": "lm_head"},
        "classifier": {"dense": "classifier.dense", "out": "classifier.out_proj"},
    },
    ignored=("lm_head.decoder.*", "pooler.dense.*", "qa_outputs.*"),
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
    ignored=("vocab_projector.weight", "qa_outputs.*"),
)

NAMES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "bert": BERT,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
}
"""`model_type` of config.json → its tensors."""
