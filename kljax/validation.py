"""From the composed dictionary to a validated config, or to one sentence for the person who wrote it."""

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import pydantic
from pydantic import TypeAdapter

from kljax.config import Config
from kljax.errors import UserError, did_you_mean

Schema = TypeVar("Schema")

WAYS_OUT = {
    "kl.beta": "To train without a penalty, set kl.beta=0.",
    "rollout.temperature": "For greedy decoding, set rollout.temperature=0.",
    "step": "Give the step of a checkpoint, or latest.",
    "reward": "Choose one or more of configs/reward/, as in reward=[sentiment,length].",
}


def leaf_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config can have, for suggestions."""
    for field in fields(schema):
        yield prefix + field.name
        for member in _members(typing.get_type_hints(schema)[field.name]):
            yield from leaf_keys(member, f"{prefix}{field.name}.")


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
        "string_type": "text",
        "string_pattern_mismatch": "letters, digits, '.', '_', '+' or '-', beginning with a letter or digit",
        "dataclass_type": "a section with keys of its own",
        "dict_type": "a section with keys of its own",
        "too_short": "at least one entry",
    }
    return words.get(error["type"]) or error["msg"].removeprefix("Input should be ")


def _check_consistency(config: Config) -> None:
    """Bounds that involve more than one field."""
    model, rollout = config.model, config.rollout
    if model.heads % model.kv_heads:
        raise UserError(
            f"model.kv_heads: got {model.kv_heads}, expected a divisor of model.heads={model.heads}: {_divisors(model.heads)}."
        )
    if model.positions == "rotary" and model.head_dim % 2:
        raise UserError(f"model.head_dim: got {model.head_dim}, expected an even number for rotary positions.")
    prompt = config.data.prompt
    if prompt.kind == "prefix" and prompt.min_tokens > prompt.max_tokens:
        raise UserError(
            f"data.prompt.min_tokens: got {prompt.min_tokens}, expected at most data.prompt.max_tokens={prompt.max_tokens}."
        )
    longest = prompt.max_tokens + 1 + rollout.max_new_tokens
    if longest > model.context:
        raise UserError(
            f"data.prompt.max_tokens: a prompt of {prompt.max_tokens} tokens, a beginning-of-sequence token and "
            f"rollout.max_new_tokens={rollout.max_new_tokens} make {longest}, expected at most "
            f"model.context={model.context}. Shorten one of them or raise model.context."
        )
    if config.pretrain.length > model.context:
        raise UserError(f"pretrain.length: got {config.pretrain.length}, expected at most model.context={model.context}.")
    if config.data.prompt_fraction + config.data.held_out_fraction >= 1:
        raise UserError("data.prompt_fraction: with data.held_out_fraction it leaves no row to train the base model on.")
    if config.run.oracle_every and config.kl.beta == 0:
        raise UserError("run.oracle_every: with kl.beta=0 every best completion is an optimum; set it to 0, or beta above.")
    if rollout.temperature == 0:
        raise UserError("rollout.temperature: got 0 (greedy), expected a number > 0 to train: a policy gradient needs samples.")
    for section, optimizer, steps in (
        ("optimizer", config.optimizer, config.steps),
        ("pretrain.optimizer", config.pretrain.optimizer, config.pretrain.steps),
    ):
        if optimizer.warmup_steps >= steps:
            raise UserError(f"{section}.warmup_steps: got {optimizer.warmup_steps}, expected fewer than the {steps} steps.")


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
