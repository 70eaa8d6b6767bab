"""Rotary positions as config.json has them, to ours and back: `rope_theta` beside `rope_scaling`, or all in `rope_parameters`.

What transformers makes of an older spelling is taken from its config class; what contradicts itself or is not computed here is
refused by its key.
"""

import math
from collections.abc import Mapping
from typing import Any

from kljax.config import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from kljax.errors import UserError
from kljax.types import HuggingFaceConfig

PLAIN = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
TYPES: Mapping[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate",
    },
}  # fmt: skip
"""`rope_type` → the keys that go with it, beside those of PLAIN."""
KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings", "partial_rotary_factor")
"""The keys of config.json itself that speak of rotary positions."""


def check(raw: Mapping[str, Any], where: str) -> None:
    """UserError where a config.json says of its positions what kljax does not compute, or two things at once.

    `where` is how messages begin.
    """
    said = {key: raw[key] for key in ("rope_scaling", "rope_parameters") if raw.get(key)}
    for key, values in said.items():
        if not isinstance(values, dict):
            raise UserError(f"{where} has {key}={values!r}; expected a mapping.")
    if len(said) == 2 and said["rope_scaling"] != said["rope_parameters"]:
        raise UserError(f"{where} has rope_scaling and rope_parameters that say different things; expected one of them.")
    for key, values in said.items():
        _check_mapping(values, f"{where} has {key}.")
        for twice in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
            if twice in values and raw.get(twice, values[twice]) != values[twice]:
                raise UserError(f"{where} has {twice}={raw[twice]!r}, but {values[twice]!r} in {key}; expected one of them.")
    for section, values in {"": raw, **{f"{key}.": values for key, values in said.items()}}.items():
        if (part := values.get("partial_rotary_factor")) not in (None, 1):
            raise UserError(
                f"{where} has {section}partial_rotary_factor={part!r}, which kljax does not compute; expected 1: whole heads "
                "rotate."
            )


def _check_mapping(values: Mapping[str, Any], beginning: str) -> None:
    kind = values.get("rope_type", values.get("type", "default"))
    if values.get("type", kind) != kind:
        raise UserError(f"{beginning}rope_type={kind!r} and type={values['type']!r}; expected one of them.")
    if not isinstance(kind, str) or kind not in TYPES:
        raise UserError(
            f"{beginning}{'rope_type' if 'rope_type' in values else 'type'}={kind!r}, which kljax does not compute; expected "
            f"one of {', '.join(TYPES)}."
        )
    if odd := [key for key, value in values.items() if key not in TYPES[kind] | PLAIN and value is not None]:
        known = ", ".join(sorted(TYPES[kind])) or "nothing"
        raise UserError(
            f"{beginning}{odd[0]}={values[odd[0]]!r}, which is no part of {kind!r} positions; expected {known} beside "
            "rope_theta."
        )


def read(theirs: HuggingFaceConfig) -> tuple[float, dict[str, Any] | None]:
    """The base, and what makes a `RopeScaling`, of a config that `check` has seen. ValueError: the rest of a sentence."""
    rope: dict[str, Any] = dict(theirs.rope_parameters or {})  # pyright: ignore
    if not _is_number(rope.get("rope_theta")):
        raise ValueError(f"has rope_theta={rope.get('rope_theta')!r}; expected a number")
    theta, kind, factor = float(rope["rope_theta"]), rope["rope_type"], rope.get("factor")
    if (above := getattr(theirs, "original_max_position_embeddings", None)) is not None:
        rope["original_max_position_embeddings"] = above  # beside the mapping: transformers heeds it when it makes the model
    if kind == "default":
        return theta, None
    original = rope.get("original_max_position_embeddings")
    if kind == "yarn" and factor is None and original:
        factor = theirs.max_position_embeddings / original
    numbers = {key: rope[key] for key in TYPES[kind] - {"truncate"} if rope.get(key) is not None} | {"factor": factor}
    if odd := [key for key, value in numbers.items() if not _is_number(value)]:
        raise ValueError(f"has {odd[0]}={numbers[odd[0]]!r} for {kind} positions; expected a number")
    if kind == "linear":
        return theta, {"kind": kind, "factor": factor}
    if kind == "llama3":
        return theta, {
            "kind": kind,
            "factor": factor,
            "low_freq_factor": numbers.get("low_freq_factor"),
            "high_freq_factor": numbers.get("high_freq_factor"),
            "original_context": original,
        }
    return theta, {
        "kind": kind,
        "factor": factor,
        "attention_factor": _attention_factor(numbers),
        "beta_fast": numbers.get("beta_fast") or 32,
        "beta_slow": numbers.get("beta_slow") or 1,
        "truncate": rope.get("truncate", True),
        "original_context": original,
    }


def _attention_factor(rope: Mapping[str, Any]) -> float:
    """As said, or 0.1·ln(factor) + 1, or a quotient of two such numbers (DeepSeek's mscale)."""
    if "attention_factor" in rope:
        return float(rope["attention_factor"])

    def size(scale: float) -> float:
        return 0.1 * scale * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    both = rope.get("mscale"), rope.get("mscale_all_dim")
    return size(both[0]) / size(both[1]) if both[0] and both[1] else size(1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def to_json(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys of config.json. Every version of transformers reads rope_theta and rope_scaling, unlike rope_parameters."""
    values: dict[str, Any] = {"rope_theta": theta}
    match scaling:
        case LinearScaling():
            values["rope_scaling"] = {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            values["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
        case YarnScaling():
            values["rope_scaling"] = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "attention_factor": scaling.attention_factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
                "original_max_position_embeddings": scaling.original_context,
            }
        case None:
            pass
    return values
