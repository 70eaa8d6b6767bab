"""A run directory back to models: any step, without the config on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kljax.config import MeshConfig
from kljax.data import tokenizers
from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.models.generation_settings import GenerationSettings
from kljax.training import damaged, run_data, run_directory
from kljax.training import mesh as meshes
from kljax.training.progress import working
from kljax.training.resources import check_jax
from kljax.training.run_config import CONFIG, read_run_config
from kljax.training.run_models import restore_models
from kljax.training.task import Task
from kljax.types import Params
from kljax.validation import check_lengths


@dataclass(frozen=True)
class RestoredRun:
    """The models of one step of a run, and the task that they are for."""

    path: Path
    step: int
    task: Task
    policy: Params
    reference: Params
    beta: float
    base: Params
    adapters: Params

    def held_out_prompts(self) -> PromptRows:
        """Those that the run has kept; of an older run those of its data."""
        kept = run_data.read(self.path, "held_out")
        return self.task.held_out_prompts() if kept is None else self._checked(kept)

    def prompts(self) -> PromptRows:
        """The prompts that it was trained on: kept by a run whose task is enumerated, or else those of its data."""
        kept = run_data.read(self.path, "prompts")
        return self.task.prompts() if kept is None else self._checked(kept)

    def _checked(self, kept: PromptRows) -> PromptRows:
        """UserError where the files have tokens that the model has not: it would take others for them."""
        if kept.tokens.min() < 0 or kept.tokens.max() >= self.task.vocab_size:
            raise UserError(
                f"run: the prompts in {self.path / run_data.FOLDER} have tokens beyond the model's {self.task.vocab_size:,}; "
                "they were changed: restore them from a copy, or run it anew (name=…)."
            )
        return kept


def restore(path: Path, step: int | Literal["latest"], mesh: MeshConfig) -> RestoredRun:
    """The run's `step`, on a mesh of one's own choice: it need not be that of training."""
    check_jax()
    config = replace(read_run_config(path), mesh=mesh)
    model, vocab_size = run_directory.read_model(path)
    built = meshes.build(mesh)
    with damaged.reading_config(path / CONFIG):
        check_lengths(config, model.context)
    meshes.check_sizes(config, model, vocab_size, built)
    with working(f"restoring {path}"):
        models = restore_models(path, step, built)
    tokenizer = tokenizers.load(path / "tokenizer", field="run")
    generation = GenerationSettings(run_directory.read_ends(path), run_directory.MODEL, {})
    task = Task(config, built, None, tokenizer, model, vocab_size, None, generation)
    return RestoredRun(path, models.step, task, models.policy, models.reference, models.beta, models.base, models.adapters)
