"""Where a run is written, on which devices it is made, how it is looked at."""

from typing import Literal

from kljax.config.base import Devices, Folder, Mass, Name, Natural, Positive, Seed, Two, strict


@strict
class MeshConfig:
    """Devices a mesh axis; -1 takes the rest (one axis at most)."""

    data: Devices
    """Devices among which the batch is divided; -1: the rest."""
    fsdp: Devices
    """Devices among which the batch and the parameters are divided; -1: the rest."""
    tensor: Devices
    """Devices among which heads, MLP and vocabulary are divided; -1: the rest."""


BASES = "bases"
"""The folder of fitted models, beside the runs' folders."""
_WRITERS = {"frontier": "kljax frontier", "overoptimisation": "experiments.studies.overoptimisation"}
WRITTEN_BESIDE = {f"{name}.{kind}": writer for name, writer in _WRITERS.items() for kind in ("csv", "png")}
"""Files in a folder of runs, beside them, and what writes each."""


TrackerName = Literal["tensorboard", "wandb", "mlflow"]
"""Rows of the table of trackers, kljax/runs/trackers/."""


@strict
class KeepConfig:
    """Which checkpoints stay on disk."""

    last: Two
    """The newest ones: while one is written the one before it has to be whole."""
    every: Natural
    """Beside them every so many saves, for analysis; 0: none."""


@strict
class RunConfig:
    """Where a run is written and how often, and how its process uses the machine. No number changes, but in its last digits."""

    root: Folder
    """The folder of runs, which live in <root>/<name>/<variant>."""
    variant: Name
    """The run's folder; auto: the overrides of the command line."""
    save_every: Positive
    """Steps between checkpoints."""
    keep: KeepConfig = KeepConfig(last=2, every=10)
    """Which checkpoints stay on disk."""
    log_every: Positive
    """Steps between lines of metrics.jsonl."""
    sample_every: Positive
    """Steps between entries of samples.jsonl."""
    samples_shown: Positive
    """Completions an entry of samples.jsonl."""
    oracle_every: Natural
    """Steps between exact looks at a task that can be enumerated (oracle/… metrics); 0: none."""
    export_to: str | None
    """Where `kljax pretrain` writes the fitted model, too, as a Hugging Face directory; null: nowhere."""
    compilation_cache: Folder
    """The folder of JAX's cache of compiled programs, which later launches take them from; ~ is the home folder."""
    unroll_layers: bool | None = None
    """Whether the step's program has layers one by one, or a loop over them; null: which is sooner done."""
    cpu_devices: Positive | None
    """The number of devices that JAX takes a CPU for, to be shared out by `mesh`; null: as many as `mesh` names, or one."""


@strict
class EvaluationConfig:
    """The look at held-out prompts after the last step, and in kljax analyze."""

    prompts: Two
    """The first so many held-out rows."""
    samples: Positive
    """Completions a prompt."""
    seed: Seed
    """With the run's own it makes the noise of sampling, which no training step has."""
    top_k: Natural = 0
    """Samples from the k likeliest tokens only, here alone; 0: from all."""
    top_p: Mass = 1.0
    """Samples from the likeliest tokens that have this probability together, here alone; 1: from all."""
    every: Natural = 0
    """Steps between such looks while it trains (held_out/… metrics), the last policy always being looked at; 0: none."""
    best: Literal["objective", "reward"] | None = "objective"
    """The held-out figure by which a step is the best, which stays on disk: run=…@best; null: none."""
