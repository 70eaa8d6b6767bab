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
    arch = task.architecture
    if (path / run_directory.CONFIG).exists():
        tokenizers.check_same(path / "tokenizer", task.tokenizer, FIELD)
        if "rollout" not in run_directory.read_config(path):
            return load_params(path, arch.shapes, arch.shardings)
        models = restore_models(path, "latest", task.mesh)
        _check_shapes(path, models.policy, arch.shapes)
        return models.policy
    model = task.model
    source = HuggingFaceModel(
        kind="huggingface",
        path=str(path),
        context=model.context,
        dropout=model.dropout,
        dtype=model.dtype,
        param_dtype=task.config.reference.dtype,
        remat=model.remat,
        logit_chunk=model.logit_chunk,
        vocab_chunk=task.decoder.vocab_chunk,
    )
    pretrained = huggingface.describe(source, FIELD)
    tokenizers.check_same(pretrained.path, task.tokenizer, FIELD)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, task.config.reference.dtype), arch.shapes)
    return huggingface.load_params(pretrained, "decoder", shapes, arch.shardings)


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
