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
from kljax.config.task import NoTask, TextTask
from kljax.config.tokenizer import BpeTokenizer, PretrainedTokenizer, WordTokenizer

# Rows of tables by name, as in kl.py.
AlgorithmName = Literal["reinforce", "rloo"]
RewardScaleName = Literal["none", "batch_std", "prompt_std"]


@strict
class Config:
    """A whole experiment: a base model, fitted or imported, then RLHF from it."""

    name: Name
    """The experiment's name; its runs lie in run.root/name."""
    seed: Seed
    """Of sampling, the order of prompts and adapters' initial values; data, base model and evaluation have their own."""
    epochs: AboveZero | None = None
    """Passes over the prompts, from which `steps` follow; null: as many steps as `steps` says."""
    steps: Positive
    """RL steps: each is a rollout with its rollout.updates optimiser updates."""
    data: DataConfig
    """Where text and prompts come from, and how the rows are split."""
    task: NoTask | TextTask = Field(discriminator="kind", default=NoTask(kind="none"))
    """The task: how rows become prompts with targets, and what is measured of the answers."""
    tokenizer: WordTokenizer | BpeTokenizer | PretrainedTokenizer = Field(discriminator="kind")
    """The tokenizer, which turns text into tokens."""
    model: DecoderConfig | EncoderConfig | HuggingFaceModel = Field(discriminator="kind")
    """The model, by its parts or with its files."""
    pretrain: PretrainConfig
    """Supervised fitting of the base model, before RL."""
    adapter: NoAdapter | LoraAdapter = Field(discriminator="kind")
    """Whether every parameter is trained, or low-rank adapters alone."""
    reference: ReferenceConfig
    """The model that the policy is held to."""
    rollout: RolloutConfig
    """How completions are sampled."""
    reward: Annotated[dict[str, RewardTerm], Field(min_length=1)]
    """The terms of the reward by name; the reward is their weighted sum."""
    algorithm: AlgorithmName
    """The baseline: reinforce has none; rloo takes the mean of the prompt's other samples from each reward."""
    reward_scale: RewardScaleName
    """The divisor of rewards: none, or the standard deviation of a batch or a prompt; it rescales beta."""
    kl: KlConfig
    """The penalty for leaving the reference."""
    optimizer: OptimizerConfig
    """The optimiser of RL."""
    mesh: MeshConfig
    """How the devices are shared out."""
    evaluation: EvaluationConfig
    """The look at held-out prompts after the last step, and while it trains."""
    track: list[TrackerName] = Field(default=["tensorboard"])
    """Where figures go beside metrics.jsonl: tensorboard, wandb, mlflow; []: nowhere."""
    run: RunConfig
    """Where the run is written, how often, and how it uses the machine."""
