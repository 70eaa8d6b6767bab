"""Hugging Face directories to models and back, of the families in families.py.

`describe` reads what a directory says of itself, `load_params` its weights, `save` writes one that transformers loads. Names
and shapes are checked from the files' headers before any weight is read. Only safetensors are read, never pickles.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from huggingface_hub import snapshot_download
from jax.tree_util import tree_leaves_with_path

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel, RolloutConfig
from kljax.errors import UserError
from kljax.json_text import strict_json_text
from kljax.models.huggingface import configs, files, generation_settings
from kljax.models.huggingface import peft_adapters as adapters
from kljax.models.huggingface.files import Part, Tensor
from kljax.models.huggingface.names import NAMES, RENAMED, Keys, Kind, Names, Source, copies_of, find_source, may_be_ignored
from kljax.models.layers import LAYERS, names_of_layers
from kljax.types import HuggingFaceConfig, Params, Tokenizer

__all__ = ["Kind", "Pretrained", "check_exportable", "check_tokenizer", "describe", "load_params", "padding", "save"]

DOWNLOADED = (
    "config.json", "generation_config.json", "model*.safetensors", files.INDEX, "tokenizer*", "vocab*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", adapters.CONFIG, adapters.WEIGHTS, *files.HEADS_BESIDE,
)  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a directory with a tokenizer has one at least."""
HEAD, EMBEDDING = ("head", "kernel"), ("embed", "embedding")
UNCHANGED = adapters.Change(None, None)


@dataclass(frozen=True)
class Pretrained:
    """Contents of a Hugging Face directory, as it describes them; no weight has been read."""

    path: Path  # of the model's own files; with an adapter, of its base's
    config: DecoderConfig | EncoderConfig
    vocab_size: int
    outputs: int  # of the classification head in the file; 0: it has none
    labels: tuple[str, ...]  # what these outputs are called
    fingerprint: str  # changes when the weights do; see files.fingerprint
    problem: configs.Problem = "single_label_classification"  # what the outputs mean
    adapter: adapters.Adapter | None = None  # a LoRA of PEFT's that is added to the weights

    @property
    def tokenizer_path(self) -> Path:
        """Where the model's tokenizer is: an adapter may have brought its own."""
        own = self.adapter is not None and any((self.adapter.path / file).exists() for file in TOKENIZERS)
        return self.adapter.path if own else self.path  # pyright: ignore


def describe(source: HuggingFaceModel, field: str = "model.path") -> Pretrained:
    """Contents of the directory or hub name: a model, or a LoRA adapter of PEFT's for another one. `field`: how messages begin.

    UserError where it cannot be read, is of an architecture or has parts that kljax has not, or has pickled weights only.
    """
    path = _directory(source.path, source.revision, field)
    if adapters.is_adapter(path):
        return _describe_adapted(adapters.read(path, field), source, field)
    if not (path / "config.json").exists():
        adapters.check_not_below(path, field)
    if source.base is not None:
        raise UserError(
            f"{_beside(field, 'base')}: got '{source.base}', but '{path}' holds a whole model, no adapter; expected null."
        )
    return _describe_model(path, source, field)


def _describe_model(path: Path, source: HuggingFaceModel, field: str) -> Pretrained:
    theirs = configs.read(path, field)
    config = configs.resolve(theirs, source, field)
    tensors = files.read_headers(path, field)
    _check_sizes(config, theirs.vocab_size, tensors, f"{field}: '{path}'")
    outputs = _count_outputs(theirs, tensors, f"{field}: '{path}'")
    labels = tuple(label for _, label in sorted((theirs.id2label or {}).items()))[:outputs]
    problem = configs.problem_of(theirs, outputs, f"{field}: '{path}'")
    fingerprint = files.fingerprint(path / "config.json", tensors)
    return Pretrained(path, config, theirs.vocab_size, outputs, labels, fingerprint, problem)


def _describe_adapted(adapter: adapters.Adapter, source: HuggingFaceModel, field: str) -> Pretrained:
    """The base model with what the adapter changes in its sizes: a longer vocabulary, a head, an output matrix of its own."""
    beside = _beside(field, "base")
    path, revision = adapter.config.base_model_name_or_path, adapter.config.revision
    if source.base is not None:
        path, revision = source.base, None
    if not path:
        raise UserError(
            f"{field}: the adapter in '{adapter.path}' does not say which model it was made for; name it with {beside}=DIR."
        )
    try:
        folder = _directory(path, revision, field)
        if adapters.is_adapter(folder):
            raise UserError(
                f"{field}: '{path}' is an adapter itself, expected a whole model; merge it into its own base first."
            )
        base = _describe_model(folder, replace(source, path=path), field)
        names = NAMES[configs.read(folder, field).model_type]
        _check_config_beside(adapter, base, source, field)
    except UserError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{reason}. That is the base of the adapter in '{adapter.path}'; name another with {beside}=DIR."
        ) from None
    config, outputs, labels = base.config, adapters.outputs(adapter, names) or base.outputs, base.labels
    if isinstance(config, DecoderConfig) and config.tied_head and adapters.unties(adapter, names):
        config = replace(config, tied_head=False)
    if outputs != len(labels):
        labels = tuple(f"LABEL_{i}" for i in range(outputs))  # as transformers names them
    vocab_size = adapters.vocabulary(adapter, names) or base.vocab_size
    problem = base.problem if outputs == base.outputs else "regression" if outputs == 1 else "single_label_classification"
    fingerprint = adapters.fingerprint(adapter, base.fingerprint)
    return Pretrained(folder, config, vocab_size, outputs, labels, fingerprint, problem, adapter)


def _check_config_beside(adapter: adapters.Adapter, base: Pretrained, source: HuggingFaceModel, field: str) -> None:
    """PEFT reads no config.json beside an adapter; one that is there must be that of the base."""
    if (adapter.path / "config.json").exists():
        beside = configs.resolve(configs.read(adapter.path, field), replace(source, path=str(adapter.path)), field)
        if beside != base.config:
            raise UserError(f"{field}: '{adapter.path}' has a config.json of another model than '{base.path}'.")


def _beside(field: str, name: str) -> str:
    """The field `name` of the section of `field`: model.path → model.base."""
    return ".".join([*field.split(".")[:-1], name])


def load_params(pretrained: Pretrained, kind: Kind, shapes: Params, shardings: Params) -> Params:
    """The weights as a tree like `shapes`, each leaf in its dtype and placed by its sharding, tensor by tensor.

    Left out are the leaves of a head that the file has not (MaskedLm: dense, norm, bias; Classifier: dense, out). UserError
    where any other tensor is missing, one is there that should not be, or a shape disagrees: nothing has been read by then;
    and where a number is not finite, or is not in that dtype.
    The host never holds more than one shard of one tensor and a few megabytes.
    """
    leaves, places = dict(_leaves(shapes)), dict(_leaves(shardings))
    plan = _match(pretrained, kind, _of_each_layer(leaves))
    params: Params = {}
    for path, leaf in leaves.items():
        parts = [plan[name] for name in names_of_layers(path, leaf) if name in plan]
        if parts:
            _set(params, path, files.place(parts, leaf.shape, leaf.dtype, places[path], layers=LAYERS in path))
    return params


def _of_each_layer(leaves: Mapping[Keys, Any]) -> dict[Keys, Any]:
    """The shapes of parameters as they lie in files, each layer's by itself."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape[len(name) - len(path) :], leaf.dtype)
        for path, leaf in leaves.items()
        for name in names_of_layers(path, leaf)
    }


def check_tokenizer(pretrained: Pretrained, tokenizer: Tokenizer, field: str = "tokenizer") -> None:
    """UserError where the tokenizer has tokens that the model has no embedding for."""
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if size > pretrained.vocab_size:
        raise UserError(
            f"{field}: the tokenizer has {size} tokens, but the model in '{pretrained.path}' only {pretrained.vocab_size}; "
            f"expected the one that it came with: tokenizer=pretrained tokenizer.path={pretrained.path}."
        )


def padding(pretrained: Pretrained) -> int | None:
    """The padding token that config.json names."""
    return configs.read(pretrained.path, "model").pad_token_id


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
    *,
    ends: Sequence[int] = (),
    rollout: RolloutConfig | None = None,
    card: str | None = None,
) -> None:
    """Write config.json, weights, tokenizer files and a model card so that transformers loads them and gives the same numbers.

    `labels` name a classifier's outputs; one output is a regression. A decoder's `ends` (none: the tokenizer's own) and the way
    of sampling that it was trained with, `rollout`, go into generation_config.json. All is written beside `out`, then renamed.
    UserError where `out` is there already, or `check_exportable` refuses.
    """
    check_exportable(config, kind, tokenizer)
    model_type = configs.family_of(config, kind)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    generation = generation_settings.to_json(tokenizer, ends, rollout) if kind == "decoder" else {}
    ids |= {key: value for key, value in generation.items() if key in ids}
    values = configs.to_json(config, kind, vocab_size, dtype, ids)
    if kind == "classifier":
        if isinstance(config, DecoderConfig) and ids["pad_token_id"] == ids["eos_token_id"]:
            values["pad_token_id"] = None  # transformers would read the score before the end token, where it was not fitted
        values |= configs.head_json(params["out"]["kernel"].shape[-1], labels)
    with files.new_directory(out) as partial:
        (partial / "config.json").write_text(strict_json_text(values, f"{out}/config.json", indent=2) + "\n", "utf-8")
        if generation:
            text = strict_json_text(generation, f"{out}/{generation_settings.FILE}", indent=2)
            (partial / generation_settings.FILE).write_text(text + "\n", "utf-8")
        tokenizer.save_pretrained(str(partial))
        if card is not None:
            (partial / files.CARD).write_text(card, "utf-8")
        _write(partial, NAMES[model_type], kind, params, np.dtype(dtype))


def _directory(path: str, revision: str | None, field: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{_beside(field, 'revision')}: got '{revision}', but '{path}' is a directory, which has none.")
        return folder
    if folder.exists() or path.startswith((".", "/", "~")):
        raise UserError(f"{field}: '{path}' is no directory; expected one with config.json and {files.WEIGHTS}, or a hub name.")
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(DOWNLOADED)))
    except Exception as error:  # the hub's errors, the network's and those of a malformed name have no class in common
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{field}: no directory '{path}', and no model of that name{_at(revision)} could be had from the hub: {reason}"
        ) from None


def _at(revision: str | None) -> str:
    return "" if revision is None else f" and revision '{revision}'"


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


def _check_sizes(config: DecoderConfig | EncoderConfig, vocab_size: int, tensors: Mapping[str, Tensor], where: str) -> None:
    """UserError where config.json describes a model that these tensors cannot be, before anything of its sizes is made.

    Each size is that of an axis of some tensor, and each layer has tensors of its own.
    """
    longest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    sizes = {"vocab_size": vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_mlp}
    sizes["num_attention_heads"] = config.heads
    if isinstance(config, EncoderConfig):
        sizes |= {"max_position_embeddings": config.context, "type_vocab_size": config.segments}
    else:
        sizes["head_dim"] = config.head_dim
        if config.positions == "learned":
            sizes["max_position_embeddings"] = config.context
    for key, size in sizes.items():
        if size > longest:
            raise UserError(
                f"{where} has {key}={size:,} in config.json, but no tensor of its weights has an axis of more than "
                f"{longest:,}; expected a config.json and weights of one model."
            )
    if config.layers > len(tensors):
        raise UserError(
            f"{where} has num_hidden_layers={config.layers:,} in config.json, but its weights are {len(tensors):,} tensors; "
            "expected a config.json and weights of one model."
        )


def _match(pretrained: Pretrained, kind: Kind, leaves: Mapping[Keys, Any]) -> dict[Keys, Part]:
    """Where each parameter of each layer is to be read from, and what is added to it, after all checks."""
    folder = pretrained.path
    theirs = configs.read(folder, "model")
    names = NAMES[theirs.model_type]
    tensors = _by_current_name(folder, files.read_headers(folder, "model"))
    prefix = names.prefix if any(name.startswith(names.prefix) for name in tensors) else ""
    sources = {path: find_source(names, kind, path, prefix) for path in leaves}
    if theirs.tie_word_embeddings and HEAD in sources and sources[EMBEDDING].name in tensors:  # an adapter makes two of one
        tensors[sources[HEAD].name] = tensors[sources[EMBEDDING].name]
    if kind == "decoder":
        configs.check_claim(theirs, kind, f"'{folder}'")
    claimed = configs.FAMILIES[theirs.model_type].architectures.get(kind) in (theirs.architectures or ())
    _check_missing(folder, list(sources.values()), tensors, kind == "decoder" or claimed)
    used = {source.name for source in sources.values()}
    copies = _copies_there(names, kind, used, tensors, prefix)
    _check_extra(folder, names, kind, used | copies.keys(), tensors, prefix)
    for copy, original in copies.items():
        if not files.same_numbers(tensors[copy], tensors[original]):
            raise UserError(
                f"'{folder}' has the tensor '{copy}' beside '{original}', to which its config.json ties it, and they differ; "
                "expected tie_word_embeddings=false there, where the family has that, or the file without the tensor."
            )
    shapes = {path: _shape_in_file(path, source, leaves[path].shape, theirs) for path, source in sources.items()}
    changes = {}
    if pretrained.adapter is not None:
        adapters.check_task(pretrained.adapter, kind, bool(pretrained.outputs))
        changes = adapters.changes(pretrained.adapter, names, kind, shapes)
    plan = {}
    for path, source in sources.items():
        change = changes.get(path, UNCHANGED)
        tensor = change.instead or tensors.get(source.name)
        if tensor is not None:
            _check_tensor(tensor, shapes[path])
            plan[path] = Part(tensor, source.transposed, source.third, change.added)
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


def _shape_in_file(path: Keys, source: Source, shape: tuple[int, ...], theirs: HuggingFaceConfig) -> tuple[int, ...]:
    """Of the tensor whose parameter has this shape. A model with a shorter context has the first rows of the positions."""
    expected = shape[::-1] if source.transposed else shape
    if source.third is not None:
        expected = (*expected[:-1], 3 * expected[-1])
    return (theirs.max_position_embeddings, *expected[1:]) if "learned_positions" in path else expected


def _check_tensor(tensor: Tensor, expected: tuple[int, ...]) -> None:
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
    parts: dict[str, list[tuple[Source, Callable[[], np.ndarray]]]] = {}
    sizes: dict[str, int] = {}
    for path, leaf in _leaves(params):
        for i, name in enumerate(names_of_layers(path, leaf)):
            source = find_source(names, kind, name, names.prefix)
            read = partial(np.asarray, leaf) if name == path else partial(_layer, leaf, i)
            parts.setdefault(source.name, []).append((source, read))
            sizes[source.name] = sizes.get(source.name, 0) + dtype.itemsize * leaf.size // (1 if name == path else len(leaf))

    def make(name: str) -> np.ndarray:
        arrays = [read() for _, read in sorted(parts[name], key=lambda part: part[0].third or 0)]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        array = files.as_dtype(array, dtype, f"dtype: the model's '{name}'")
        return np.ascontiguousarray(array.T if parts[name][0][0].transposed else array)

    files.write_weights(folder, sizes, make)


def _layer(leaf: Any, layer: int) -> np.ndarray:
    """One layer's part of a stacked parameter, on the host: no more of it."""
    return np.asarray(leaf[layer])


def _leaves(params: Params) -> Iterator[tuple[Keys, Any]]:
    for path, leaf in tree_leaves_with_path(params):
        yield tuple(step.key for step in path), leaf


def _set(params: Params, path: Keys, leaf: Any) -> None:
    for key in path[:-1]:
        params = params.setdefault(key, {})
    params[path[-1]] = leaf
