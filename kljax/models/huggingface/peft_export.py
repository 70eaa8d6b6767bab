"""LoRA adapters of a decoder, written as PEFT reads them: adapter_config.json, adapter_model.safetensors, the tokenizer."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.tree_util import tree_leaves_with_path
from safetensors.numpy import save_file

from kljax.config import DecoderConfig, LoraAdapter
from kljax.json_text import strict_json_text
from kljax.models.huggingface import configs, files
from kljax.models.huggingface.names import NAMES, Conv1d, Names, find_source
from kljax.models.huggingface.peft_adapters import CONFIG, PREFIX, WEIGHTS
from kljax.models.layers import names_of_layers
from kljax.types import Params, Tokenizer

Pairs = list[tuple[int | None, np.ndarray, np.ndarray]]
"""Of the matrices in one module of the file: which third each is, its A [in, rank] and its B [rank, out]."""


def save(
    out: Path,
    config: DecoderConfig,
    adapter: LoraAdapter,
    params: Params,
    tokenizer: Tokenizer,
    dtype: str,
    *,
    base: str,
    revision: str | None,
    card: str | None = None,
) -> None:
    """Write the adapters `params` so that PEFT adds them to the model in `base` and gets the merged policy.

    All is written beside `out`, then renamed. UserError where `out` is there already, or no Hugging Face architecture has the
    decoder's parts.
    """
    names = NAMES[configs.family_of(config, "decoder")]
    pairs = _by_module(names, params)
    tensors = {}
    for module, parts in pairs.items():
        a, b = _side_by_side(parts)
        for name, matrix in (("lora_A", a), ("lora_B", b)):
            key = f"{PREFIX}{module}.{name}.weight"
            tensors[key] = np.ascontiguousarray(files.as_dtype(matrix.T, np.dtype(dtype), f"dtype: the adapters' '{key}'"))
    values = _to_json(names, adapter, pairs) | {"base_model_name_or_path": base, "revision": revision}
    with files.new_directory(out) as partial:
        (partial / CONFIG).write_text(strict_json_text(values, f"{out}/{CONFIG}", indent=2) + "\n", "utf-8")
        tokenizer.save_pretrained(str(partial))
        if card is not None:
            (partial / files.CARD).write_text(card, "utf-8")
        save_file(tensors, str(partial / WEIGHTS), metadata={"format": "pt"})
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors lets the owner alone read it


def _by_module(names: Names, params: Params) -> dict[str, Pairs]:
    leaves = {}
    for path, leaf in tree_leaves_with_path(params):
        of_layers = names_of_layers([step.key for step in path], leaf)
        leaves |= dict(zip(of_layers, np.asarray(leaf, np.float32), strict=True))
    pairs: dict[str, Pairs] = {}
    for path, leaf in leaves.items():
        if path[-1] == "lora_a":
            *matrix, lora_, _ = path
            source = find_source(names, "decoder", [*matrix, "kernel"], names.prefix)
            pair = leaf, leaves[*matrix, lora_, "lora_b"]
            pairs.setdefault(source.module, []).append((source.third, *pair))
    return pairs


def _side_by_side(parts: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """A and B of the file's module. Thirds of one tensor have one product: their As beside each other, their Bs on a diagonal.

    Its rank is theirs times their number, so that it is exact whichever of them are adapted.
    """
    (third, a, b), *others = parts
    if third is None:
        assert not others
        return a, b
    rank, width = b.shape
    diagonal = np.zeros((rank * len(parts), 3 * width), np.float32)
    for i, (place, _, b) in enumerate(parts):
        diagonal[i * rank : (i + 1) * rank, place * width : (place + 1) * width] = b  # pyright: ignore
    return np.concatenate([a for _, a, _ in parts], axis=1), diagonal


def _to_json(names: Names, adapter: LoraAdapter, pairs: Mapping[str, Pairs]) -> dict[str, Any]:
    counts = {_short(names, module): len(parts) for module, parts in pairs.items()}
    shared = {target: count for target, count in counts.items() if count > 1}
    alpha = int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": any(isinstance(module, Conv1d) for module in names.body.values()),
        "target_modules": list(counts),
        "modules_to_save": None,
        # A third's rank and alpha times the number of thirds: the scale alpha/rank stays
        "rank_pattern": {target: count * adapter.rank for target, count in shared.items()},
        "alpha_pattern": {target: count * alpha for target, count in shared.items()},
    }


def _short(names: Names, module: str) -> str:
    """The module's last word, or the last two where several end with that: how PEFT's target_modules name it."""
    modules = {theirs.name if isinstance(theirs, Conv1d) else theirs for theirs in names.body.values()}
    words = module.split(".")
    several = sum(other.split(".")[-1] == words[-1] for other in modules) > 1
    return ".".join(words[-2:]) if several else words[-1]
