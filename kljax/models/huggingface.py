"""Hugging Face directories to models and back, of the families in huggingface_families.py.

`describe` reads what a directory says of itself, `load_params` its weights, `save` writes one that transformers loads. Names
and shapes are checked from the files' headers before any weight is read. Only safetensors are read, never pickles.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from jax.tree_util import tree_leaves_with_path

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel
from kljax.errors import UserError
from kljax.models import huggingface_configs as configs
from kljax.models import huggingface_files as files
from kljax.models.huggingface_files import Tensor
from kljax.models.huggingface_names import NAMES, RENAMED, Kind, Names, Source, copies_of, find_source, may_be_ignored
from kljax.types import HuggingFaceConfig, Params, Tokenizer

__all__ = ["Kind", "Pretrained", "check_exportable", "check_tokenizer", "describe", "load_params", "save"]

DOWNLOADED = (
    "config.json", "generation_config.json", "model*.safetensors", files.INDEX, "tokenizer*", "vocab*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*",
)  # fmt: skip
Keys = tuple[str | int, ...]
"""Where a parameter is in the tree; integers are layers."""


@dataclass(frozen=True)
class Pretrained:
    """What a Hugging Face directory says that it holds; no weight has been read."""

    path: Path
    config: DecoderConfig | EncoderConfig
    vocab_size: int
    outputs: int  # of the classification head in the file; 0: it has none
    labels: tuple[str, ...]  # what these outputs are called
    fingerprint: str  # changes when the weights do; see huggingface_files.fingerprint
    problem: configs.Problem = "single_label_classification"  # what the outputs mean


def describe(source: HuggingFaceModel, field: str = "model.path") -> Pretrained:
    """What the directory or hub name holds. `field` is how messages begin.

    UserError where it cannot be read, is of an architecture or has parts that kljax has not, or has pickled weights only.
    """
    path = _directory(source.path, field)
    theirs = configs.read(path, field)
    config = configs.resolve(theirs, source, field)
    tensors = files.read_headers(path, field)
    outputs = _count_outputs(theirs, tensors, f"{field}: '{path}'")
    labels = tuple(label for _, label in sorted((theirs.id2label or {}).items()))[:outputs]
    problem = configs.problem_of(theirs, outputs, f"{field}: '{path}'")
    return Pretrained(path, config, theirs.vocab_size, outputs, labels, files.fingerprint(path, tensors), problem)


def load_params(pretrained: Pretrained, kind: Kind, shapes: Params, shardings: Params) -> Params:
    """The weights as a tree like `shapes`, each leaf in its dtype and placed by its sharding, tensor by tensor.

    Left out are the leaves of a head that the file has not (MaskedLm: dense, norm, bias; Classifier: dense, out). UserError
    where any other tensor is missing, one is there that should not be, or a shape disagrees: nothing has been read by then.
    The host never holds more than one shard of one tensor and a few megabytes.
    """
    leaves, places = dict(_leaves(shapes)), dict(_leaves(shardings))
    params: Params = {}
    for path, (source, tensor) in _match(pretrained.path, kind, leaves).items():
        leaf = leaves[path]
        array = files.place(tensor, leaf.shape, leaf.dtype, places[path], transposed=source.transposed, third=source.third)
        _set(params, path, array)
    return params


def check_tokenizer(pretrained: Pretrained, tokenizer: Tokenizer, field: str = "tokenizer") -> None:
    """UserError where the tokenizer has tokens that the model has no embedding for."""
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if size > pretrained.vocab_size:
        raise UserError(
            f"{field}: the tokenizer has {size} tokens, but the model in '{pretrained.path}' only {pretrained.vocab_size}; "
            f"expected the one that it came with: tokenizer=pretrained tokenizer.path={pretrained.path}."
        )


def check_exportable(config: DecoderConfig | EncoderConfig, kind: Kind, tokenizer: Tokenizer | None = None) -> None:
    """UserError where no Hugging Face architecture has these parts, or none goes with this tokenizer, saying what would do."""
    model_type = configs.family_of(config, kind)
    if tokenizer is not None:
        configs.check_tokenizer_of(model_type, config, tokenizer)


def save(
    out: Path,
    kind: Kind,
    config: DecoderConfig | EncoderConfig,
    vocab_size: int,
    params: Params,
    tokenizer: Tokenizer,
    dtype: str,
    labels: Sequence[str] = (),
) -> None:
    """Write config.json, weights and tokenizer files so that transformers loads them and gives the same numbers.

    `labels` name a classifier's outputs; one output is a regression. All is written beside `out`, then renamed. UserError where
    `out` is there already, or `check_exportable` refuses.
    """
    check_exportable(config, kind, tokenizer)
    model_type = configs.family_of(config, kind)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' is there already; expected a directory that is not there yet, or is empty.")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    values = configs.to_json(config, kind, vocab_size, dtype, ids)
    if kind == "classifier":
        values |= configs.head_json(params["out"]["kernel"].shape[-1], labels)
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        (partial / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        tokenizer.save_pretrained(str(partial))
        _write(partial, NAMES[model_type], kind, params, np.dtype(dtype))
        partial.rename(out.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _directory(path: str, field: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or path.startswith((".", "/", "~")):
        raise UserError(f"{field}: '{path}' is no directory; expected one with config.json and {files.WEIGHTS}, or a hub name.")
    try:
        return Path(snapshot_download(path, allow_patterns=list(DOWNLOADED)))
    except Exception as error:  # the hub's errors, the network's and those of a malformed name have no class in common
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{field}: no directory '{path}', and no model of that name could be had from the hub: {reason}"
        ) from None


def _count_outputs(theirs: HuggingFaceConfig, tensors: dict[str, Tensor], name: str) -> int:
    family, names = configs.FAMILIES[theirs.model_type], NAMES[theirs.model_type]
    head = f"{names.heads['classifier']['out']}.weight"
    if head not in tensors:
        if family.architectures["classifier"] in (theirs.architectures or ()):
            raise UserError(f"{name} has no tensor '{head}', which a {family.architectures['classifier']} has.")
        return 0
    configs.check_claim(theirs, "classifier", f"{name} has a head '{head}', but")
    outputs = tensors[head].shape[0]
    if outputs != theirs.num_labels:
        raise UserError(
            f"{name} has a head '{head}' of {outputs} outputs, but names {theirs.num_labels} (id2label in config.json)."
        )
    return outputs


def _match(folder: Path, kind: Kind, leaves: dict[Keys, Any]) -> dict[Keys, tuple[Source, Tensor]]:
    """Where each parameter is to be read from, after all checks."""
    theirs = configs.read(folder, "model")
    names = NAMES[theirs.model_type]
    tensors = _by_current_name(folder, files.read_headers(folder, "model"))
    prefix = names.prefix if any(name.startswith(names.prefix) for name in tensors) else ""
    sources = {path: find_source(names, kind, path, prefix) for path in leaves}
    if kind == "decoder":
        configs.check_claim(theirs, kind, f"'{folder}'")
    claimed = configs.FAMILIES[theirs.model_type].architectures.get(kind) in (theirs.architectures or ())
    _check_missing(folder, list(sources.values()), tensors, kind == "decoder" or claimed)
    used = {source.name for source in sources.values()}
    copies = _copies_there(names, kind, used, tensors, prefix)
    _check_extra(folder, names, kind, used | copies.keys(), tensors, prefix)
    plan = {path: (source, tensors[source.name]) for path, source in sources.items() if source.name in tensors}
    for path, (source, tensor) in plan.items():
        rows = theirs.max_position_embeddings if "learned_positions" in path else None
        _check_tensor(source, tensor, leaves[path].shape, rows)
    for copy, original in copies.items():
        if not files.same_numbers(tensors[copy], tensors[original]):
            raise UserError(
                f"'{folder}' has the tensor '{copy}' beside '{original}', to which its config.json ties it, and they differ; "
                "expected tie_word_embeddings=false there, where the family has that, or the file without the tensor."
            )
    return plan


def _by_current_name(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (new := _current_name(name)) in renamed:
            raise UserError(f"'{folder}' has the tensor '{new}' twice, under its older name, too; expected one of them.")
        renamed[new] = tensor
    return renamed


def _current_name(name: str) -> str:
    for old, new in RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _check_missing(folder: Path, sources: list[Source], tensors: dict[str, Tensor], with_head: bool) -> None:
    """The body must be there, the head as a whole or not at all; of heads, BERT's pooler may be there alone."""
    there = [source for source in sources if source.name in tensors]
    with_head = with_head or any(source.part == "head" for source in there)
    begun = {source.module for source in there}
    for source in sources:
        needed = source.part == "body" or with_head or source.module in begun
        if needed and source.name not in tensors:
            alike = next((name for name in tensors if name.endswith(f".{source.name}")), None)
            hint = f" It has '{alike}': save the model that is inside the other by itself." if alike else ""
            raise UserError(f"'{folder}' has no tensor '{source.name}', which its config.json speaks of.{hint}")


def _check_extra(folder: Path, names: Names, kind: Kind, used: set[str], tensors: dict[str, Tensor], prefix: str) -> None:
    for name, tensor in tensors.items():
        if name not in used and not may_be_ignored(names, kind, name, prefix):
            raise UserError(
                f"'{folder}' has the tensor '{tensor.name}', for which a model of its config.json has no place; "
                "expected a config.json and weights of one model. What transformers' class for it has read and written again, "
                "by save_pretrained, is without it."
            )


def _copies_there(names: Names, kind: Kind, used: set[str], tensors: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Tensors that repeat one that this kind of model uses, and which."""
    return {
        copy: original
        for copy, original in copies_of(names, prefix).items()
        if copy in tensors and copy not in used and original in used and not may_be_ignored(names, kind, copy, prefix)
    }


def _check_tensor(source: Source, tensor: Tensor, shape: tuple[int, ...], rows: int | None) -> None:
    """`rows`: of the file's table of positions, of which a model with a shorter context has the first."""
    expected = shape[::-1] if source.transposed else shape
    if source.third is not None:
        expected = (*expected[:-1], 3 * expected[-1])
    if rows is not None:
        expected = (rows, *expected[1:])
    if tensor.dtype not in files.FLOATS:
        raise UserError(
            f"'{tensor.name}' in '{tensor.file}' has the type {tensor.dtype}; expected one of {', '.join(files.FLOATS)}."
        )
    if tensor.shape != expected:
        raise UserError(
            f"'{tensor.name}' in '{tensor.file}' has the shape {list(tensor.shape)}; expected {list(expected)}, as the model's "
            "config says."
        )


def _write(folder: Path, names: Names, kind: Kind, params: Params, dtype: np.dtype) -> None:
    """The parameters as tensors of the files; those that are thirds of one are put together again."""
    parts: dict[str, list[tuple[Source, Any]]] = {}
    for path, leaf in _leaves(params):
        source = find_source(names, kind, path, names.prefix)
        parts.setdefault(source.name, []).append((source, leaf))

    def make(name: str) -> np.ndarray:
        arrays = [np.asarray(leaf) for _, leaf in sorted(parts[name], key=lambda part: part[0].third or 0)]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        return np.ascontiguousarray((array.T if parts[name][0][0].transposed else array).astype(dtype, copy=False))

    files.write_weights(folder, {name: dtype.itemsize * sum(leaf.size for _, leaf in of) for name, of in parts.items()}, make)


def _leaves(params: Params) -> Iterator[tuple[Keys, Any]]:
    for path, leaf in tree_leaves_with_path(params):
        yield tuple(step.key for step in path), leaf


def _set(params: Params, path: Keys, leaf: Any) -> None:
    for key in path[:-1]:
        params = params.setdefault(key, {})
    params[path[-1]] = leaf
