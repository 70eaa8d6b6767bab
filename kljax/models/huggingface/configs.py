"""config.json and our configs, by the table of families, which reading and writing share.

Reading goes through transformers' config classes, which know the defaults and the older spellings; what our model cannot do
is refused by the name of its key.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel
from kljax.config.validation import MOST_ANGLES, check_parts
from kljax.errors import UserError
from kljax.models.huggingface import keys, rope
from kljax.models.huggingface.families import FAMILIES, ONE_OR_MORE, Family
from kljax.models.huggingface.names import Kind
from kljax.types import HuggingFaceConfig, Tokenizer

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]

ROPE_THETA = 10000.0  # of a model whose positions are learned: any will do


def read(path: Path, name: str) -> HuggingFaceConfig:
    """The config.json of a directory, checked to be of a supported architecture and to say nothing that is not used.

    `name` is how messages begin.
    """
    file, where = path / "config.json", f"{name}: '{path}'"
    raw = keys.load(file, name)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        supported = ", ".join(f"{family.title} ({key})" for key, family in FAMILIES.items())
        raise UserError(f"{where} is of the architecture {model_type!r}, expected one of {supported}.")
    keys.check_readable(raw, FAMILIES[model_type], where)
    from transformers import AutoConfig

    try:
        theirs = AutoConfig.from_pretrained(str(path), trust_remote_code=False)  # None would ask, and run it after a "y"
    except Exception as error:  # a class of its own for each kind of bad value
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: transformers cannot read '{file}': {reason}") from None
    if theirs.model_type != model_type:  # Mistral's with layer_types are another family to transformers
        raise UserError(f"{where} is of the architecture {theirs.model_type!r} to transformers, expected {model_type!r}.")
    keys.check(raw, theirs, FAMILIES[model_type], where)
    return theirs


def resolve(theirs: HuggingFaceConfig, source: HuggingFaceModel, name: str) -> DecoderConfig | EncoderConfig:
    """Our config of the same model, with what the source says of dtypes, dropout and context."""
    family, where = FAMILIES[theirs.model_type], f"{name}: '{source.path}'"
    _refuse_what_we_cannot_do(theirs, family, where)
    values: dict[str, Any] = {part: options[0] for part, options in family.parts.items()}
    values |= {ours: getattr(theirs, key) for key, ours in family.fields.items()}
    try:
        values |= family.given(theirs)
        if values["kind"] == "decoder":
            rotary = values["positions"] == "rotary"
            values["rope_theta"], values["rope_scaling"] = rope.read(theirs) if rotary else (ROPE_THETA, None)
    except ValueError as error:
        raise UserError(f"{where} {error}.") from None
    context = theirs.max_position_embeddings - values.get("first_position", 0)
    if source.context is not None and source.context > context:
        raise UserError(
            f"{where} was made for {context} tokens at most, got context={source.context}; expected no more, or null for all."
        )
    values["context"] = source.context or context
    _check_window(theirs, values["context"], where)
    if values.get("positions") == "rotary":
        _check_context(values, where)
    values |= {key: getattr(source, key) for key in ("dropout", "dtype", "param_dtype", "remat", "logit_chunk")}
    if values["kind"] == "decoder":
        values["vocab_chunk"] = source.vocab_chunk
    return _checked(values, where)


def check_claim(theirs: HuggingFaceConfig, kind: Kind, beginning: str) -> None:
    """UserError where config.json names classes, and neither the one for this kind nor, for a decoder, the body alone."""
    expected, claimed = FAMILIES[theirs.model_type].architectures[kind], theirs.architectures or []
    body = [keys.stem(theirs) + "Model"] if kind == "decoder" else []
    if claimed and not {expected, *body} & {*claimed}:
        raise UserError(
            f"{beginning} is a {claimed[0]} by its config.json (architectures); expected a {expected}. What that class of "
            "transformers has read from it and written again, by save_pretrained, is one."
        )


def problem_of(theirs: HuggingFaceConfig, outputs: int, where: str) -> Problem:
    """Meaning of a classification head's outputs: one score or several, classes of which one is right, or any number.

    As problem_type says; without it one output is a score, and several are classes, as they are in nearly every model.
    """
    names = theirs.id2label or {}
    if outputs and ({*names} != {*range(outputs)} or len({*names.values()}) < outputs):
        raise UserError(f"{where} has id2label={keys.shown(names)}; expected a name of its own for each of 0 to {outputs - 1}.")
    numbers: dict[Any, Any] = dict(theirs.label2id or {})  # left at LABEL_0, … in many a model: no contradiction
    if outputs and (odd := [label for i, label in names.items() if numbers.get(label, i) != i]):
        raise UserError(f"{where} has other numbers in label2id than in id2label for {odd[0]!r}; expected the same.")
    if outputs == 1 and theirs.problem_type == "single_label_classification":
        raise UserError(f"{where} is a single_label_classification (problem_type) with one output; expected two or more.")
    return theirs.problem_type or ("regression" if outputs == 1 else "single_label_classification")  # pyright: ignore


def _checked(values: dict[str, Any], where: str) -> DecoderConfig | EncoderConfig:
    try:
        config = EncoderConfig(**values) if values["kind"] == "encoder" else DecoderConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise UserError(f"{where} gives {first['input']!r} for {key}: {first['msg']}.") from None
    try:
        check_parts(config)
    except UserError as error:
        raise UserError(f"{where} describes a model whose parts do not go together: {error}") from None
    return config


def _refuse_what_we_cannot_do(theirs: HuggingFaceConfig, family: Family, where: str) -> None:
    for key, allowed in family.fixed.items():
        value = getattr(theirs, key, allowed[0])
        if value not in allowed:
            raise UserError(f"{where} has {key}={value!r}, which kljax does not compute; expected {allowed[0]!r}.")


def _check_window(theirs: HuggingFaceConfig, context: int, where: str) -> None:
    """UserError where a token could not look at all before it, with the context in which it could."""
    kinds = set(getattr(theirs, "layer_types", None) or ())
    if odd := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise UserError(f"{where} has layers of the type {odd[0]!r} (layer_types); expected 'full_attention'.")
    window = getattr(theirs, "sliding_window", None)
    if hasattr(type(theirs), "use_sliding_window") and "sliding_attention" not in kinds:
        return  # Qwen's and SmolLM3's classes look at layer_types, Mistral's at the window alone
    if window is not None and not isinstance(window, int):
        raise UserError(f"{where} has sliding_window={window!r}; expected a number of tokens, or null.")
    if window is None and "sliding_attention" in kinds:
        raise UserError(
            f"{where} has layers with a sliding window (layer_types), but no sliding_window; expected full attention."
        )
    if window is not None and window < context:
        raise UserError(
            f"{where} has layers in which a token sees the last {window} tokens alone (sliding_window={window}), and a context "
            f"of {context}; kljax's attention sees all, which is the same up to {window} tokens: expected "
            f"model.context={window} or less, or max_position_embeddings={window} in a copy of its config.json."
        )


def _check_context(values: Mapping[str, Any], where: str) -> None:
    """UserError where the table of angles would be larger than anyone's. No tensor has the length of a rotary context."""
    context, head_dim = values["context"], values["head_dim"]
    whole = all(isinstance(size, int) for size in (context, head_dim))
    if whole and head_dim > 0 and context * head_dim // 2 > MOST_ANGLES:
        most = max(2 * MOST_ANGLES // head_dim, 1)
        raise UserError(
            f"{where} has a context of {context:,} tokens with a head_dim of {head_dim:,}, more than kljax holds positions "
            f"for; expected model.context={most} or less, or max_position_embeddings={most} in a copy of its config.json."
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
        values |= rope.to_json(config.rope_theta, config.rope_scaling)
    return values | family.written(config) | dict(ids)


def position_rows(config: DecoderConfig | EncoderConfig) -> int:
    """Rows of the table of positions, or the positions that a rotary model was made for."""
    return config.context + (config.first_position if isinstance(config, EncoderConfig) else 0)


def head_json(outputs: int, labels: Sequence[str]) -> dict[str, Any]:
    """Labels of a classifier's outputs by config.json; without labels they are numbered."""
    labels = labels or [f"LABEL_{i}" for i in range(outputs)]
    if len(labels) != outputs:
        raise ValueError(f"{len(labels)} labels for {outputs} outputs")
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "regression" if outputs == 1 else "single_label_classification",
    }
