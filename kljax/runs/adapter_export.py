"""The adapters of a LoRA run as PEFT's files, for the model that they were trained over."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from kljax.config import Config, ExportConfig, HuggingFaceModel
from kljax.data.beginnings import Beginning
from kljax.errors import UserError
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface import peft_export
from kljax.runs import card
from kljax.runs.config_file import read_run_config
from kljax.runs.restore import RestoredRun
from kljax.types import Params

FIT = "kljax pretrain run.export_to=DIR, with the run's own overrides, writes it; then name it with base=DIR"


def check(config: ExportConfig) -> None:
    """UserError where the run has no adapters to write, or no model for them is known. Nothing is loaded."""
    if config.merge and config.base is not None:
        raise UserError(f"base: got '{config.base}' with merge=true, whose model needs none; expected null, or merge=false.")
    if not config.merge:
        run = read_run_config(Path(config.run))
        if run.adapter.kind == "none":
            raise UserError(f"merge: got false, but {config.run} has no adapters (adapter=none); expected true.")
        _base(run, config)


def export(restored: RestoredRun, config: ExportConfig, beginning: Beginning | None = None) -> str | None:
    """Write the adapters of this step to `config.out`. What to say of how they are to be used, if anything.

    `beginning` has the tokenizer that is written, the run's own without it.

    UserError where their base is not, to the last bit, the model that they were trained over.
    """
    setup, run = restored.setup, restored.setup.config
    source, field = _base(run, config)
    source = _like(source, restored)
    try:
        pretrained = huggingface.describe(source, field)
    except UserError as error:
        raise UserError(f"{error} Where the model under the adapters lies elsewhere now, say so with base=DIR.") from None
    if pretrained.adapter is not None:
        raise UserError(
            f"{field}: '{source.path}' is an adapter itself, and PEFT's files name a whole model as their base; expected "
            f"merge=true. Or {FIT}."
        )
    _check_same(source.path, field, pretrained, restored)
    directory = Path(source.path).expanduser()
    base = str(directory.resolve()) if directory.is_dir() else source.path
    adapter, revision = run.adapter, source.revision
    assert adapter.kind == "lora"
    tokenizer = setup.tokenizer if beginning is None else beginning.tokenizer
    said = card.of_run(restored.path, run, restored.step, restored.beta, beginning, base)
    peft_export.save(
        Path(config.out), setup.decoder, adapter, restored.adapters, tokenizer, config.dtype,
        base=base, revision=revision, card=said,
    )  # fmt: skip
    if setup.decoder.param_dtype == "float32":
        return None
    return f"They were trained over {base} in {setup.decoder.param_dtype}: load it in that precision, as dtype=…, too."


def _base(run: Config, config: ExportConfig) -> tuple[HuggingFaceModel | str, str]:
    """The model under the adapters as a path or as the run's config has it, and the field that says so."""
    if config.base is not None:
        return config.base, "base"
    if isinstance(run.model, HuggingFaceModel) and run.pretrain.steps == 0:
        return run.model, "model.path"
    raise UserError(
        f"merge: got false, but the model under the adapters of {config.run} was fitted here (pretrain.steps="
        f"{run.pretrain.steps}) and has no name that PEFT could load it by; expected true. Or {FIT}."
    )


def _like(source: HuggingFaceModel | str, restored: RestoredRun) -> HuggingFaceModel:
    """A source with what is ours to say of it, such as dtypes, is that of the run's decoder."""
    decoder = restored.setup.decoder
    path, revision, base = (source, None, None) if isinstance(source, str) else (source.path, source.revision, source.base)
    return HuggingFaceModel(
        kind="huggingface",
        path=path,
        revision=revision,
        base=base,
        context=decoder.context,
        dropout=decoder.dropout,
        dtype=decoder.dtype,
        param_dtype=decoder.param_dtype,
        remat=decoder.remat,
        logit_chunk=decoder.logit_chunk,
        vocab_chunk=decoder.vocab_chunk,
    )


def _check_same(path: str, field: str, pretrained: huggingface.Pretrained, restored: RestoredRun) -> None:
    setup, arch = restored.setup, restored.setup.architecture
    if pretrained.config != setup.decoder:
        differing = "its config.json says so"
    else:
        theirs = huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings)
        differing = _first_difference(theirs, restored.base)
    if differing is not None:
        raise UserError(
            f"{field}: the model in '{path}' is not the one that the adapters of {restored.path} were trained over "
            f"({differing}); expected that one, by base=DIR where it lies elsewhere now, or merge=true."
        )


def _first_difference(theirs: Params, ours: Params) -> str | None:
    for (path, a), b in zip(tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        if not bool(jnp.array_equal(a, b)):
            return f"{keystr(path, simple=True, separator='.')} differs"
    return None
