"""Eight simulated devices for the tests of sharding, compiled programs shared between tests, an experiment of seconds."""

import gc
import json
import os
import shutil
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

# Programs that run for milliseconds are compiled more cheaply, here and in scripts that tests start: without LLVM's expensive
# passes, and by XLA's older code generator, which takes half the time. XLA's other passes stay as users have them.
if version("jaxlib").startswith("0.10."):  # later ones know no such flag, and end the process at it
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # a plugin may have imported JAX before
# Many tests compile the same small program; a second run of the suite compiles almost nothing.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kljax-tests"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

from kljax.command_line import compose  # noqa: E402
from kljax.config import Config, to_dict  # noqa: E402
from kljax.fitting import fit as fitting  # noqa: E402
from kljax.models.layers import is_unrolled  # noqa: E402
from kljax.runs.setup import base_path  # noqa: E402
from kljax.training import trainer  # noqa: E402

gc.set_threshold(200_000, 50, 50)  # traces are many small objects: collecting them as often as by default is 7 % of the time

TINY = [
    "data.source.sentences=400",
    "model.layers=1",
    "model.d_model=16",
    "model.d_mlp=32",
    "model.heads=2",
    "model.kv_heads=2",
    "model.head_dim=8",
    "pretrain.steps=20",
    "pretrain.eval_every=10",
    "pretrain.batch=16",
    "pretrain.optimizer.warmup_steps=2",
    "rollout.prompts=8",
    "rollout.samples=2",
    "rollout.max_new_tokens=8",
    "steps=6",
    "optimizer.warmup_steps=1",
    "evaluation.prompts=16",
    "evaluation.samples=2",
    "run.save_every=2",
    "run.keep.last=3",
    "run.sample_every=2",
    "mesh.data=1",
]


@pytest.fixture(scope="session")
def compilation_cache() -> Path:
    """Where compiled programs lie, for the scripts that set it themselves."""
    return CACHE


@pytest.fixture(scope="session")
def tiny_in(compilation_cache):
    """tiny_in(root): the command line of a run of seconds below root."""
    return lambda root: [*TINY, f"run.root={root}", f"run.compilation_cache={compilation_cache}"]


@pytest.fixture
def tiny_overrides(tiny_in, tmp_path: Path) -> list[str]:
    """The same below tmp_path."""
    return tiny_in(tmp_path / "runs")


@pytest.fixture
def tiny(tiny_in, tmp_path: Path):
    """tiny(*overrides): the config of such a run."""

    def make(*overrides: str) -> Config:
        if any(override.startswith("run.root=") for override in overrides):
            return compose([*tiny_in("."), *overrides], Config)
        config = _composed((*tiny_in("."), *overrides))
        return replace(config, run=replace(config.run, root=str(tmp_path / "runs")))

    return make


@cache
def _composed(overrides: tuple[str, ...]) -> Config:
    """Composed once, however many tests want it: each time takes 70 ms."""
    return compose(overrides, Config)


@pytest.fixture(autouse=True, scope="session")
def base_models_are_fitted_once(tmp_path_factory):
    """A run gets a copy of the base model that an earlier one with the same recipe has fitted: the files are its own."""
    fit, kept = fitting.ensure_base, tmp_path_factory.mktemp("bases")

    def ensure_base(setup):
        path = base_path(setup)
        if (kept / path.name).exists() and not path.exists():
            shutil.copytree(kept / path.name, path)
        elif fit(setup) and not (kept / path.name).exists():
            shutil.copytree(path, kept / path.name)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "ensure_base", ensure_base)
        yield


@pytest.fixture(autouse=True, scope="session")
def steps_are_compiled_once():
    """Trainers of configs that differ in names and seeds alone take their steps by one program."""
    make, known = trainer._step_taker, {}

    def step_taker(setup, prompts, parts, host):
        if host is not None:
            return make(setup, prompts, parts, host)
        config = {
            key: value
            for key, value in to_dict(setup.config).items()
            if key not in ("name", "seed", "run", "track", "evaluation")
        }
        chosen = parts.sampler.eos_ids, parts.keep_activations, is_unrolled(parts.shardings)
        key = json.dumps([config, setup.vocab_size, *chosen], sort_keys=True)
        return known.setdefault(key, make(setup, prompts, parts, host))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_step_taker", step_taker)
        yield
