"""The families of models that kljax reads and writes: one row each, by which config.json and our config say the same.

The table is at the end of this file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kljax.models.huggingface.names import Kind
from kljax.types import HuggingFaceConfig

ONE_OR_MORE = range(1, 2**31)


@dataclass(frozen=True)
class Family:
    """How config.json and our config say the same.

    `given` raises ValueError where it cannot say it: the rest of a sentence that begins with the model.
    """

    title: str
    architectures: Mapping[Kind, str]  # the class that transformers makes of such a model
    fields: Mapping[str, str]  # their key → our field with the same value
    given: Callable[[HuggingFaceConfig], dict[str, Any]]  # our fields that take a thought
    parts: Mapping[str, Sequence[Any]]  # our field → the values that this architecture can have
    fixed: Mapping[str, tuple[Any, ...]]  # their key → the values that our model can do; the first is written
    dropouts: Mapping[str, str]  # their key → our field, or "" where we drop nothing; written, never read
    thought: tuple[str, ...] = ()  # the keys that `given` reads
    written: Callable[[Any], dict[str, Any]] = lambda config: {}  # of our config: what is written beside `fields`
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # keys that its class does not read → what we do
    square: bool = False  # heads · head_dim must be d_model


def _bias(theirs: Any) -> dict[str, Any]:
    if theirs.attention_bias != theirs.mlp_bias:
        raise ValueError(
            f"has attention_bias={theirs.attention_bias} and mlp_bias={theirs.mlp_bias}; expected both true, or both false: a "
            "kljax decoder has biases on every matrix, on queries, keys and values, or on none"
        )
    return {"bias": "all" if theirs.attention_bias else "none"}


def _head_dim(theirs: Any) -> dict[str, Any]:
    return {"head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads}


def _nope(theirs: Any) -> dict[str, Any]:
    """Layers without positions, where they lie at equal distances: the third, the sixth, …"""
    layers, turned = theirs.num_hidden_layers, list(theirs.no_rope_layers)
    if len(turned) < layers:
        raise ValueError(f"has {len(turned)} entries in no_rope_layers; expected one for each of its {layers} layers")
    plain = [i + 1 for i, turn in enumerate(turned[:layers]) if not turn]
    every = plain[0] if plain else 0
    if plain and plain != list(range(every, layers + 1, every)):
        raise ValueError(
            f"has no positions in layers {', '.join(map(str, plain))} (no_rope_layers), counted from 1; expected every second, "
            "every third, … layer, as a kljax decoder has them"
        )
    return {"nope_every": every}


def _first_position(theirs: Any) -> dict[str, Any]:
    if theirs.pad_token_id is None:
        raise ValueError("has no pad_token_id, after which RoBERTa's positions begin; expected a number")
    return {"first_position": theirs.pad_token_id + 1}  # so transformers counts


def _written_bias(config: Any) -> dict[str, Any]:
    return {"attention_bias": config.bias == "all", "mlp_bias": config.bias == "all"}


def _written_nope(config: Any) -> dict[str, Any]:
    turned = [int((layer + 1) % config.nope_every != 0) for layer in range(config.layers)]
    return _written_bias(config) | {"no_rope_layers": turned, "no_rope_layer_interval": config.nope_every}


LLAMA_FIELDS = {
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
}
LLAMA_PARTS = {
    "kind": ("decoder",),
    "positions": ("rotary",),
    "norm": ("rms",),
    "mlp": ("swiglu",),
    "bias": ("none",),
    "normed": ("inputs",),
    "qk_norm": (False,),
    "nope_every": (0,),
}
LLAMA_FIXED = {"hidden_act": ("silu", "swish")}
NO_BIAS = {"attention_bias": (False,), "mlp_bias": (False,)}
BERT_FIELDS = {
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "layer_norm_eps": "norm_eps",
    "type_vocab_size": "segments",
}
BERT_PARTS = {"kind": ("encoder",), "head": ("tanh",), "segments": ONE_OR_MORE}
BERT_FIXED = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
BERT_DROPOUTS = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": ""}
BERT_NEUTRAL = {"directionality": ("bidi",)}  # Google's first files

FAMILIES = {
    "gpt2": Family(
        title="GPT-2",
        architectures={"decoder": "GPT2LMHeadModel", "classifier": "GPT2ForSequenceClassification"},
        fields={
            "n_embd": "d_model",
            "n_inner": "d_mlp",
            "n_layer": "layers",
            "n_head": "heads",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tied_head",
        },
        given=lambda theirs: {
            "d_mlp": theirs.n_inner or 4 * theirs.n_embd,
            "kv_heads": theirs.n_head,
            "head_dim": theirs.n_embd // theirs.n_head,
        },
        thought=("n_positions", "n_ctx"),
        parts=LLAMA_PARTS
        | {"positions": ("learned",), "norm": ("layer",), "mlp": ("gelu",), "bias": ("all",), "rope_scaling": (None,)},
        fixed={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of the tanh form
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        dropouts={"resid_pdrop": "dropout", "embd_pdrop": "dropout", "attn_pdrop": ""},
        neutral={"n_special": (0,), "predict_special_tokens": (True,)},  # OpenAI's first files
        square=True,
    ),
    "llama": Family(
        title="Llama",
        architectures={"decoder": "LlamaForCausalLM", "classifier": "LlamaForSequenceClassification"},
        fields=LLAMA_FIELDS | {"head_dim": "head_dim"},
        given=_bias,
        thought=("attention_bias", "mlp_bias"),
        parts=LLAMA_PARTS | {"bias": ("none", "all")},
        fixed=LLAMA_FIXED,
        dropouts={"attention_dropout": ""},
        written=_written_bias,
        neutral={"is_llama_config": (True,), "rope_interleaved": (False,), "use_sliding_window": (False,)},
    ),
    "mistral": Family(  # without a window it is a Llama, and is written as one: `family_of` takes the first that fits
        title="Mistral",
        architectures={"decoder": "MistralForCausalLM", "classifier": "MistralForSequenceClassification"},
        fields=LLAMA_FIELDS | {"head_dim": "head_dim"},
        given=lambda theirs: {},
        parts=LLAMA_PARTS,
        fixed=LLAMA_FIXED,
        dropouts={"attention_dropout": ""},
        neutral=NO_BIAS,
    ),
    "qwen2": Family(
        title="Qwen2 and Qwen2.5",
        architectures={"decoder": "Qwen2ForCausalLM", "classifier": "Qwen2ForSequenceClassification"},
        fields=LLAMA_FIELDS,
        given=_head_dim,
        thought=("head_dim",),
        parts=LLAMA_PARTS | {"bias": ("qkv",)},
        fixed=LLAMA_FIXED,
        dropouts={"attention_dropout": ""},
        neutral={"use_mrope": (False,), "mlp_bias": (False,)},
        square=True,
    ),
    "qwen3": Family(
        title="Qwen3",
        architectures={"decoder": "Qwen3ForCausalLM", "classifier": "Qwen3ForSequenceClassification"},
        fields=LLAMA_FIELDS | {"head_dim": "head_dim"},
        given=lambda theirs: {},
        parts=LLAMA_PARTS | {"qk_norm": (True,)},
        fixed=LLAMA_FIXED | {"attention_bias": (False,)},
        dropouts={"attention_dropout": ""},
        neutral={"mlp_bias": (False,)},
    ),
    "smollm3": Family(
        title="SmolLM3",
        architectures={"decoder": "SmolLM3ForCausalLM", "classifier": "SmolLM3ForSequenceClassification"},
        fields=LLAMA_FIELDS,
        given=lambda theirs: _bias(theirs) | _head_dim(theirs) | _nope(theirs),
        thought=("attention_bias", "mlp_bias", "head_dim", "no_rope_layers", "no_rope_layer_interval"),
        parts=LLAMA_PARTS | {"bias": ("none", "all"), "nope_every": ONE_OR_MORE},
        fixed=LLAMA_FIXED,
        dropouts={"attention_dropout": ""},
        written=_written_nope,
        square=True,
    ),
    "olmo2": Family(
        title="OLMo 2",
        architectures={"decoder": "Olmo2ForCausalLM", "classifier": "Olmo2ForSequenceClassification"},
        fields=LLAMA_FIELDS,
        given=_head_dim,
        thought=("head_dim",),
        parts=LLAMA_PARTS | {"normed": ("outputs",), "qk_norm": ("whole",)},
        fixed=LLAMA_FIXED | {"attention_bias": (False,)},
        dropouts={"attention_dropout": ""},
        neutral={"mlp_bias": (False,)},
        square=True,
    ),
    "bert": Family(
        title="BERT",
        architectures={"masked_lm": "BertForMaskedLM", "classifier": "BertForSequenceClassification"},
        fields=BERT_FIELDS,
        given=lambda theirs: {},
        parts=BERT_PARTS | {"first_position": (0,)},
        fixed=BERT_FIXED,
        dropouts=BERT_DROPOUTS,
        neutral=BERT_NEUTRAL,
    ),
    "distilbert": Family(
        title="DistilBERT",
        architectures={"masked_lm": "DistilBertForMaskedLM", "classifier": "DistilBertForSequenceClassification"},
        fields={"dim": "d_model", "hidden_dim": "d_mlp", "n_layers": "layers", "n_heads": "heads"},
        given=lambda theirs: {},
        # norm_eps: not in its config.json but in the code of transformers
        parts={"kind": ("encoder",), "head": ("relu",), "segments": (0,), "first_position": (0,), "norm_eps": (1e-12,)},
        fixed={"activation": ("gelu",), "sinusoidal_pos_embds": (False, True), "tie_word_embeddings": (True,)},
        dropouts={"dropout": "dropout", "attention_dropout": "", "seq_classif_dropout": "dropout"},
        neutral={"tie_weights_": (True,)},
    ),
    "roberta": Family(
        title="RoBERTa",
        architectures={"masked_lm": "RobertaForMaskedLM", "classifier": "RobertaForSequenceClassification"},
        fields=BERT_FIELDS,
        given=_first_position,
        thought=("pad_token_id",),
        parts=BERT_PARTS | {"first_position": ONE_OR_MORE},
        fixed=BERT_FIXED,
        dropouts=BERT_DROPOUTS,
        neutral=BERT_NEUTRAL,
    ),
}
"""`model_type` of config.json → what we know of it."""
