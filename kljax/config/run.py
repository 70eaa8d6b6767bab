"""Where a run is written, on which devices it is made, how it is looked at."""

from typing import Literal

from kljax.config.base import Devices, Folder, Mass, Name, Natural, Positive, Seed, Two, strict


@strict
class MeshConfig:
    """Devices a mesh axis; -1 takes the rest (one axis at most)."""

    data: Devices
    fsdp: Devices
    tensor: Devices


BASES = "bases"
"""The folder of fitted models, beside the runs' folders."""
WRITTEN_BESIDE = {f"{script}.{kind}": script for script in ("frontier", "overoptimisation") for kind in ("csv", "png")}
"""Files in a folder of runs, beside them, and the script that writes each."""


TrackerName = Literal["tensorboard", "wandb", "mlflow"]
"""Rows of the table of trackers, kljax/runs/trackers/."""


@strict
class KeepConfig:
    """Which checkpoints stay on disk."""

    last: Two  # the newest ones: while one is written the one before it has to be whole
    every: Natural  # beside them every so many saves, for analysis; 0: none


@strict
class RunConfig:
    """Where a run is written and how often, and how its process uses the machine. No number changes, but in its last digits."""

    root: Folder  # runs live in <root>/<name>/<variant>
    variant: Name  # auto: the overrides of the command line
    save_every: Positive  # steps between checkpoints
    keep: KeepConfig = KeepConfig(last=2, every=10)  # of them
    log_every: Positive  # steps between lines of metrics.jsonl
    sample_every: Positive  # steps between entries of samples.jsonl
    samples_shown: Positive  # completions an entry
    oracle_every: Natural  # steps between exact looks at a task that can be enumerated (oracle/… metrics); 0: none
    export_to: str | None  # experiments/pretrain.py writes the fitted model here, too, as a Hugging Face directory
    compilation_cache: Folder  # directory of JAX's persistent cache
    unroll_layers: bool | None = None  # layers one by one in the step's program, or in a loop; null: which is sooner done
    cpu_devices: Positive | None  # what JAX takes a CPU for, to be shared out by `mesh`; null: as many as `mesh` names, or one


@strict
class EvaluationConfig:
    """The look at held-out prompts after the last step, and in experiments/analyze.py."""

    prompts: Two  # the first so many held-out rows
    samples: Positive  # completions a prompt
    seed: Seed  # with the run's own it makes the noise of sampling, which no training step has
    top_k: Natural = 0  # cuts the distribution that is sampled, here alone; 0: off
    top_p: Mass = 1.0  # likewise; 1: off
    every: Natural = 0  # steps between such looks while it trains (held_out/… metrics); 0: none
    best: Literal["objective", "reward"] | None = "objective"  # whose mean is highest at the best step, which stays; null: none
