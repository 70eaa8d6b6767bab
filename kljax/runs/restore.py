"""A run directory back to models: any step, without the config on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path

from kljax.config import Config, MeshConfig, NeverRefresh, NoAdapter
from kljax.config.validation import check_lengths
from kljax.data.batches import PromptRows
from kljax.devices import mesh as meshes
from kljax.devices.resources import check_jax
from kljax.errors import UserError
from kljax.models.huggingface.generation_settings import GenerationSettings
from kljax.progress import working
from kljax.runs import damaged, directory, prompt_files
from kljax.runs.config_file import CONFIG, FIT, Step, kind_of, read_fit, read_run_config
from kljax.runs.models import restore_models
from kljax.runs.setup import Setup
from kljax.types import Params


@dataclass(frozen=True)
class RestoredRun:
    """The models of one step of a run, and what is made ready of its config."""

    path: Path
    step: int
    setup: Setup
    policy: Params
    reference: Params
    beta: float
    base: Params
    adapters: Params

    def held_out_prompts(self) -> PromptRows:
        """Those that the run has kept; of a fit, and of an older run, those of its data."""
        kept = prompt_files.read(self.path, "held_out")
        if kept is None and kind_of(self.path) == FIT:
            self._check_rows()
        return self.setup.held_out_prompts() if kept is None else self._checked(kept)

    def _check_rows(self) -> None:
        """Refuse to look at a fit on rows that are not those that it was made of."""
        if self.setup.rows_digest != read_fit(self.path)["rows"]:
            raise UserError(
                f"run: {self.path} was made of other rows than its data has now; restore the file, or fit it anew (name=…)."
            )

    def prompts(self) -> PromptRows:
        """The prompts that it was trained on: kept by a run whose task is enumerated, or else those of its data."""
        kept = prompt_files.read(self.path, "prompts")
        return self.setup.prompts() if kept is None else self._checked(kept)

    def _checked(self, kept: PromptRows) -> PromptRows:
        """UserError where the files have tokens that the model has not: it would take others for them."""
        if kept.tokens.min() < 0 or kept.tokens.max() >= self.setup.vocab_size:
            raise UserError(
                f"run: the prompts in {self.path / prompt_files.FOLDER} have tokens beyond the model's "
                f"{self.setup.vocab_size:,}; they were changed: restore them from a copy, or run it anew (name=…)."
            )
        return kept


def _of_fit(config: Config) -> Config:
    """The config of a fit as that of a run whose reference is the model that it started from, and that no reward changed."""
    reference = replace(config.reference, path=None, refresh=NeverRefresh(kind="never"), dtype="float32", memory="device")
    kl = replace(config.kl, beta=0.0, penalty="exact", hard_budget=None)
    run = replace(config.run, oracle_every=0)
    return replace(config, adapter=NoAdapter(kind="none"), reference=reference, reward_scale="none", kl=kl, run=run)


def restore(path: Path, step: Step, mesh: MeshConfig, *, custom: bool = False) -> RestoredRun:
    """The run's `step`, on a mesh of one's own choice: it need not be that of training.

    `custom`: whether a task that is code of the run's own may be imported, of which a fit's rows, too, are made.
    """
    check_jax()
    config = replace(read_run_config(path), mesh=mesh)
    if kind_of(path) == FIT:
        config = _of_fit(config)
    model, vocab_size = directory.read_model(path)
    built = meshes.build(mesh)
    with damaged.reading_config(path / CONFIG):
        check_lengths(config, model.context)
    meshes.check_sizes(config, model, vocab_size, built)
    with working(f"restoring {path}"):
        models = restore_models(path, step, built)
    tokenizer = directory.load_tokenizer(path)
    generation = GenerationSettings(directory.read_ends(path), directory.MODEL, {})
    setup = Setup(config, built, None, tokenizer, model, vocab_size, None, generation, imports=custom)
    return RestoredRun(path, models.step, setup, models.policy, models.reference, models.beta, models.base, models.adapters)
