"""What scripts that look at a run are given."""

from typing import Literal

from kljax.config.base import Dtype, Mass, Natural, Positive, Seed, Two, strict
from kljax.config.run import MeshConfig


@strict
class AnalysisConfig:
    """A look at a finished or running run (experiments/analyze.py). Null: as the run's own config says."""

    run: str  # a run directory; runs/x@40 is its step 40, runs/x@best its best
    step: Literal["latest", "best"] | Natural
    prompts: Two | None
    samples: Positive | None
    seed: Seed | None
    top_k: Natural | None
    top_p: Mass | None
    rewards: Literal["built_in", "custom"]  # custom: the run's own reward functions, too, whose code is imported
    mesh: MeshConfig
    samples_shown: Natural
    compilation_cache: str


@strict
class ExportConfig:
    """A step of a run as a Hugging Face directory (experiments/export.py): the whole model, or its LoRA as PEFT reads it."""

    run: str  # a run directory; runs/x@40 is its step 40, runs/x@best its best
    step: Literal["latest", "best"] | Natural
    out: str  # a directory that is not there yet
    merge: bool  # LoRA adapters into the weights; false: the adapters alone, as PEFT's files
    base: str | None  # with merge=false: where the model under the adapters lies; null: the run's model.path
    dtype: Dtype
    mesh: MeshConfig
    compilation_cache: str
