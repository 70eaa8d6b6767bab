"""The model that the policy is held to at the start: the base model, or another checkpoint of the same architecture."""

from pathlib import Path

import jax

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel, to_dict
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.models.huggingface import models as huggingface
from kljax.runs import config_file, directory
from kljax.runs.adapter import cast
from kljax.runs.checkpoints import load_fitted
from kljax.runs.config_file import BEST, LATEST, Step, run_and_step
from kljax.runs.models import restore_models
from kljax.runs.setup import Setup, base_path, is_as_it_is
from kljax.types import Params

FIELD = "reference.path"
HOW = ("context", "dropout", "dtype", "param_dtype", "remat", "logit_chunk", "vocab_chunk")
"""How a model is held and computed, not what it computes."""


def first_reference(setup: Setup, base: Params) -> Params:
    """The config's reference, in its precision. The base model itself, not a copy, where that is what it asks for."""
    config = setup.config.reference
    if config.path is None and setup.config.adapter.kind == "lora":
        return base  # in whatever precision it is held
    params = base if config.path is None else _load(setup, config.path)
    if all(leaf.dtype == config.dtype for leaf in jax.tree.leaves(params)):
        return params
    return cast(params, config.dtype)


def check_reference(setup: Setup) -> None:
    """Refuse a reference that does not go with the policy, before anything is fitted or compiled.

    Where the base model is still to be fitted its weights are read, too, and dropped: that they hold NaN is not to be said
    after hours. Where it is there already they are read soon enough.
    """
    if setup.config.reference.path is not None:
        _look(setup, setup.config.reference.path)
        if not is_as_it_is(setup) and not (base_path(setup) / "result.json").exists():
            _load(setup, setup.config.reference.path)


def _look(setup: Setup, path: str) -> tuple[Path, Step] | huggingface.Pretrained:
    """The run and its step, or what the Hugging Face directory says, after all checks that need no weights."""
    config, model = setup.config.reference, setup.decoder
    if found := run_and_step(path, FIELD):
        run, step = found
        for name in ("revision", "base"):
            if (given := getattr(config, name)) is not None:
                raise UserError(f"reference.{name}: got '{given}', but {run} is a run, which has none; expected null.")
        tokenizers.check_same(run / "tokenizer", setup.tokenizer, FIELD)
        if (run / directory.MODEL).exists():
            _check_parts(path, directory.read_model(run)[0], model)
        elif config_file.format_of(run) > 1:
            raise UserError(f"{FIELD}: {run} is a fit of a model that writes no text, or not begun; expected a language model.")
        elif step not in (LATEST, BEST):
            raise UserError(f"{FIELD}: {run} is a fit of which only the best step is kept; expected it without '@'.")
        return found
    source = HuggingFaceModel(
        kind="huggingface",
        path=path,
        revision=config.revision,
        base=config.base,
        context=model.context,
        dropout=model.dropout,
        dtype=model.dtype,
        param_dtype=config.dtype,
        remat=model.remat,
        logit_chunk=model.logit_chunk,
        vocab_chunk=model.vocab_chunk,
    )
    pretrained = huggingface.describe(source, FIELD)
    tokenizers.check_same(pretrained.tokenizer_path, setup.tokenizer, FIELD)
    _check_parts(path, pretrained.config, model)
    return pretrained


def _load(setup: Setup, path: str) -> Params:
    """The policy of a run at its last step or another, the base model of kljax pretrain, or a Hugging Face model."""
    arch, found = setup.architecture, _look(setup, path)
    if isinstance(found, huggingface.Pretrained):
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, setup.config.reference.dtype), arch.shapes)
        return huggingface.load_params(found, "decoder", shapes, arch.shardings)
    run, step = found
    if not (run / directory.MODEL).exists():
        return load_fitted(run, arch.shapes, arch.shardings)
    models = restore_models(run, step, setup.mesh)
    _check_shapes(run, models.policy, arch.shapes)
    return models.policy


def _check_parts(path: str, there: DecoderConfig | EncoderConfig, here: DecoderConfig) -> None:
    """Refuse a model that computes otherwise from weights of the same shapes: another rotary base, another norm's epsilon."""
    theirs, ours = to_dict(there), to_dict(here)
    for name in ours:
        if name not in HOW and theirs.get(name) != ours[name]:
            raise UserError(
                f"{FIELD}: {path} is another model: its {name} is {theirs.get(name)}, the policy's {ours[name]}; expected a "
                "checkpoint of the same architecture."
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
