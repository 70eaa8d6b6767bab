"""From the composed dictionary to a validated config, or to one sentence for the person who wrote it."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
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
    OptimizerConfig,
    RandomWordsSource,
    TextSource,
    TextTask,
    YarnScaling,
)
from kljax.config.derived import divisors, with_widths
from kljax.config.mistakes import members, sentence
from kljax.config.pretrain import WRITES
from kljax.config.run import BASES, WRITTEN_BESIDE
from kljax.errors import UserError

Schema = TypeVar("Schema")

MOST_ANGLES = 2**26  # context · head_dim / 2, of which a program holds a cosine and a sine each: 0.5 GB


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
    """The value of a field of `Config` where it is not given; `dataclasses.MISSING` where it has no default."""
    return _defaults().get(field, MISSING)


@cache
def _defaults() -> dict[str, Any]:
    return dict(_defaults_of(Config))


def _defaults_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(schema):
        default = getattr(field.default, "default", field.default)
        if default is not MISSING and default is not PydanticUndefined:
            yield prefix + field.name, asdict(default) if is_dataclass(default) else default  # pyright: ignore
        for member in members(typing.get_type_hints(schema)[field.name]):
            yield from _defaults_of(member, f"{prefix}{field.name}.")


def validate(values: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """The validated config, or a `UserError` that names the first field that is wrong."""
    try:
        config = TypeAdapter(schema).validate_python(with_widths(values))
    except pydantic.ValidationError as error:
        raise UserError(sentence(error.errors(), schema)) from None
    if isinstance(config, Config):
        _check_consistency(config)
    return config


def _check_consistency(config: Config) -> None:
    """Bounds that involve more than one field, and names that are taken."""
    _check_names(config)
    _check_model(config)
    _check_reference(config)
    _check_data(config)
    _check_task(config)
    _check_kept_activations(config)
    if not isinstance(config.model, HuggingFaceModel):
        check_lengths(config, config.model.context)
    if config.run.oracle_every and config.kl.beta == 0:
        raise UserError("run.oracle_every: with kl.beta=0 every best completion is an optimum; set it to 0, or beta above.")
    if config.rollout.temperature == 0:
        raise UserError("rollout.temperature: got 0 (greedy), expected a number > 0 to train: a policy gradient needs samples.")
    check_warmup("pretrain.optimizer", config.pretrain.optimizer, config.pretrain.steps)
    if config.epochs is None:  # otherwise steps follow from the data, and are looked at then
        check_warmup("optimizer", config.optimizer, config.steps)


def _check_names(config: Config) -> None:
    """Refuse a name that kljax has given to something else beside a run's directory; some disks know no capital letters."""
    if config.name.lower() == BASES:
        raise UserError(f"name: got {config.name!r}, which is the folder of fitted models; expected another name.")
    for field, given in (("name", config.name), ("run.variant", config.run.variant)):
        if (writer := WRITTEN_BESIDE.get(given.lower())) is not None:
            raise UserError(f"{field}: got {given!r}, a file that {writer} writes there; expected another name.")


def check_warmup(section: str, optimizer: OptimizerConfig, steps: int) -> None:
    """Refuse a warm-up that does not end."""
    if optimizer.warmup_steps >= steps > 0:
        raise UserError(
            f"{section}.warmup_steps: got {optimizer.warmup_steps}, expected fewer than the {steps} steps. For so short a run "
            f"give {section}.warmup_steps=0."
        )


def check_lengths(config: Config, context: int) -> None:
    """Refuse sequences that are longer than the model reads."""
    prompt, rollout = config.data.prompt, config.rollout
    longest = prompt.max_tokens + 1 + rollout.max_new_tokens
    if longest > context and config.pretrain.objective.kind in WRITES:
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
                f"{divisors(model.d_model)}."
            )
        return
    if model.heads % model.kv_heads:
        raise UserError(
            f"model.kv_heads: got {model.kv_heads}, expected a divisor of model.heads={model.heads}: {divisors(model.heads)}."
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
        raise UserError(
            f"model.head_dim: got {model.head_dim} (model.d_model / model.heads, where it is null), expected an even number "
            "for rotary positions."
        )
    if model.context * model.head_dim // 2 > MOST_ANGLES:
        raise UserError(
            f"model.context: got {model.context} with model.head_dim={model.head_dim}, expected at most "
            f"{max(2 * MOST_ANGLES // model.head_dim, 1)}: a table has the angles of all positions."
        )
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
    """Refuse to keep activations of sampling that are not those which the gradient needs."""
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
    """Refuse a reference and a way of moving that do not go together."""
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
    if refresh != "never" and config.kl.hard_budget is not None:
        raise UserError(
            f"kl.hard_budget: got {config.kl.hard_budget:g} with reference.refresh={refresh}: the KL to one that follows "
            "the policy bounds no distance that it goes; expected null, or a reference that stays."
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


def _check_task(config: Config) -> None:
    """Refuse what would pass over the prompts and targets that a task makes, or ask for a task where there is none."""
    prompt, source, objective = config.data.prompt, config.data.source, config.pretrain.objective
    if not isinstance(config.task, TextTask):
        if name := next((name for name, term in config.reward.items() if term.function == "task"), None):
            raise UserError(f"reward.{name}: it is the task's own reward, and there is no task; choose one with task=….")
        return
    if prompt.kind == "prefix":
        raise UserError(
            "data.prompt: got prefix, which cuts a text; a task makes whole prompts: expected whole or chat "
            "(data/prompt=whole)."
        )
    if isinstance(source, TextSource) and source.column is not None:
        raise UserError(
            f"data.source.column: got '{source.column}', but the task makes the prompts; expected null, and the names of the "
            "data's columns in task.arguments."
        )
    if prompt.kind == "chat" and prompt.words is not None:
        raise UserError(
            f"data.prompt.words: got {prompt.words}, which would cut the prompts that the task makes, their instruction "
            "with them; expected null. Leave long ones out with data.prompt.too_long=drop, or cut texts in a task of your own."
        )
    if config.pretrain.steps and objective.kind != "target":
        raise UserError(
            f"pretrain.objective: got {objective.kind}, which passes over a task's targets; expected target "
            "(pretrain/objective=target), or pretrain.steps=0 to take a model as it is."
        )
    if objective.kind == "target" and objective.column not in (None, "target"):
        raise UserError(f"pretrain.objective.column: got '{objective.column}', but the task makes the targets; expected null.")


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
