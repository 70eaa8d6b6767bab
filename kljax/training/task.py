"""What a config asks for, made ready and checked before anything compiles: text, tokenizer, prompts, mesh, model."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kljax.config import Config, DecoderConfig, EncoderConfig, HuggingFaceModel, to_dict
from kljax.data import tokenizers
from kljax.data.batches import PromptRows, prompt_rows
from kljax.data.text import Splits, load_splits, whole_column
from kljax.errors import UserError
from kljax.models import huggingface
from kljax.models.sampling import Sampler
from kljax.training import mesh as meshes
from kljax.training.resources import divide_cpu
from kljax.training.state import Architecture, decoder_architecture
from kljax.types import Tokenizer
from kljax.validation import check_lengths, without_defaults

HASHED_AT_ONCE = 1000  # rows: one by one, `datasets` takes ten times as long


@dataclass(frozen=True)
class Task:
    """The ingredients that base model, RLHF and analysis share. `pretrained` is where the model's weights are, if anywhere."""

    config: Config
    mesh: Mesh
    splits: Splits
    tokenizer: Tokenizer
    model: DecoderConfig | EncoderConfig
    vocab_size: int
    pretrained: huggingface.Pretrained | None

    @property
    def decoder(self) -> DecoderConfig:
        """The model's parts; an encoder writes no text."""
        if isinstance(self.model, EncoderConfig):
            raise UserError(
                "model: got an encoder, which writes no text; expected a decoder, such as model=gpt2. Encoders are for "
                "experiments/pretrain.py with pretrain/objective=classification, regression, masked_token, preference or "
                "rated_pairs."
            )
        return self.model

    @cached_property
    def architecture(self) -> Architecture:
        """The decoder without its parameters."""
        return decoder_architecture(self.decoder, self.vocab_size, self.mesh)

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
            cache_dtype=rollout.cache_dtype,
        )


def prepare(config: Config) -> Task:
    """Load the data, build or load the tokenizer, lay out the mesh, look at the model; refuse what does not fit."""
    mesh = meshes.build(config.mesh)
    pretrained = huggingface.describe(config.model) if isinstance(config.model, HuggingFaceModel) else None
    splits = load_splits(config.data)
    # Without need of one, a tokenizer that is trained here has no mask token: the policy could write it.
    masks = config.pretrain.objective.kind == "masked_token" or config.pretrain.augmentation.mask > 0
    special = tokenizers.SPECIAL | (tokenizers.MASK if masks else {})
    tokenizer = tokenizers.build(config.tokenizer, whole_column(splits.train), special)
    return make_task(config, mesh, splits, tokenizer, pretrained)


def make_task(
    config: Config,
    mesh: Mesh,
    splits: Splits,
    tokenizer: Tokenizer,
    pretrained: huggingface.Pretrained | None,
) -> Task:
    """The task, its sizes checked."""
    if pretrained is not None:
        model, vocab_size = pretrained.config, pretrained.vocab_size
        huggingface.check_tokenizer(pretrained, tokenizer)
        check_lengths(config, model.context)
    else:
        assert not isinstance(config.model, HuggingFaceModel)
        model, vocab_size = config.model, len(tokenizer)
    meshes.check_sizes(config, model, vocab_size, mesh)
    return Task(config, mesh, splits, tokenizer, model, vocab_size, pretrained)


def set_up_process(config: Config) -> None:
    """What the config says of this process as a whole. Before the first use of a device."""
    divide_cpu(config)
    use_compilation_cache(config.run.compilation_cache)


def use_compilation_cache(folder: str) -> None:
    """Keep compiled programs on disk, so that a second launch starts fast."""
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a launch has some thirty small ones, 30 ms each


def base_path(task: Task) -> Path:
    """Where the config's base model lies: its name tells the text, tokenizer, model and recipe that it was made from."""
    digest = hashlib.sha256(json.dumps(without_defaults(base_identity(task)), sort_keys=True).encode())
    return Path(task.config.run.root) / "bases" / f"{task.config.name}-{digest.hexdigest()[:8]}"


def base_identity(task: Task) -> dict[str, Any]:
    """All that the base model depends on."""
    values = to_dict(task.config)
    data = {key: value for key, value in values["data"].items() if key != "prompt"}
    rows = hashlib.sha256()
    for split in (task.splits.train, task.splits.held_out, task.splits.test):
        for some in [] if split is None else split.iter(HASHED_AT_ONCE):  # every column: labels and ratings, too
            rows.update(repr(some).encode())
    weights = {} if task.pretrained is None else {"weights": task.pretrained.fingerprint}
    return {"data": data, "rows": rows.hexdigest()} | weights | {key: values[key] for key in ("tokenizer", "model", "pretrain")}
