"""Keys of config.json: each of its keys is used, known to change no number that is computed here, or refused by its name.

A key that transformers knows and this file does not is taken where it has its default, with which older files are read, too.
A key that nobody knows is refused: whoever wrote it meant something by it. Only null means nothing anywhere.
"""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from kljax import json_text, reading
from kljax.errors import UserError, did_you_mean
from kljax.models.huggingface import generation_settings, rope
from kljax.models.huggingface.families import Family
from kljax.types import HuggingFaceConfig

LONGEST = 80  # characters of a value in a message

USED = frozenset({
    "model_type", "architectures", "vocab_size", "max_position_embeddings", "tie_word_embeddings",
    "id2label", "label2id", "num_labels", "_num_labels", "problem_type", "quantization_config", "auto_map",
})  # fmt: skip
"""Of every family, beside what its row of the table names."""

WINDOWS = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})
"""Where the class of a family with rotary positions has them; `configs` refuses a window that matters."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, []),
    "per_layer_config": ({},),
}
"""Keys of every family → the values that say what we do."""

NO_EFFECT = frozenset({
    # who wrote the file, and how numbers lie in it: dtypes are read from the weights, and model.dtype is ours to choose
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "transformers.js_config", "unsloth_version",
    "unsloth_fixed", "finetuning_task", "dtype", "torch_dtype", "use_bfloat16",
    # how the same is computed
    "use_cache", "output_past", "gradient_checkpointing", "chunk_size_feed_forward", "pretraining_tp", "torchscript",
    "reorder_and_upcast_attn", "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "experts_implementation",
    # what a call returns
    "output_attentions", "output_hidden_states", "return_dict", "tie_last_hidden_states",
    # training from the beginning, and dropout, which is model.dropout
    "initializer_range", "initializer_factor", "classifier_dropout", "qa_dropout", "neftune_noise_alpha", "tf_legacy_loss",
    # heads that kljax refuses to read (GPT2DoubleHeadsModel), and sizes of a pooler that transformers never read
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
    "pooler_type", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
    # a decoder is one; of an encoder it is one of its row's `fixed`
    "is_decoder",
    # special tokens, which the tokenizer and the run know; RoBERTa's positions are in its row
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id",
    "decoder_start_token_id", "tokenizer_class",
})  # fmt: skip
"""Keys with which every number that is computed here is the same."""

GENERATION = generation_settings.FIELDS | {"task_specific_params"}
"""How text is written with the model, of older files: generation_settings reads them."""


LARGEST_NUMBER = 2**31 - 1  # of a whole number
MOST_LAYERS, MOST_LABELS = 10_000, 100_000
COUNTS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), MOST_LAYERS),
    **dict.fromkeys(("num_labels", "_num_labels"), MOST_LABELS),
}
"""Keys for which transformers' config classes make a list of so many entries, and the most that are taken."""

TASKS = (
    "Model", "ForPreTraining", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
    "ForNextSentencePrediction", "DoubleHeadsModel",
)  # fmt: skip
"""Endings of classes whose body is that of the family, whatever their head. (BertLMHeadModel is no encoder.)"""


def load(file: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file. UserError where it is none, or has a key twice. `name` is how messages begin."""
    try:
        values = reading.read_json(file)
    except FileNotFoundError:
        raise UserError(
            f"{name}: '{file.parent}' has no {file.name}; expected a directory as save_pretrained writes it."
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: cannot read '{file}': {error}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: '{file}' holds {shown(values)}; expected a JSON object.")
    return values


def check_readable(raw: Mapping[str, Any], family: Family, where: str) -> None:
    """UserError where the weights are no plain floats, where code that is not ours says what is computed with them, where
    positions are not computed here, or where a number is no size of a model. `where` is how messages begin.
    """
    for key, value in raw.items():
        most = COUNTS.get(key, LARGEST_NUMBER)
        if isinstance(value, int) and abs(value) > most:
            raise UserError(f"{where} has {key}={shown(value)}; expected a number of at most {most:,}.")
    if raw.get("quantization_config"):
        raise UserError(f"{where} holds quantised weights (quantization_config); expected plain floats.")
    if raw.get("auto_map"):
        raise UserError(
            f"{where} has code of its own (auto_map={shown(raw['auto_map'])}), which kljax does not run; if the classes of "
            "transformers compute the same, delete auto_map from config.json."
        )
    if raw.get("attribute_map"):  # transformers would follow it, and read other keys than those that we look at
        raise UserError(f"{where} renames keys (attribute_map={shown(raw['attribute_map'])}); expected the family's own names.")
    if _is_rotary(family):
        rope.check(raw, where)


def check(raw: Mapping[str, Any], theirs: HuggingFaceConfig, family: Family, where: str) -> None:
    """UserError where a key of config.json is not used, is none of those that change nothing, or contradicts another."""
    _check_classes(raw, theirs, family, where)
    defaults = {field.name: field.default for field in fields(type(theirs))}  # pyright: ignore
    known = keys_of(family, defaults)
    neutral = {key: values for key, values in {**NEUTRAL, **family.neutral}.items() if key not in family.fixed}
    said = {key: value for key, value in raw.items() if value is not None}
    for key in said.keys() & neutral.keys():
        if said[key] not in neutral[key]:
            expected = shown(neutral[key][0])
            raise UserError(f"{where} has {key}={shown(said[key])}, which kljax does not compute; expected {expected}.")
    for key, value in said.items():
        if key in type(theirs).attribute_map or key in family.fields:
            _check_alias(key, value, theirs, where)
        elif key not in known and (key not in defaults or not _same(value, defaults[key])):
            hint = did_you_mean(key, sorted(known - GENERATION))
            raise UserError(
                f"{where} has {key}={shown(value)}, which is no key of {family.title} that kljax knows, so that it may change "
                f"what the model computes.{hint} If it does not, delete it from config.json (in a copy of the directory, if "
                "others need it)."
            )
    if raw.get("n_ctx") not in (None, theirs.max_position_embeddings):
        raise UserError(
            f"{where} has n_ctx={shown(raw['n_ctx'])} and n_positions={theirs.max_position_embeddings}; expected one number."
        )


def keys_of(family: Family, of_its_class: Collection[str]) -> set[str]:
    """All keys that are used, or known to change nothing, in such a model's config.json."""
    known = {*USED, *family.fields, *family.fixed, *family.dropouts, *family.thought, *family.neutral}
    if _is_rotary(family):
        known |= {"sliding_window", "layer_types", "max_window_layers", *rope.KEYS}  # the last but one says where windows begin
        known |= {key for key in WINDOWS if key in of_its_class}
    return known | NEUTRAL.keys() | NO_EFFECT | GENERATION


def _is_rotary(family: Family) -> bool:
    return "rotary" in family.parts.get("positions", ())


def _check_classes(raw: Mapping[str, Any], theirs: HuggingFaceConfig, family: Family, where: str) -> None:
    for key in ("id2label", "label2id"):
        if not isinstance(raw.get(key) or {}, dict):
            raise UserError(f"{where} has {key}={shown(raw[key])}; expected a mapping.")
    named = raw.get("architectures") or []
    known = {*family.architectures.values(), *(stem(theirs) + task for task in TASKS)}
    if not isinstance(named, list) or not {*map(str, named)} <= known:
        raise UserError(
            f"{where} has architectures={shown(named)}, of which kljax does not know what they compute; expected "
            f"{' or '.join(family.architectures.values())}, if that is the same."
        )
    count = len(raw.get("id2label") or ())
    for key in ("num_labels", "_num_labels"):
        if count and raw.get(key) not in (None, count):
            raise UserError(f"{where} has {key}={shown(raw[key])}, but {count} names in id2label; expected as many.")


def stem(theirs: HuggingFaceConfig) -> str:
    """Beginning of the names of the family's classes."""
    return type(theirs).__name__.removesuffix("Config")


def _check_alias(key: str, value: Any, theirs: HuggingFaceConfig, where: str) -> None:
    """Two keys may say the same, and transformers follows one of them."""
    names = type(theirs).attribute_map
    read = getattr(theirs, names.get(key, key))
    if value != read:
        others = [key, *(other for other, theirs_key in names.items() if key in (other, theirs_key))]
        raise UserError(
            f"{where} has {key}={shown(value)}, but another key says {shown(read)} ({', '.join(sorted({*others}))}); expected "
            "one of them."
        )


def _same(value: Any, default: Any) -> bool:
    return default is not MISSING and value == default and isinstance(value, bool) == isinstance(default, bool)


def shown(value: Any) -> str:
    """A value as it stands in the file, cut where it is long."""
    return json_text.shown(value, LONGEST)
