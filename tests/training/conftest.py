"""A whole experiment that takes seconds."""

from pathlib import Path

import pytest

from kljax.command_line import compose
from kljax.config import Config

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
    "run.sample_every=2",
    "mesh.data=1",
]


@pytest.fixture
def tiny(tmp_path: Path):
    """tiny(*overrides): the config of a run of seconds below tmp_path."""

    def config(*overrides: str) -> Config:
        return compose([*TINY, f"run.root={tmp_path}/runs", f"run.compilation_cache={tmp_path}/cache", *overrides], Config)

    return config
