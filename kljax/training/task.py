"""What a config asks for, made ready and checked before anything compiles: text, tokenizer, prompts, mesh, model."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from kljax.config import Config, to_dict
from kljax.data import tokenizers
from kljax.data.batches import PromptRows, prompt_rows
from kljax.data.text import Splits, load_splits
from kljax.models.sampling import Sampler
from kljax.training import mesh as meshes
from kljax.training.state import Architecture, architecture


@dataclass(frozen=True)
class Task:
    """The ingredients that base model, RLHF and analysis share."""

    config: Config
    mesh: Mesh
    splits: Splits
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture

    def prompts(self) -> PromptRows:
        """Prompts to train on."""
        return prompt_rows(self.tokenizer, self.splits.prompts, self.config.data.prompt, self.config.data.seed)

    def held_out_prompts(self) -> PromptRows:
        """Prompts that no training step sees."""
        return prompt_rows(self.tokenizer, self.splits.held_out, self.config.data.prompt, self.config.data.seed)

    def sampler(self, samples: int) -> Sampler:
        """The config's way of sampling, `samples` completions a prompt."""
        rollout = self.config.rollout
        return Sampler(
            samples=samples,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            eos_id=self.tokenizer.eos_token_id,  # pyright: ignore
            pad_id=self.tokenizer.pad_token_id,  # pyright: ignore
        )


def prepare(config: Config) -> Task:
    """Load the data, build or load the tokenizer, lay out the mesh; refuse what does not fit."""
    mesh = meshes.build(config.mesh)
    splits = load_splits(config.data)
    tokenizer = tokenizers.build(config.tokenizer, splits.train["text"])
    vocab_size = len(tokenizer)
    meshes.check_sizes(config, vocab_size, mesh)
    return Task(config, mesh, splits, tokenizer, architecture(config.model, vocab_size, mesh))


def use_compilation_cache(folder: str) -> None:
    """Keep compiled programs on disk, so that a second launch starts fast."""
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def base_path(task: Task) -> Path:
    """Where the config's base model lies: its name tells the text, tokenizer, model and recipe that it was made from."""
    digest = hashlib.sha256(json.dumps(base_identity(task), sort_keys=True).encode())
    return Path(task.config.run.root) / "bases" / f"{task.config.name}-{digest.hexdigest()[:8]}"


def base_identity(task: Task) -> dict[str, Any]:
    """All that the base model depends on."""
    values = to_dict(task.config)
    data = {key: value for key, value in values["data"].items() if key != "prompt"}
    text = hashlib.sha256("\n".join(task.splits.train["text"]).encode()).hexdigest()
    return {"data": data, "text": text} | {key: values[key] for key in ("tokenizer", "model", "pretrain")}
