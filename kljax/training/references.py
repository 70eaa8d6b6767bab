"""What the policy is held to at the start: the base model, or another checkpoint of the same architecture."""

from pathlib import Path

import jax

from kljax.config import HuggingFaceModel
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.models import huggingface
from kljax.training import run_directory
from kljax.training.adaptation import cast
from kljax.training.checkpoints import load_params
from kljax.training.restore import restore_models
from kljax.training.task import Task
from kljax.types import Params

FIELD = "reference.path"


def first_reference(task: Task, base: Params) -> Params:
    """The config's reference, in its precision. The base model itself, not a copy, where that is what it asks for."""
    config = task.config.reference
    if config.path is None and task.config.adapter.kind == "lora":
        return base  # in whatever precision it is held
    params = base if config.path is None else _load(task, Path(config.path).expanduser())
    if all(leaf.dtype == config.dtype for leaf in jax.tree.leaves(params)):
        return params
    return cast(params, config.dtype)


def _load(task: Task, path: Path) -> Params:
    """The policy of a run at its last checkpoint, the base model of experiments/pretrain.py, or a Hugging Face model."""
    arch, config = task.architecture, task.config.reference
    if (path / run_directory.CONFIG).exists():
        for name in ("revision", "base"):
            if (given := getattr(config, name)) is not None:
                raise UserError(f"reference.{name}: got '{given}', but {path} is a run, which has none; expected null.")
        _check_tokenizer(task, path)
        if "rollout" not in run_directory.read_config(path):
            return load_params(path, arch.shapes, arch.shardings)
        models = restore_models(path, "latest", task.mesh)
        _check_shapes(path, models.policy, arch.shapes)
        return models.policy
    model = task.model
    source = HuggingFaceModel(
        kind="huggingface",
        path=str(path),
        revision=config.revision,
        base=config.base,
        context=model.context,
        dropout=model.dropout,
        dtype=model.dtype,
        param_dtype=config.dtype,
        remat=model.remat,
        logit_chunk=model.logit_chunk,
        vocab_chunk=task.decoder.vocab_chunk,
    )
    pretrained = huggingface.describe(source, FIELD)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, config.dtype), arch.shapes)
    return huggingface.load_params(pretrained, "decoder", shapes, arch.shardings)


def _check_tokenizer(task: Task, path: Path) -> None:
    theirs = tokenizers.load(path / "tokenizer", FIELD)
    if theirs.get_vocab() != task.tokenizer.get_vocab():
        raise UserError(
            f"{FIELD}: the model in {path} has another tokenizer ({len(theirs)} tokens, this run's has {len(task.tokenizer)}); "
            "expected a checkpoint of the same model family and tokenizer."
        )


def _check_shapes(path: Path, given: Params, expected: Params) -> None:
    there, here = _shapes(given), _shapes(expected)
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise UserError(
                f"{FIELD}: {path} holds another model: {name} has the shape {there.get(name)} there, {here.get(name)} here."
            )


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
