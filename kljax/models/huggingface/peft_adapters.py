"""LoRA adapters as PEFT writes them: a directory with adapter_config.json and adapter_model.safetensors. PEFT is not needed.

An adapter is added to its base model as that is loaded: W + scale·B·A, and whole tensors in the place of the base's. Its
tensors say which; adapter_config.json must say the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kljax.errors import UserError
from kljax.models.huggingface import files
from kljax.models.huggingface import peft_configs as configs
from kljax.models.huggingface.files import LowRank, Tensor
from kljax.models.huggingface.names import Keys, Kind, Names, Source, find_source

CONFIG, WEIGHTS, PICKLED = configs.FILE, "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # of every tensor's name
PAIRS = {"kernel": ("lora_A.weight", "lora_B.weight"), "embedding": ("lora_embedding_A", "lora_embedding_B")}
"""Our leaf → the ends of the names of the two matrices that may be beside it."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "decoder": ("CAUSAL_LM",),
    "masked_lm": ("MASKED_LM", "FEATURE_EXTRACTION"),
    "classifier": ("SEQ_CLS",),
    "body": ("CAUSAL_LM", "MASKED_LM", "FEATURE_EXTRACTION"),  # under a classification head that is still to be fitted
}
"""Purpose of a model → the tasks that its adapter may have been trained for."""


@dataclass(frozen=True)
class Adapter:
    """A directory with an adapter as its files describe it; no weight has been read. Tensors by their names after PREFIX."""

    path: Path
    config: configs.AdapterConfig
    tensors: Mapping[str, Tensor]

    def prefix(self, names: Names) -> str:
        """Beginning of the body's names."""
        return names.prefix if any(name.startswith(names.prefix) for name in self.tensors) else ""

    def whole(self, module: str, end: str) -> Tensor | None:
        """The tensor that takes the place of the base's, if there is one."""
        wrapped = any(f"{module}.{matrix}" in self.tensors for pair in PAIRS.values() for matrix in pair)
        return self.tensors.get(f"{module}.base_layer.{end}" if wrapped else f"{module}.{end}")


@dataclass(frozen=True)
class Change:
    """Effect of an adapter on a tensor of its base: another in its place, a product that is added to it, or both."""

    instead: Tensor | None
    added: LowRank | None


def is_adapter(folder: Path) -> bool:
    """Whether the directory holds an adapter's files, or some of them."""
    return any((folder / file).exists() for file in (CONFIG, WEIGHTS, PICKLED))


def check_not_below(folder: Path, field: str) -> None:
    """UserError where adapters lie one folder further down: PEFT writes those with names of their own so."""
    if below := sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}")):
        raise UserError(f"{field}: '{folder}' holds no model, but folders with adapters; expected {folder}/{'|'.join(below)}.")


def read(folder: Path, field: str) -> Adapter:
    """Read what the directory says of its adapter. `field` is how messages begin.

    UserError where a file is missing or broken, where it is no LoRA, or one that does more than is computed here.
    """
    name = f"{field}: the adapter in '{folder}'"
    if files.has_weights(folder):
        raise UserError(
            f"{field}: '{folder}' holds a whole model and an adapter ({CONFIG} or its weights), and only one of them can be "
            "meant; expected the adapter's files in a directory of their own."
        )
    config = configs.read(folder / CONFIG, name)
    if not (folder / WEIGHTS).exists():
        pickled = (folder / PICKLED).exists()
        found = f"only pickled weights ({PICKLED}), which can run any code when opened" if pickled else "no weights"
        raise UserError(
            f"{name} has {found}; expected {WEIGHTS}. To convert pickles that you trust, where PEFT is installed: "
            "PeftModel.from_pretrained(BASE, DIR).save_pretrained(NEW_DIR)."
        )
    tensors = files.read_headers_of([folder / WEIGHTS], field)
    if not tensors:
        raise UserError(f"{name} has no tensor in {WEIGHTS}; expected what PEFT writes, or its base alone.")
    for key in tensors:
        if not key.startswith(PREFIX):
            raise UserError(f"{name} has the tensor '{key}'; expected names that begin with '{PREFIX}', as PEFT writes them.")
    return Adapter(folder, config, {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()})


def fingerprint(adapter: Adapter, base: str) -> str:
    """SHA-256 of the adapter's files, looked at as `files.fingerprint` does, and of its base's fingerprint."""
    own = files.fingerprint(adapter.path / CONFIG, adapter.tensors)
    return hashlib.sha256(f"{base} {own}".encode()).hexdigest()


def vocabulary(adapter: Adapter, names: Names) -> int | None:
    """Rows of the adapter's own embedding, which may be longer than its base's; None where it has none."""
    table = adapter.whole(f"{adapter.prefix(names)}{names.body['embed']}", "weight")
    return table.shape[0] if table is not None and table.shape else None


def outputs(adapter: Adapter, names: Names) -> int | None:
    """Outputs of the adapter's own classification head; None where it has none."""
    head = adapter.whole(names.heads["classifier"]["out"], "weight")
    return head.shape[0] if head is not None and head.shape else None


def unties(adapter: Adapter, names: Names) -> bool:
    """Whether a decoder whose output matrix is its embedding has two of them with this adapter: PEFT changes each alone."""
    modules = (f"{adapter.prefix(names)}{names.body['embed']}", names.heads["decoder"]["head"])
    return any(name.startswith(f"{module}.") for name in adapter.tensors for module in modules)


def check_task(adapter: Adapter, kind: Kind, has_outputs: bool) -> None:
    """UserError where the adapter was trained for something else than a model of this kind does."""
    allowed = TASKS["body" if kind == "classifier" and not has_outputs else kind]
    if (task := adapter.config.task) is not None and task not in allowed:
        raise UserError(
            f"the adapter in '{adapter.path}' was trained for task_type={task}; expected {' or '.join(allowed)} here."
        )


def changes(adapter: Adapter, names: Names, kind: Kind, shapes: Mapping[Keys, tuple[int, ...]]) -> dict[Keys, Change]:
    """Changes by the adapter, by parameter; `shapes` are those of the parameters' tensors in the base's files.

    UserError where a tensor has no place in the model or another shape, or where the tensors are not those of the config.
    """
    found: dict[Keys, Change] = {}
    used: set[str] = set()
    for path, shape in shapes.items():
        source = find_source(names, kind, path, adapter.prefix(names))
        added = _product(adapter, source, str(path[-1]), shape)
        instead = adapter.whole(source.module, source.name.rpartition(".")[2])
        if instead is None and added is None and adapter.config.saves(source.module):
            raise UserError(f"{_of(adapter)} has no tensor '{source.name}', which modules_to_save in {CONFIG} names.")
        if instead is not None or added is not None:
            found[path] = Change(instead, added)
            tensors = (instead, *((added.a, added.b) if added is not None else ()))
            used |= {tensor.name for tensor in tensors if tensor is not None}
    for name, tensor in adapter.tensors.items():
        if tensor.name not in used:
            raise UserError(
                f"{_of(adapter)} has the tensor '{PREFIX}{name}', for which there is no place in {_title(kind)} of its base's "
                "parts; expected pairs lora_A and lora_B, lora_embedding_A and lora_embedding_B, and whole tensors of the base."
            )
    _check_tied(adapter, kind, found, shapes)
    return found


def _product(adapter: Adapter, source: Source, leaf: str, shape: tuple[int, ...]) -> LowRank | None:
    """The product beside this module, if the leaf is its matrix and there is one; the config must say the same."""
    if leaf not in PAIRS:
        return None
    names = [f"{source.module}.{end}" for end in PAIRS[leaf]]
    there = [name for name in names if name in adapter.tensors]
    is_linear = leaf == "kernel" and source.part != "head"
    either = adapter.config.ensure_weight_tying and (leaf == "embedding" or source.part == "head")
    if adapter.config.targets(source.module, is_linear) != bool(there) and not either:
        which = f"has the tensor '{PREFIX}{there[0]}', but target_modules" if there else f"has no '{PREFIX}{names[0]}', which"
        rest = f" in {CONFIG} leaves that module out" if there else f" target_modules in {CONFIG} names"
        raise UserError(f"{_of(adapter)} {which}{rest}; expected config and weights of one adapter.")
    if not there:
        return None
    rank, scale = adapter.config.rank_and_scale(source.module)
    transposed = not source.transposed  # of the file's tensor: an embedding's, or a Conv1D's
    out, into = shape[::-1] if transposed else shape
    for name, expected in zip(names, ((rank, into), (out, rank)), strict=True):
        _check_matrix(adapter, name, expected)
    return LowRank(adapter.tensors[names[0]], adapter.tensors[names[1]], scale, transposed)


def _check_matrix(adapter: Adapter, name: str, expected: tuple[int, ...]) -> None:
    tensor = adapter.tensors.get(name)
    if tensor is None:
        raise UserError(f"{_of(adapter)} has no tensor '{PREFIX}{name}', only the other one of that pair.")
    if tensor.shape != expected or tensor.dtype not in files.FLOATS:
        raise UserError(
            f"{_of(adapter)} has '{tensor.name}' of the shape {list(tensor.shape)} and the type {tensor.dtype}; expected "
            f"{list(expected)}, as its rank and its base's config say, and one of {', '.join(files.FLOATS)}."
        )


def _check_tied(adapter: Adapter, kind: Kind, found: Mapping[Keys, Change], shapes: Mapping[Keys, tuple[int, ...]]) -> None:
    tied = {"decoder": ("embed", "embedding"), "masked_lm": ("body", "embed", "embedding")}.get(kind)
    if tied in found and ("head", "kernel") not in shapes:
        raise UserError(
            f"{_of(adapter)} changes the embedding, and for PEFT not the output matrix, which are one in this model; expected "
            "an adapter that leaves both as they are."
        )


def _of(adapter: Adapter) -> str:
    return f"the adapter in '{adapter.path}'"


def _title(kind: Kind) -> str:
    return {"decoder": "a language model", "masked_lm": "a masked language model", "classifier": "a classifier"}[kind]
