"""A run directory back to models: any step, without the config on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kljax.config import MeshConfig
from kljax.data import tokenizers
from kljax.data.batches import PromptRows
from kljax.devices import mesh as meshes
from kljax.devices.resources import check_jax
from kljax.models.huggingface.generation_settings import GenerationSettings
from kljax.progress import working
from kljax.runs import directory, prompt_files
from kljax.runs.config_file import read_run_config
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
        """Those that the run has kept; of an older run those of its data."""
        kept = prompt_files.read(self.path, "held_out")
        return self.setup.held_out_prompts() if kept is None else kept

    def prompts(self) -> PromptRows:
        """The prompts that it was trained on: kept by a run whose task is enumerated, or else those of its data."""
        kept = prompt_files.read(self.path, "prompts")
        return self.setup.prompts() if kept is None else kept


def restore(path: Path, step: int | Literal["latest"], mesh: MeshConfig) -> RestoredRun:
    """The run's `step`, on a mesh of one's own choice: it need not be that of training."""
    check_jax()
    config = replace(read_run_config(path), mesh=mesh)
    model, vocab_size = directory.read_model(path)
    built = meshes.build(mesh)
    meshes.check_sizes(config, model, vocab_size, built)
    with working(f"restoring {path}"):
        models = restore_models(path, step, built)
    tokenizer = tokenizers.load(path / "tokenizer", field="run")
    generation = GenerationSettings(directory.read_ends(path), directory.MODEL, {})
    setup = Setup(config, built, None, tokenizer, model, vocab_size, None, generation)
    return RestoredRun(path, models.step, setup, models.policy, models.reference, models.beta, models.base, models.adapters)
