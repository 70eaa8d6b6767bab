"""Configs of the commands that look at a run."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import Dtype, Folder, Mass, Natural, Positive, Seed, Share, Two, strict
from kljax.config.run import MeshConfig
from kljax.config.task import Reading


@strict
class AnalysisConfig:
    """A look at a finished or running run (kljax analyze). Null: as the run's own config says."""

    run: str
    """A run directory; runs/x@40 is its step 40, runs/x@best its best."""
    step: Literal["latest", "best"] | Natural
    """The step of a checkpoint, latest, or best by evaluation.best."""
    prompts: Two | None
    """The first so many held-out rows; null: as the run's config says."""
    samples: Positive | None
    """Completions a prompt; null: as the run's config says."""
    seed: Seed | None
    """Makes, with the run's own, the noise of sampling; null: as the run's config says."""
    top_k: Natural | None
    """Samples from the k likeliest tokens only; 0: from all; null: as the run's config says."""
    top_p: Mass | None
    """Samples from the likeliest tokens that have this probability together; 1: from all; null: as the run's config says."""
    readings: Annotated[list[Reading], Field(min_length=1)] | None
    """Ways of answering that the task's figures are of, as task.readings; null: as the run's config says."""
    rewards: Literal["built_in", "custom"]
    """Which reward functions are asked; custom: the run's own, too, whose code is imported."""
    mesh: MeshConfig
    """The devices that it is computed on."""
    samples_shown: Natural
    """Completions that are printed; 0: none."""
    compilation_cache: str
    """The folder of JAX's cache of compiled programs, which later launches take them from; ~ is the home folder."""


@strict
class ExportConfig:
    """A step of a run as a Hugging Face directory (kljax export): the whole model, or its LoRA as PEFT reads it."""

    run: str
    """A run directory; runs/x@40 is its step 40, runs/x@best its best."""
    step: Literal["latest", "best"] | Natural
    """The step of a checkpoint, latest, or best by evaluation.best."""
    out: str
    """The directory that is written; it must not be there yet."""
    merge: bool
    """Whether LoRA adapters are added to the weights; false: the adapters alone, as PEFT's files."""
    base: str | None
    """With merge=false, where the model under the adapters lies; null: the run's model.path."""
    dtype: Dtype
    """The type of the numbers in the files."""
    mesh: MeshConfig
    """The devices that the run is restored on."""
    compilation_cache: str
    """The folder of JAX's cache of compiled programs, which later launches take them from; ~ is the home folder."""


@strict
class JudgeConfig:
    """A blinded page on which people judge completions of a and b, or with score= what came back says (kljax judge)."""

    a: str | None
    """A run (runs/x@40 is its step 40), a file of JSON Lines with prompt and completion, or reference or base: those of b."""
    b: str | None
    """The same; reference and base are those of a."""
    out: Folder
    """The folder of the page and its key, and of the result."""
    mode: Literal["pairwise", "rating"] | None
    """Whether a page shows two completions to choose from, or one to rate from 1 to 5; null: pairwise."""
    prompts: Positive | None
    """How many pairs are taken, at most; null: 50."""
    repeats: Share | None
    """The share of items that are shown again, with places exchanged, to see how a judge agrees with themselves; null: 0.1."""
    about: Literal["continuation", "sentiment", "summarisation", "translation", "words", "numbers"] | None
    """The task whose question and criteria judges are shown; null: the runs' own task, or else continuation."""
    question: str | None
    """The question that judges answer; null: the task's."""
    criteria: list[str] | None
    """The things that judges are told to look at, a line each; null: the task's, or none where a question is given."""
    seed: Seed | None
    """Makes the order of the page, and the noise of bootstraps; null: 0."""
    score: str | list[str] | None
    """Files of answers to score, a folder of such, or a pattern; null: writes a page."""
    compilation_cache: str
    """The folder of JAX's cache of compiled programs, which later launches take them from; ~ is the home folder."""
