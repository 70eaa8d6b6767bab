"""The schema: one frozen dataclass a section, with types, bounds and one line of doc a field.

Values live in `configs/` (Hydra), types and docs here, each once. `validation.validate` turns the composed dictionary into a
`Config`; the library sees only the validated object.
"""

from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

Schema = TypeVar("Schema")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def strict(schema: type[Schema]) -> type[Schema]:
    """A frozen dataclass whose fields are checked and that knows no others."""
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(schema)  # pyright: ignore


# strict: true is no number, though Python says that it is 1
Positive = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]  # a PRNG key has no room for more
Number = Annotated[float, Field(strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
AboveZero = Annotated[float, Field(gt=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, lt=1, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
Devices = Annotated[int, Field(ge=-1, strict=True)]
Two = Annotated[int, Field(ge=2, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]


@strict
class GrammarSource:
    """The built-in task: sentences drawn from the review grammar."""

    kind: Literal["grammar"]
    sentences: Positive  # how many to draw
    seed: Seed


@strict
class LettersSource:
    """A task small enough to enumerate: words of a few letters from a random Markov chain."""

    kind: Literal["letters"]
    letters: Annotated[int, Field(ge=2, le=26, strict=True)]
    sentences: Positive  # how many words to draw
    seed: Seed


@strict
class TextSource:
    """Text through `datasets`: a local Parquet, JSON Lines, CSV or text file, or the name of a data set on the hub."""

    kind: Literal["text"]
    path: str  # a file, or a hub name
    column: str  # the column that holds the text; a plain text file has one, called "text"
    split: str  # the split of a hub data set; a local file has one, called "train"


@strict
class PrefixPrompt:
    """Prompts are the first few tokens of each text, their number drawn by (seed, row)."""

    kind: Literal["prefix"]
    min_tokens: Natural
    max_tokens: Natural


@strict
class WholePrompt:
    """Prompts are whole texts; one longer than `max_tokens` is refused."""

    kind: Literal["whole"]
    max_tokens: Positive


@strict
class DataConfig:
    """Where text and prompts come from, and how the rows are split: base-model training, RL prompts, held out."""

    source: GrammarSource | LettersSource | TextSource = Field(discriminator="kind")
    prompt: PrefixPrompt | WholePrompt = Field(discriminator="kind")
    prompt_fraction: Fraction  # rows kept for RL prompts
    held_out_fraction: Fraction  # rows kept for early stopping, held-out figures and analysis
    seed: Seed  # of the split and of the prompts' lengths


@strict
class WordTokenizer:
    """One token a word, split at white space: for small closed vocabularies such as the grammar's."""

    kind: Literal["words"]


@strict
class BpeTokenizer:
    """A byte-level BPE trained on the task's text."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=259, strict=True)]  # 256 bytes and three special tokens at least


@strict
class PretrainedTokenizer:
    """A Hugging Face tokenizer: a directory or a hub name."""

    kind: Literal["pretrained"]
    path: str


@strict
class ModelConfig:
    """The decoder, spelled by its parts: GPT-2 and Llama are two choices of them (configs/model/)."""

    positions: Literal["learned", "rotary"]
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    bias: bool  # on every projection and MLP matrix
    tied_head: bool  # the output matrix is the embedding
    layers: Positive
    d_model: Positive
    d_mlp: Positive
    heads: Positive
    kv_heads: Positive  # fewer than heads: grouped-query attention
    head_dim: Positive
    context: Positive  # longest sequence, prompt included
    norm_eps: AboveZero
    rope_theta: AboveZero  # rotary base
    dropout: Share  # in pretraining only: RL samples and scores without
    dtype: Literal["float32", "bfloat16"]  # of activations; parameters and log-probs are float32
    remat: bool  # recompute each layer in the backward pass
    logit_chunk: Positive  # time steps projected to the vocabulary at once; [B, T, V] never exists


@strict
class OptimizerConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and decoupled weight decay."""

    learning_rate: AboveZero
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up, to 0 at the last step
    warmup_steps: Natural
    b1: Share
    b2: Share
    eps: AboveZero
    weight_decay: NonNegative  # on matrices only
    clip_norm: AboveZero


@strict
class PretrainConfig:
    """Maximum likelihood on the training rows, which minimises forward KL(data‖model)."""

    steps: Positive
    batch: Positive  # sequences a step
    length: Two  # tokens a sequence, longer texts are cut into windows
    eval_every: Positive  # steps between looks at the held-out rows
    patience: Positive  # looks without a better figure before stopping; the best parameters are kept
    seed: Seed
    optimizer: OptimizerConfig


@strict
class RolloutConfig:
    """How completions are sampled."""

    prompts: Two  # distinct prompts a step (2 at least: standard errors are over prompts)
    samples: Positive  # completions a prompt
    max_new_tokens: Positive
    temperature: NonNegative  # scales policy and reference logits alike, when sampling and when scoring; 0 is greedy
    top_k: Natural  # 0: off
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)]  # 1: off
    updates: Positive  # optimiser steps a rollout; those after the first are off-policy, with importance weights


@strict
class RewardTerm:
    """One term of the reward; the reward is the weighted sum of all."""

    kind: Literal["jax", "python"]  # a factory of a JAX function, or a Python function of texts
    function: str  # a built-in name, or a dotted path to your own
    weight: Number
    arguments: dict[str, Any]  # keyword arguments for the factory (jax) or for each call (python)


@strict
class FixedBeta:
    """beta stays `kl.beta`."""

    kind: Literal["fixed"]


@strict
class ScheduledBeta:
    """beta is `kl.beta` times an optax schedule of the step."""

    kind: Literal["scheduled"]
    schedule: str  # the name of a function of optax.schedules, such as linear_schedule
    arguments: dict[str, Any]  # its keyword arguments


@strict
class AdaptiveBeta:
    """Proportional control (Ziegler et al. 2019): beta grows while the sequence KL is above `target`."""

    kind: Literal["adaptive"]
    target: AboveZero  # nats per sequence
    horizon: AboveZero  # sequences; the smaller, the faster


@strict
class TargetBeta:
    """A dual variable on log beta that holds the sequence KL at `budget`."""

    kind: Literal["target"]
    budget: AboveZero  # nats per sequence
    rate: AboveZero  # log beta a step, where KL is off by a factor e or more
    gain: NonNegative  # log beta at once, likewise; it damps
    minimum: AboveZero  # beta is never below
    maximum: AboveZero  # nor above


@strict
class PlainDivergence:
    """A divergence of two next-token distributions that has no parameter; p is the policy, q the reference."""

    kind: Literal["reverse_kl", "forward_kl", "jeffreys", "chi_squared", "total_variation", "squared_hellinger"]


@strict
class JensenShannon:
    """Skewed Jensen–Shannon: mix·KL(q‖m) + (1 − mix)·KL(p‖m), m = mix·q + (1 − mix)·p."""

    kind: Literal["jensen_shannon"]
    mix: Fraction


@strict
class Renyi:
    """Rényi's divergence of order alpha; 1 is the reverse KL."""

    kind: Literal["renyi"]
    alpha: NonNegative


@strict
class AlphaDivergence:
    """The alpha divergence; 1 is the reverse KL, 0 the forward."""

    kind: Literal["alpha_divergence"]
    alpha: Number


@strict
class KlConfig:
    """The penalty for leaving the frozen reference."""

    penalty: Literal[
        "exact",
        "k1_reward",
        "exact_token",
        "k2_loss",
        "weighted_k3_loss",
        "k3_loss",
        "k1_loss",
        "k3_reward",
        "k2_reward",
    ]
    beta: NonNegative  # reward units per nat; at the start, where a controller moves it
    controller: FixedBeta | ScheduledBeta | AdaptiveBeta | TargetBeta = Field(discriminator="kind")
    divergence: PlainDivergence | JensenShannon | Renyi | AlphaDivergence = Field(discriminator="kind")  # of exact, exact_token
    hard_budget: AboveZero | None  # nats per sequence: a run that exceeds it stops and keeps its last checkpoint below


@strict
class MeshConfig:
    """Devices a mesh axis; -1 takes the rest (one axis at most)."""

    data: Devices
    fsdp: Devices
    tensor: Devices


@strict
class RunConfig:
    """Where a run is written and how often. Nothing here changes a number that the run computes."""

    root: str  # runs live in <root>/<name>/<variant>
    variant: Name  # auto: the overrides of the command line
    save_every: Positive  # steps between checkpoints
    log_every: Positive  # steps between lines of metrics.jsonl
    sample_every: Positive  # steps between entries of samples.jsonl
    samples_shown: Positive  # completions an entry
    oracle_every: Natural  # steps between exact looks at a task that can be enumerated (oracle/… metrics); 0: none
    compilation_cache: str  # directory of JAX's persistent cache


@strict
class EvaluationConfig:
    """The look at held-out prompts after the last step, and in experiments/analyze.py."""

    prompts: Two
    samples: Positive
    seed: Seed


@strict
class Config:
    """A whole experiment: a base model by maximum likelihood, then RLHF from it."""

    name: Name
    seed: Seed
    steps: Positive
    data: DataConfig
    tokenizer: WordTokenizer | BpeTokenizer | PretrainedTokenizer = Field(discriminator="kind")
    model: ModelConfig
    pretrain: PretrainConfig
    rollout: RolloutConfig
    reward: Annotated[dict[str, RewardTerm], Field(min_length=1)]
    algorithm: Literal["rloo", "reinforce"]
    reward_scale: Literal["none", "batch_std", "prompt_std"]  # what rewards are divided by; any but none rescales beta
    kl: KlConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    evaluation: EvaluationConfig
    run: RunConfig


@strict
class AnalysisConfig:
    """A look at a finished or running run (experiments/analyze.py). Null: as the run's own config says."""

    run: str  # a run directory
    step: Literal["latest"] | Natural
    prompts: Two | None
    samples: Positive | None
    seed: Seed | None
    mesh: MeshConfig
    samples_shown: Natural
    compilation_cache: str


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dictionary of a validated config: what config.yaml holds."""
    return TypeAdapter(type(config)).dump_python(config)
