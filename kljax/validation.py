"""From the composed dictionary to a validated config, or to one sentence for the person who wrote it."""

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import pydantic
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from kljax.config import (
    Config,
    DecoderConfig,
    EncoderConfig,
    HuggingFaceModel,
    Llama3Scaling,
    RandomWordsSource,
    YarnScaling,
)
from kljax.errors import UserError, did_you_mean

Schema = TypeVar("Schema")

WAYS_OUT = {
    "kl.beta": "To train without a penalty, set kl.beta=0.",
    "rollout.temperature": "For greedy decoding, set rollout.temperature=0.",
    "step": "Give the step of a checkpoint, or latest.",
    "reward": "Choose one or more of configs/reward/, as in reward=[sentiment,length], or add your own with +reward.NAME=….",
}


def leaf_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config can have, for suggestions."""
    for field in fields(schema):
        yield prefix + field.name
        for member in _members(typing.get_type_hints(schema)[field.name]):
            yield from leaf_keys(member, f"{prefix}{field.name}.")


def without_defaults(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The dictionary of a `Config`, or a part of it, without fields that have their default.

    These are fields that came later, and the default is what a config means that was written before: with and without them it
    is the same config.
    """
    kept = {}
    for key, value in values.items():
        field = prefix + key
        if field not in (later := _defaults()) or value != later[field]:
            kept[key] = without_defaults(value, f"{field}.") if isinstance(value, Mapping) else value
    return kept


def default_of(field: str) -> Any:
    """What a field of `Config` is where it is not given; `dataclasses.MISSING` where it has no default."""
    return _defaults().get(field, MISSING)


@cache
def _defaults() -> dict[str, Any]:
    return dict(_defaults_of(Config))


def _defaults_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(schema):
        default = getattr(field.default, "default", field.default)
        if default is not MISSING and default is not PydanticUndefined:
            yield prefix + field.name, default
        for member in _members(typing.get_type_hints(schema)[field.name]):
            yield from _defaults_of(member, f"{prefix}{field.name}.")


def _members(hint: Any) -> list[Any]:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    return [option for option in options if is_dataclass(option)]


def validate(values: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """The validated config, or a `UserError` that names the first field that is wrong."""
    try:
        config = TypeAdapter(schema).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UserError(_sentence(error.errors()[0], set(leaf_keys(schema)))) from None
    if isinstance(config, Config):
        _check_consistency(config)
    return config


def _sentence(error: Any, known: set[str]) -> str:
    """One pydantic error as: field, what was given, what was expected, the way out."""
    kind, context = error["type"], error.get("ctx", {})
    way_out = f" {WAYS_OUT[field]}" if (field := _field(error["loc"], known, keep_last=False)) in WAYS_OUT else ""
    unknown_key = kind in ("extra_forbidden", "unexpected_keyword_argument")
    field = _field(error["loc"], known, keep_last=unknown_key)
    if unknown_key and field in known:
        part = field.rpartition(".")[0]
        return f"{field}: not a key of the present choice of {part}; choose it as a whole, with {part.replace('.', '/')}=…"
    if unknown_key:
        return f"{field}: no such config key.{did_you_mean(field, known)}"
    if kind in ("missing", "missing_argument") and field == "reward":  # reward=[] and nothing added
        return f"reward: there is none. {WAYS_OUT['reward']}"
    if kind in ("missing", "missing_argument"):
        return f"{field}: missing, and it has no default; give it as +{field}=…"
    if kind == "union_tag_not_found":
        return f"{field}: its 'kind' is missing."
    if kind in ("literal_error", "union_tag_invalid"):
        names = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        given = str(context.get("tag", error["input"]))
        suffix = ".kind" if kind == "union_tag_invalid" else ""
        return f"{field}{suffix}: got {given!r}, expected one of {', '.join(names)}.{did_you_mean(given, names) or way_out}"
    return f"{field}: got {error['input']!r}, expected {_expected(error)}.{way_out}"


def _field(location: tuple[Any, ...], known: set[str], keep_last: bool) -> str:
    """The dotted key as the user wrote it: pydantic puts the tags of unions into the location."""
    kept: list[str] = []
    for i, part in enumerate(map(str, location)):
        mine = ".".join([*kept, part]) in known or kept[:1] == ["reward"] or (keep_last and i == len(location) - 1)
        if mine:
            kept.append(part)
    return ".".join(kept)


def _expected(error: Any) -> str:
    """What a field wants, in words."""
    bound = next(iter(error.get("ctx", {}).values()), None)
    bound = f"{bound:.15g}" if isinstance(bound, float) else bound
    words = {
        "greater_than_equal": f"a number >= {bound}",
        "greater_than": f"a number > {bound}",
        "less_than_equal": f"a number <= {bound}",
        "less_than": f"a number < {bound}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text",
        "string_pattern_mismatch": "letters, digits, '.', '_', '+' or '-', beginning with a letter or digit",
        "dataclass_type": "a section with keys of its own",
        "dict_type": "a section with keys of its own",
        "too_short": "at least one entry",
    }
    return words.get(error["type"]) or error["msg"].removeprefix("Input should be ")


def _check_consistency(config: Config) -> None:
    """Bounds that involve more than one field."""
    _check_model(config)
    _check_reference(config)
    _check_data(config)
    _check_kept_activations(config)
    if not isinstance(config.model, HuggingFaceModel):
        check_lengths(config, config.model.context)
    if config.run.oracle_every and config.kl.beta == 0:
        raise UserError("run.oracle_every: with kl.beta=0 every best completion is an optimum; set it to 0, or beta above.")
    if config.rollout.temperature == 0:
        raise UserError("rollout.temperature: got 0 (greedy), expected a number > 0 to train: a policy gradient needs samples.")
    for section, optimizer, steps in (
        ("optimizer", config.optimizer, config.steps),
        ("pretrain.optimizer", config.pretrain.optimizer, config.pretrain.steps),
    ):
        if optimizer.warmup_steps >= steps > 0:
            raise UserError(f"{section}.warmup_steps: got {optimizer.warmup_steps}, expected fewer than the {steps} steps.")


def check_lengths(config: Config, context: int) -> None:
    """Refuse sequences that are longer than the model reads."""
    prompt, rollout = config.data.prompt, config.rollout
    longest = prompt.max_tokens + 1 + rollout.max_new_tokens
    if longest > context and config.pretrain.objective.kind == "next_token":
        raise UserError(
            f"data.prompt.max_tokens: a prompt of {prompt.max_tokens} tokens, a beginning-of-sequence token and "
            f"rollout.max_new_tokens={rollout.max_new_tokens} make {longest}, expected at most "
            f"model.context={context}. Shorten one of them or raise model.context."
        )
    if config.pretrain.length > context:
        raise UserError(f"pretrain.length: got {config.pretrain.length}, expected at most model.context={context}.")


def _check_model(config: Config) -> None:
    model = config.model
    blocks = None if isinstance(model, EncoderConfig) else model.vocab_chunk
    if blocks is not None and config.kl.divergence.kind != "reverse_kl":
        raise UserError(
            f"model.vocab_chunk: got {blocks} with kl.divergence={config.kl.divergence.kind}, which needs the whole "
            "vocabulary of a state at once; expected null."
        )
    if config.pretrain.steps == 0 and not isinstance(model, HuggingFaceModel):
        raise UserError(
            f"pretrain.steps: got 0 with model.kind={model.kind}, which has no weights yet; expected a number >= 1, or "
            "model=huggingface."
        )
    if model.param_dtype != "float32" and config.adapter.kind == "none":
        raise UserError(
            f"model.param_dtype: got {model.param_dtype}, expected float32: in it an optimiser's small steps are lost. To hold "
            "frozen weights in it, use adapter=lora."
        )
    if not isinstance(model, HuggingFaceModel):
        check_parts(model)


def check_parts(model: DecoderConfig | EncoderConfig) -> None:
    """Refuse sizes and parts of a model that do not go together."""
    if isinstance(model, EncoderConfig):
        if model.d_model % model.heads:
            raise UserError(
                f"model.heads: got {model.heads}, expected a divisor of model.d_model={model.d_model}: "
                f"{_divisors(model.d_model)}."
            )
        return
    if model.heads % model.kv_heads:
        raise UserError(
            f"model.kv_heads: got {model.kv_heads}, expected a divisor of model.heads={model.heads}: {_divisors(model.heads)}."
        )
    if model.positions == "rotary":
        _check_rotary(model)
    elif model.rope_scaling is not None:
        kind = model.rope_scaling.kind
        raise UserError(f"model.rope_scaling: got {kind} with model.positions={model.positions}, expected null.")
    elif model.nope_every:
        raise UserError(f"model.nope_every: got {model.nope_every} with model.positions={model.positions}, expected 0.")


def _check_rotary(model: DecoderConfig) -> None:
    if model.head_dim % 2:
        raise UserError(f"model.head_dim: got {model.head_dim}, expected an even number for rotary positions.")
    if model.nope_every > model.layers:
        raise UserError(
            f"model.nope_every: got {model.nope_every}, expected at most model.layers={model.layers}, or 0 for none."
        )
    match scaling := model.rope_scaling:
        case Llama3Scaling() if scaling.high_freq_factor <= scaling.low_freq_factor:
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            raise UserError(f"model.rope_scaling.high_freq_factor: got {high}, expected more than low_freq_factor={low}.")
        case YarnScaling() if scaling.beta_fast < scaling.beta_slow:
            slow, fast = scaling.beta_slow, scaling.beta_fast
            raise UserError(f"model.rope_scaling.beta_fast: got {fast}, expected no less than beta_slow={slow}.")
        case YarnScaling() if model.rope_theta == 1:
            raise UserError(
                "model.rope_theta: got 1 with yarn positions, by which all pairs turn alike; expected another base."
            )


def _check_kept_activations(config: Config) -> None:
    """What sampling keeps for the gradient is what the gradient would have kept."""
    model, rollout = config.model, config.rollout
    if not rollout.keep_activations:
        return
    if model.remat != "none":
        raise UserError(
            f"rollout.keep_activations: got true with model.remat={model.remat}, which saves memory by keeping no activations. "
            "Set the one to false or the other to none."
        )
    if rollout.cache_dtype not in (None, model.dtype):
        raise UserError(
            f"rollout.keep_activations: got true with rollout.cache_dtype={rollout.cache_dtype}, but the gradient needs keys "
            f"and values in model.dtype={model.dtype}. Set the one to false or the other to null."
        )


def _check_reference(config: Config) -> None:
    """What the reference is and whether it moves go together in most ways, not in all."""
    reference, refresh = config.reference, config.reference.refresh.kind
    for name in ("revision", "base"):
        if reference.path is None and (given := getattr(reference, name)) is not None:
            raise UserError(f"reference.{name}: got '{given}' without a reference.path, to which it belongs; expected null.")
    if config.adapter.kind == "lora":
        if reference.path is None and reference.dtype != "float32":
            raise UserError(
                f"reference.dtype: got {reference.dtype} with adapter=lora, whose frozen model is the reference and is held "
                "once. To hold it in lower precision, set model.param_dtype."
            )
        if reference.path is not None and refresh != "never":
            raise UserError(
                f"reference.refresh: got {refresh} with adapter=lora and a reference.path, expected never: a reference that "
                "moves is a set of adapters, and the model there is none. Leave out one of the three."
            )
    if reference.memory == "host" and (refresh != "never" or (config.adapter.kind == "lora" and reference.path is None)):
        raise UserError(
            "reference.memory: got host for a reference that is part of what is trained or of the frozen model under it "
            f"(adapter={config.adapter.kind}, reference.refresh={refresh}), expected device."
        )
    if refresh == "average" and reference.dtype != "float32":
        raise UserError(
            f"reference.dtype: got {reference.dtype} with reference/refresh=average, expected float32: small steps of an "
            "average are lost in it."
        )
    if refresh != "never" and config.run.oracle_every:
        raise UserError(
            f"run.oracle_every: the optimum is that of a fixed reference, and reference.refresh is {refresh}; set it to 0."
        )


def _check_data(config: Config) -> None:
    data, prompt = config.data, config.data.prompt
    if isinstance(source := data.source, RandomWordsSource) and source.sentences * source.length < source.words:
        raise UserError(
            f"data.source.sentences: got {source.sentences} of {source.length} words, too few for each of "
            f"data.source.words={source.words} to occur; expected at least {-(-source.words // source.length)}, or fewer words."
        )
    if prompt.kind == "prefix" and prompt.min_tokens > prompt.max_tokens:
        raise UserError(
            f"data.prompt.min_tokens: got {prompt.min_tokens}, expected at most data.prompt.max_tokens={prompt.max_tokens}."
        )
    if prompt.kind == "chat" and "{text}" not in prompt.message:
        raise UserError(f"data.prompt.message: got {prompt.message!r}, expected {{text}} in it, for the row's text.")
    if data.share[0] >= data.share[1]:
        raise UserError(f"data.share: got {data.share}, expected two numbers of which the second is larger.")
    if data.prompt_fraction + data.held_out_fraction >= 1:
        raise UserError("data.prompt_fraction: with data.held_out_fraction it leaves no row to train the base model on.")


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
