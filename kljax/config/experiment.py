"""A whole experiment."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import AboveZero, Name, Positive, Seed, strict
from kljax.config.data import DataConfig
from kljax.config.kl import KlConfig
from kljax.config.model import DecoderConfig, EncoderConfig, HuggingFaceModel, LoraAdapter, NoAdapter
from kljax.config.optimizer import OptimizerConfig
from kljax.config.pretrain import PretrainConfig
from kljax.config.reference import ReferenceConfig
from kljax.config.rollout import RewardTerm, RolloutConfig
from kljax.config.run import EvaluationConfig, MeshConfig, RunConfig, TrackerName
from kljax.config.tokenizer import BpeTokenizer, PretrainedTokenizer, WordTokenizer

# Rows of tables by name, as in kl.py.
AlgorithmName = Literal["reinforce", "rloo"]
RewardScaleName = Literal["none", "batch_std", "prompt_std"]


@strict
class Config:
    """A whole experiment: a base model, fitted or imported, then RLHF from it."""

    name: Name
    seed: Seed  # of sampling, the order of prompts and adapters' initial values; data, base and evaluation have their own
    epochs: AboveZero | None = None  # passes over the prompts, from which `steps` follow; null: as many steps as `steps` says
    steps: Positive
    data: DataConfig
    tokenizer: WordTokenizer | BpeTokenizer | PretrainedTokenizer = Field(discriminator="kind")
    model: DecoderConfig | EncoderConfig | HuggingFaceModel = Field(discriminator="kind")
    pretrain: PretrainConfig
    adapter: NoAdapter | LoraAdapter = Field(discriminator="kind")
    reference: ReferenceConfig
    rollout: RolloutConfig
    reward: Annotated[dict[str, RewardTerm], Field(min_length=1)]
    algorithm: AlgorithmName
    reward_scale: RewardScaleName  # what rewards are divided by; any but none rescales beta
    kl: KlConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    evaluation: EvaluationConfig
    track: list[TrackerName] = Field(default=["tensorboard"])  # where figures go beside metrics.jsonl
    run: RunConfig
