"""config.json and our configs: one row a family, which reading and writing share.

Reading goes through transformers' config classes, which know the defaults and the older spellings; what our model cannot do
is refused by the name of its key.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel
from kljax.errors import UserError
from kljax.models.huggingface_names import Kind
from kljax.types import HuggingFaceConfig, Tokenizer

ROPE_THETA = 10000.0  # of a model whose positions are learned: any will do
ONE_OR_MORE = range(1, 2**31)


@dataclass(frozen=True)
class Family:
    """How config.json and our config say the same; the table is at the end of this file."""

    title: str
    architectures: Mapping[Kind, str]  # the class that transformers makes of such a model
    fields: Mapping[str, str]  # their key → our field with the same value
    given: Callable[[Any], dict[str, Any]]  # our fields that take a thought
    parts: Mapping[str, Sequence[Any]]  # our field → the values that this architecture can have
    fixed: Mapping[str, tuple[Any, ...]]  # their key → the values that our model can do; the first is written
    dropouts: Mapping[str, str]  # their key → our field, or "" where we drop nothing; written, never read
    square: bool = False  # heads · head_dim must be d_model


def read(path: Path, name: str) -> HuggingFaceConfig:
    """The config.json of a directory, checked to be of a supported architecture. `name` is how messages begin."""
    file = path / "config.json"
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{name}: '{path}' has no config.json; expected a directory as save_pretrained writes it.") from None
    except ValueError as error:
        raise UserError(f"{name}: cannot read '{file}': {error}.") from None
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if model_type not in FAMILIES:
        supported = ", ".join(f"{family.title} ({key})" for key, family in FAMILIES.items())
        raise UserError(f"{name}: '{path}' is of the architecture {model_type!r}, expected one of {supported}.")
    if raw.get("quantization_config"):
        raise UserError(f"{name}: '{path}' holds quantised weights (quantization_config); expected plain floats.")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path))
    except Exception as error:  # a class of its own for each kind of bad value
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: transformers cannot read '{file}': {reason}") from None


def resolve(theirs: HuggingFaceConfig, source: HuggingFaceModel, name: str) -> DecoderConfig | EncoderConfig:
    """Our config of the same model, with what the source says of dtypes, dropout and context."""
    family = FAMILIES[theirs.model_type]
    _refuse_what_we_cannot_do(theirs, family, f"{name}: '{source.path}'")
    rope = getattr(theirs, "rope_parameters", None) or {}
    values: dict[str, Any] = {part: options[0] for part, options in family.parts.items()}
    if values["kind"] == "decoder":
        values["rope_theta"] = float(rope.get("rope_theta", ROPE_THETA))
    values |= {ours: getattr(theirs, key) for key, ours in family.fields.items()} | family.given(theirs)
    context = theirs.max_position_embeddings - values.get("first_position", 0)
    if source.context is not None and source.context > context:
        raise UserError(
            f"{name}: '{source.path}' was made for {context} tokens at most, got context={source.context}; expected no more, "
            "or null for all."
        )
    values["context"] = source.context or context
    values |= {key: getattr(source, key) for key in ("dropout", "dtype", "param_dtype", "remat", "logit_chunk")}
    if values["kind"] == "decoder":
        values["vocab_chunk"] = source.vocab_chunk
    try:
        return EncoderConfig(**values) if values["kind"] == "encoder" else DecoderConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise UserError(f"{name}: '{source.path}' gives {first['input']!r} for {key}: {first['msg']}.") from None


def _refuse_what_we_cannot_do(theirs: HuggingFaceConfig, family: Family, name: str) -> None:
    for key, allowed in family.fixed.items():
        value = getattr(theirs, key, allowed[0])
        if value not in allowed:
            raise UserError(f"{name} has {key}={value!r}, which kljax does not compute; expected {allowed[0]!r}.")
    rope = getattr(theirs, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{name} scales its rotary positions (rope_type={rope['rope_type']!r}); expected 'default'.")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{name} has partial_rotary_factor={rope['partial_rotary_factor']}, expected 1: whole heads rotate.")
    if any(layer != "full_attention" for layer in getattr(theirs, "layer_types", None) or ()):
        raise UserError(f"{name} has layers with a sliding window (use_sliding_window, layer_types); expected full attention.")
    if getattr(theirs, "mlp_bias", False) != getattr(theirs, "attention_bias", False) and theirs.model_type == "llama":
        raise UserError(
            f"{name} has attention_bias={theirs.attention_bias} and mlp_bias={theirs.mlp_bias}; expected both true, or both "
            "false: a kljax decoder has biases on every matrix, on queries, keys and values, or on none."
        )


def family_of(config: DecoderConfig | EncoderConfig, kind: Kind) -> str:
    """The `model_type` whose parts these are. Where there is none, UserError says what stands in the way of the nearest."""
    misfits = {key: list(_misfits(config, family)) for key, family in FAMILIES.items() if config.kind in family.parts["kind"]}
    nearest = min(misfits, key=lambda key: len(misfits[key]))
    if misfits[nearest]:
        raise UserError(
            f"model: no Hugging Face architecture has these parts; the nearest, {FAMILIES[nearest].title}, would need "
            f"{', '.join(misfits[nearest])}."
        )
    if kind not in FAMILIES[nearest].architectures:
        raise ValueError(f"a model of kind {config.kind} is no {kind}")
    return nearest


def check_tokenizer_of(model_type: str, config: DecoderConfig | EncoderConfig, tokenizer: Tokenizer) -> None:
    """UserError where transformers would read this tokenizer, or positions, otherwise than we do."""
    made = type(tokenizer).__name__
    if model_type == "qwen2" and made.removesuffix("Fast") != "Qwen2Tokenizer":
        raise UserError(
            f"tokenizer: transformers makes a Qwen2Tokenizer of whatever lies beside a Qwen2 model, and this is a {made}; "
            "expected Qwen2's own, or model.bias=none or all, which is Llama."
        )
    pad = tokenizer.pad_token_id
    if isinstance(config, EncoderConfig) and model_type == "roberta" and pad != config.first_position - 1:
        raise UserError(
            f"model.first_position: got {config.first_position}, but RoBERTa's positions begin after the padding token's id, "
            f"which is {pad} in this tokenizer; expected {pad} + 1."
        )


def _misfits(config: DecoderConfig | EncoderConfig, family: Family) -> Iterator[str]:
    for part, options in family.parts.items():
        value = getattr(config, part)
        if value not in options:
            expected = "at least 1" if options is ONE_OR_MORE else " or ".join(_spell(option) for option in options)
            yield f"model.{part}={expected} (it is {_spell(value)})"
    if family.square and isinstance(config, DecoderConfig) and config.heads * config.head_dim != config.d_model:
        head_dim = config.d_model / config.heads
        yield f"model.head_dim={head_dim:g}, d_model/heads (it is {config.head_dim})"
    if "kv_heads" not in family.fields.values() and isinstance(config, DecoderConfig) and config.kv_heads != config.heads:
        yield f"model.kv_heads={config.heads}, as many as heads (it is {config.kv_heads})"


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_json(
    config: DecoderConfig | EncoderConfig, kind: Kind, vocab_size: int, dtype: str, ids: Mapping[str, int | None]
) -> dict[str, Any]:
    """The config.json of this model; `ids` are those of the special tokens (bos_token_id, …)."""
    model_type = family_of(config, kind)
    family = FAMILIES[model_type]
    values = {"architectures": [family.architectures[kind]], "model_type": model_type, "vocab_size": vocab_size, "dtype": dtype}
    values |= {key: getattr(config, ours) for key, ours in family.fields.items()}
    values["n_positions" if model_type == "gpt2" else "max_position_embeddings"] = position_rows(config)
    values |= {key: allowed[0] for key, allowed in family.fixed.items()}
    values |= {key: getattr(config, ours) if ours else 0.0 for key, ours in family.dropouts.items()}
    if isinstance(config, DecoderConfig) and config.positions == "rotary":
        values["rope_theta"] = config.rope_theta  # every version of transformers reads it, unlike rope_parameters
    if model_type == "llama":
        values["attention_bias"] = values["mlp_bias"] = config.bias == "all"  # pyright: ignore
    return values | dict(ids)


def position_rows(config: DecoderConfig | EncoderConfig) -> int:
    """Rows of the table of positions, or the positions that a rotary model was made for."""
    return config.context + (config.first_position if isinstance(config, EncoderConfig) else 0)


def head_json(outputs: int, labels: Sequence[str]) -> dict[str, Any]:
    """What config.json says of a classifier's outputs; without labels they are numbered."""
    labels = labels or [f"LABEL_{i}" for i in range(outputs)]
    if len(labels) != outputs:
        raise ValueError(f"{len(labels)} labels for {outputs} outputs")
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "regression" if outputs == 1 else "single_label_classification",
    }


LLAMA_FIELDS = {
    "hidden_size": "d_model",
    "intermediate_size": "d_mlp",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
}
LLAMA_PARTS = {"kind": ("decoder",), "positions": ("rotary",), "norm": ("rms",), "mlp": ("swiglu",)}
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
        parts={
            "kind": ("decoder",),
            "positions": ("learned",),
            "norm": ("layer",),
            "mlp": ("gelu",),
            "bias": ("all",),
            "qk_norm": (False,),
        },
        fixed={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of the tanh form
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        dropouts={"resid_pdrop": "dropout", "embd_pdrop": "dropout", "attn_pdrop": ""},
        square=True,
    ),
    "llama": Family(
        title="Llama",
        architectures={"decoder": "LlamaForCausalLM", "classifier": "LlamaForSequenceClassification"},
        fields=LLAMA_FIELDS | {"head_dim": "head_dim"},
        given=lambda theirs: {"bias": "all" if theirs.attention_bias else "none"},
        parts=LLAMA_PARTS | {"bias": ("none", "all"), "qk_norm": (False,)},
        fixed={"hidden_act": ("silu", "swish")},
        dropouts={"attention_dropout": ""},
    ),
    "qwen2": Family(
        title="Qwen2",
        architectures={"decoder": "Qwen2ForCausalLM", "classifier": "Qwen2ForSequenceClassification"},
        fields=LLAMA_FIELDS,
        given=lambda theirs: {
            "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
        },
        parts=LLAMA_PARTS | {"bias": ("qkv",), "qk_norm": (False,)},
        fixed={"hidden_act": ("silu", "swish")},
        dropouts={"attention_dropout": ""},
        square=True,
    ),
    "qwen3": Family(
        title="Qwen3",
        architectures={"decoder": "Qwen3ForCausalLM", "classifier": "Qwen3ForSequenceClassification"},
        fields=LLAMA_FIELDS | {"head_dim": "head_dim"},
        given=lambda theirs: {},
        parts=LLAMA_PARTS | {"bias": ("none",), "qk_norm": (True,)},
        fixed={"hidden_act": ("silu", "swish"), "attention_bias": (False,)},
        dropouts={"attention_dropout": ""},
    ),
    "bert": Family(
        title="BERT",
        architectures={"masked_lm": "BertForMaskedLM", "classifier": "BertForSequenceClassification"},
        fields=BERT_FIELDS,
        given=lambda theirs: {},
        parts=BERT_PARTS | {"first_position": (0,)},
        fixed=BERT_FIXED,
        dropouts=BERT_DROPOUTS,
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
    ),
    "roberta": Family(
        title="RoBERTa",
        architectures={"masked_lm": "RobertaForMaskedLM", "classifier": "RobertaForSequenceClassification"},
        fields=BERT_FIELDS,
        given=lambda theirs: {"first_position": theirs.pad_token_id + 1},  # so transformers counts
        parts=BERT_PARTS | {"first_position": ONE_OR_MORE},
        fixed=BERT_FIXED,
        dropouts=BERT_DROPOUTS,
    ),
}
"""`model_type` of config.json → what we know of it."""
