"""adapter_config.json, as PEFT writes it beside a LoRA adapter's weights.

Whatever stands there is used, or has no effect on what a trained adapter computes, or is refused by its key.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from kljax import isolated, reading
from kljax.config import AboveZero, Positive
from kljax.errors import UserError

FILE = "adapter_config.json"
ALL_LINEAR = "all-linear"
END, PART = r"(?:.*\.)?(?:%s)", r"(?:.*\.)?(?:%s)(?:\..*)?"  # of a module's name, or of that of what it is a part of
REPEATS = {*"*+{(?"}
"""Parts of a pattern of which the search may take without end: repetitions, and groups, each of which may have two ways."""

WITHOUT_EFFECT = (
    "peft_version", "inference_mode", "lora_dropout", "bias", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "runtime_config",
)  # fmt: skip
"""Keys that change training alone, or say what the tensors say: biases are whole tensors, and a Conv1D lies [in, out], which
PEFT knows from the layer, too, whatever fan_in_fan_out is."""

HARMLESS_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base's weights as they are."""

CLASSES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForMaskedLM": "MASKED_LM",
}
"""Ends of the names of transformers' classes, which stand in place of a task_type where that is null."""

MERGE = "PEFT's merge_and_unload(), where it can, and save_pretrained(DIR) make a whole model of it, which kljax reads"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore", allow_inf_nan=False, strict=True))
class AdapterConfig:
    """The part of adapter_config.json that is used. The defaults are PEFT's."""

    r: Positive
    lora_alpha: AboveZero
    target_modules: Annotated[str, Field(min_length=1)] | list[str]
    use_rslora: bool = False
    rank_pattern: dict[str, Positive] | None = None
    alpha_pattern: dict[str, AboveZero] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    task_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None  # of the base
    ensure_weight_tying: bool = False  # what is named of embedding and output matrix stands for both

    @property
    def task(self) -> str | None:
        """CAUSAL_LM, SEQ_CLS, …; None where the file does not say."""
        trained = str((self.auto_mapping or {}).get("base_model_class"))
        return self.task_type or next((task for end, task in CLASSES.items() if trained.endswith(end)), None)

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Of the product beside this module."""
        rank, alpha = _chosen(self.rank_pattern, module, self.r), _chosen(self.alpha_pattern, module, self.lora_alpha)
        return rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str, is_linear: bool) -> bool:
        """Whether PEFT puts a product beside this module."""
        saved = any(_matches(name, module, PART) for name in self.modules_to_save or ())
        if saved or (self.exclude_modules and _named(self.exclude_modules, module)):
            return False
        if isinstance(self.target_modules, str):
            return is_linear if self.target_modules.lower() == ALL_LINEAR else _named(self.target_modules, module)
        return _named(self.target_modules, module) and self._has_layer(module)

    def saves(self, module: str) -> bool:
        """Whether modules_to_save names it, or what it is a part of. PEFT takes what ends so: `norm` is every norm."""
        return any(f"{name}." in f"{module}." for name in self.modules_to_save or ())

    def _has_layer(self, module: str) -> bool:
        chosen = self.layers_to_transform
        if chosen is None or chosen == []:
            return True
        parts = module.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        given = self.layers_pattern or ()
        patterns = [given] if isinstance(given, str) else given
        before = ".".join(parts[:at])
        named = any(_matches(pattern, before, END) for pattern in patterns) if patterns else at > 1
        return bool(at) and named and int(parts[at]) in (chosen if isinstance(chosen, list) else [chosen])


def read(file: Path, name: str) -> AdapterConfig:
    """The file, checked; `name` is how messages begin. UserError where it is no LoRA, or one that does more than kljax."""
    try:
        raw = reading.read_json(file)
    except FileNotFoundError:
        raise UserError(f"{name} has no {FILE}, which says what its weights are; expected what PEFT writes.") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: cannot read '{file}': {error}.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{name}: '{file}' holds no JSON object; expected what PEFT writes.")
    if raw.get("peft_type") != "LORA":
        raise UserError(f"{name} has peft_type={raw.get('peft_type')!r}; expected 'LORA'. {MERGE}.")
    if (begun := raw.get("init_lora_weights")) not in HARMLESS_BEGINNINGS:
        raise UserError(
            f"{name} has init_lora_weights={begun!r}, which changes the weights of its base, too; expected an adapter for the "
            "base as it is: PEFT's save_pretrained makes one, with path_initial_model_for_weight_conversion=DIR of the "
            f"adapter before training. Or {MERGE}."
        )
    used = {field.name for field in fields(AdapterConfig)}  # pyright: ignore
    for key, value in raw.items():
        is_off = value is None or value is False or value in ("", [], {})
        if not is_off and key not in (*used, "peft_type", "init_lora_weights", *WITHOUT_EFFECT):
            raise UserError(f"{name} has {key}={value!r}, which kljax does not compute; expected null or false. {MERGE}.")
    try:
        config = AdapterConfig(**{key: raw[key] for key in used & raw.keys()})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        given = f"{key}={raw[key]!r}" if key in raw else f"no {key}"
        raise UserError(f"{name} has {given}: {first['msg']}.") from None
    _check_patterns(config, name)
    return config


def _check_patterns(config: AdapterConfig, name: str) -> None:
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern"):
        value = getattr(config, key) or ()
        for pattern in [value] if isinstance(value, str) else value:
            try:
                re.compile(rf"(?:{pattern})")
            except (re.error, OverflowError, RecursionError) as error:
                raise UserError(f"{name} has {pattern!r} in {key}, which is no regular expression: {error}.") from None


def _chosen(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that is this module's name, or an end of it."""
    found = (value for pattern, value in (patterns or {}).items() if _matches(pattern, module, END))
    return next(found, default)


def _named(patterns: str | list[str], module: str) -> bool:
    """By one regular expression, or by the ends of names."""
    if isinstance(patterns, str):
        return _matches(patterns, module)
    return any(f".{module}".endswith(f".{name}") for name in patterns)


@lru_cache(maxsize=4096)
def _matches(pattern: str, name: str, around: str = "%s") -> bool:
    """Whether a pattern from somebody's file, with what is `around` it, matches the whole name. It may search without end."""
    whole = around.replace("%s", pattern)
    if not REPEATS & {*pattern}:
        return re.fullmatch(whole, name) is not None
    try:
        return bool(isolated.call("matching", whole, [name], seconds=0.5))
    except (isolated.Stopped, isolated.Failed) as error:
        raise UserError(f"{FILE}: the pattern {pattern[:80]!r} {error}; expected a simpler one, or names of modules.") from None
