"""The schema: one frozen dataclass a section, with types, bounds and one line of doc a field.

Values live in `configs/` (Hydra), types and docs here, each once. `validation.validate` turns the composed dictionary into a
`Config`; the library sees only the validated object.
"""

from typing import Annotated, Any, Literal, TypeAlias, TypeVar, dataclass_transform

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
Unit = Annotated[float, Field(ge=0, le=1, strict=True)]
Mass = Annotated[float, Field(gt=0, le=1, strict=True)]
Interval = Annotated[list[Unit], Field(min_length=2, max_length=2)]
Folder = Annotated[str, Field(min_length=1)]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "mlp", "layer"]
Devices = Annotated[int, Field(ge=-1, strict=True)]
Two = Annotated[int, Field(ge=2, strict=True)]
TooLong = Literal["refuse", "drop", "cut"]
Target = Literal["q", "k", "v", "out", "gate", "up", "down"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]
# The rows of PENALTIES, ALGORITHMS, REWARD_SCALES and DIVERGENCES by name: the tables hold functions, which need JAX, and a
# command line does not. tests/policy/ compares them.
PenaltyName = Literal[
    "exact", "k1_reward", "exact_token", "k2_loss", "weighted_k3_loss", "k3_loss", "k1_loss", "k3_reward", "k2_reward"
]
AlgorithmName = Literal["reinforce", "rloo"]
RewardScaleName = Literal["none", "batch_std", "prompt_std"]
PlainDivergenceName = Literal["reverse_kl", "forward_kl", "jeffreys", "chi_squared", "total_variation", "squared_hellinger"]


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
class RandomWordsSource:
    """Sentences of exact length, words drawn uniformly: for measuring speed."""

    kind: Literal["random_words"]
    words: Positive  # different ones, all of which occur; a tokenizer of words has 3 entries more
    length: Positive  # words a sentence
    sentences: Positive  # how many to draw
    seed: Seed


@strict
class TextSource:
    """Text or conversations through `datasets`: local Parquet, JSON, CSV or text, or the name of a data set on the hub."""

    kind: Literal["text"]
    path: str | Annotated[list[str], Field(min_length=1)]  # a file, a directory, a pattern, a list of them, or a hub name
    column: str | None  # of texts or conversations; null: the one of text, prompt, messages and conversations that there is
    split: str  # of a hub data set, or of a directory whose files are named by it; a file is one, called "train"
    held_out_path: str | None  # a file of its own for the held-out rows; null: a fraction of the rows
    test_path: str | None  # a file that is looked at once, when the model is fitted; null: none
    subset: str | None = None  # of a hub data set, which calls it a configuration, too; null: its only one
    revision: str | None = None  # of a hub data set: a branch, a tag or a commit; null: the newest
    separator: str | None = None  # between the fields of a CSV file; null: the one that divides its header
    encoding: str | None = None  # of a file of characters; null: UTF-8, or what its byte order mark says


@strict
class PrefixPrompt:
    """Prompts are the first few tokens of each text, their number drawn by (seed, row)."""

    kind: Literal["prefix"]
    min_tokens: Natural
    max_tokens: Natural


@strict
class WholePrompt:
    """Prompts are whole texts."""

    kind: Literal["whole"]
    max_tokens: Positive
    too_long: TooLong = "refuse"  # what happens to a longer one; cut: it loses its end


@strict
class ChatPrompt:
    """Prompts are conversations in the tokenizer's own chat template: those of the data, or one message around each text."""

    kind: Literal["chat"]
    system: str | None  # what is said before; null: nothing, or what the template says by itself
    message: str  # {text} stands for the row's text; of conversations, as they are, it is {text} alone
    words: Positive | None  # of the text, from its beginning; null: all
    max_tokens: Positive  # of the whole prompt
    too_long: TooLong = "refuse"  # what happens to a longer one; cut: its last message loses its end
    last_answer: Literal["target", "continue"] = (
        "target"  # of a conversation that ends with one: it is left out, or gone on with
    )


@strict
class DataConfig:
    """Where text and prompts come from, and how the rows are split: base-model training, RL prompts, held out."""

    source: GrammarSource | LettersSource | RandomWordsSource | TextSource = Field(discriminator="kind")
    prompt: PrefixPrompt | WholePrompt | ChatPrompt = Field(discriminator="kind")
    share: Interval  # the part of the rows, in the order that `seed` shuffles; disjoint parts have no row in common
    prompt_fraction: Share  # rows kept for RL prompts
    held_out_fraction: Share  # rows kept for early stopping, held-out figures and analysis
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
    revision: str | None = None  # branch, tag or commit of a hub name; null: its default


@strict
class LinearScaling:
    """Rotary positions divided by a number (position interpolation, Chen et al. 2023)."""

    kind: Literal["linear"]
    factor: AboveZero


@strict
class Llama3Scaling:
    """Rotary positions as Llama 3.1 has them: slow pairs are divided by `factor`, fast ones are not, with a blend between."""

    kind: Literal["llama3"]
    factor: AboveZero
    low_freq_factor: AboveZero  # slow: fewer turns than this within original_context
    high_freq_factor: AboveZero  # fast: more turns than this
    original_context: Positive  # longest sequence before the positions were scaled


@strict
class YarnScaling:
    """YaRN (Peng et al. 2023): like llama3, blended by the pair's number, and cosine and sine are scaled, too."""

    kind: Literal["yarn"]
    factor: AboveZero
    attention_factor: AboveZero  # of cosine and sine
    beta_fast: AboveZero  # fast: more turns than this within original_context
    beta_slow: AboveZero  # slow: fewer turns than this
    truncate: bool  # the blend begins and ends at whole pairs
    original_context: Positive  # longest sequence before the positions were scaled


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling


@strict
class DecoderConfig:
    """The decoder, spelled by its parts: GPT-2, Llama, Qwen, OLMo are choices of them (configs/model/)."""

    kind: Literal["decoder"]
    positions: Literal["learned", "rotary"]
    norm: Literal["layer", "rms"]
    mlp: Literal["gelu", "swiglu"]
    bias: Literal["none", "qkv", "all"]  # on no matrix, on queries, keys and values, on every one
    normed: Literal["inputs", "outputs"] = "inputs"  # what of attention and MLP goes through a norm
    qk_norm: bool | Literal["whole"]  # an RMS norm on each head's queries and keys; whole: on those of all heads together
    tied_head: bool  # the output matrix is the embedding
    layers: Positive
    d_model: Positive
    d_mlp: Positive  # of this and the next two, null in a file or a command line: by the other sizes (derived.py)
    heads: Positive
    kv_heads: Positive  # fewer than heads: grouped-query attention
    head_dim: Positive
    context: Positive  # longest sequence, prompt included
    norm_eps: AboveZero
    rope_theta: AboveZero  # rotary base
    rope_scaling: LinearScaling | Llama3Scaling | YarnScaling | None = Field(default=None, discriminator="kind")  # null: none
    nope_every: Natural = 0  # every so many layers one has no positions (NoPE); 0: all have them
    dropout: Share  # in pretraining only: RL samples and scores without
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters; those that are trained are float32
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # time steps projected to the vocabulary at once; below T, [B, T, V] never exists
    vocab_chunk: Positive | None  # entries of the vocabulary at once, too, summed up block by block; null: all


@strict
class EncoderConfig:
    """The encoder: BERT, DistilBERT and RoBERTa are choices of its parts (configs/model/)."""

    kind: Literal["encoder"]
    layers: Positive
    d_model: Positive
    d_mlp: Positive  # null in a file or a command line: 4 d_model
    heads: Positive
    context: Positive  # longest sequence
    first_position: Natural  # of the table of positions: 2 in RoBERTa
    segments: Natural  # rows of the table of segments, of which the first is used; 0: no such table
    head: Literal["tanh", "relu"]  # activation of the dense layer between the first token and the outputs
    norm_eps: AboveZero
    dropout: Share  # in fitting only
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # tokens projected to the vocabulary at once


@strict
class HuggingFaceModel:
    """A decoder or encoder with its weights: a directory as `save_pretrained` writes it, or a hub name. Or a LoRA of PEFT's."""

    kind: Literal["huggingface"]
    path: str
    revision: str | None = None  # branch, tag or commit of a hub name; null: its default
    base: str | None = None  # the model under a LoRA of PEFT's; null: the one that its adapter_config.json names
    context: Positive | None  # longest sequence; null: the model's own
    dropout: Share  # in pretraining only
    dtype: Dtype  # of activations; log-probs are float32
    param_dtype: Dtype  # of parameters, whatever the file has; those that are trained are float32
    remat: Remat  # computed again in the backward pass and not kept for it: nothing, each MLP, or each layer
    logit_chunk: Positive  # time steps projected to the vocabulary at once
    vocab_chunk: Positive | None  # entries of the vocabulary at once, too (decoders); null: all


@strict
class NoAdapter:
    """Every parameter is trained."""

    kind: Literal["none"]


@strict
class LoraAdapter:
    """Low-rank adapters (Hu et al. 2021): W + (alpha/rank)·A·B, W frozen; the frozen model is held once, the reference too."""

    kind: Literal["lora"]
    rank: Positive
    alpha: AboveZero
    targets: Annotated[list[Target], Field(min_length=1)] | None  # matrices of each layer; null: every one that the model has


@strict
class OptimizerConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and decoupled weight decay."""

    learning_rate: AboveZero
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up, to 0 at the last step
    warmup_steps: Natural  # the k-th update has k/warmup_steps of the rate
    b1: Share
    b2: Share
    eps: AboveZero
    weight_decay: NonNegative  # on matrices only
    clip_norm: AboveZero


@strict
class NextToken:
    """Each token from all before it: a decoder's base model."""

    kind: Literal["next_token"]


@strict
class MaskedToken:
    """BERT: of the tokens that are chosen, 80 % are masked, 10 % replaced and 10 % kept; the model says which they were."""

    kind: Literal["masked_token"]
    probability: Fraction  # that a token is chosen


@strict
class Classification:
    """The text's class: cross-entropy, which is forward KL(labels‖model)."""

    kind: Literal["classification"]
    label: str  # the column of classes


@strict
class Regression:
    """The text's rating, by squared error: a reward model."""

    kind: Literal["regression"]
    label: str  # the column of ratings


@strict
class Preference:
    """Bradley–Terry on pairs: −log σ(r(chosen) − r(rejected)); the text column is the chosen one. A reward model."""

    kind: Literal["preference"]
    rejected: str  # the column of rejected texts


@strict
class RatedPairs:
    """Bradley–Terry on pairs of texts with different ratings, drawn by `pretrain.seed`. A reward model."""

    kind: Literal["rated_pairs"]
    label: str  # the column of ratings
    margin: NonNegative  # pairs whose ratings differ by no more are not drawn


@strict
class Augmentation:
    """Noise on the training texts' tokens, anew each epoch; each is the probability for a token."""

    delete: Share
    swap: Share  # with the token after it
    mask: Share  # by the mask token, or the unknown one


@strict
class PretrainConfig:
    """Supervised fitting on the training rows, by maximum likelihood, which minimises forward KL(data‖model)."""

    objective: NextToken | MaskedToken | Classification | Regression | Preference | RatedPairs = Field(discriminator="kind")
    steps: Natural  # 0: a Hugging Face model as it is
    batch: Positive  # sequences a step
    length: Two  # tokens a sequence, longer texts are cut, into windows where every token is predicted
    augmentation: Augmentation
    eval_every: Positive  # steps between looks at the held-out rows
    watch: Literal["loss", "accuracy", "f1", "agreement"]  # the held-out figure by which the best parameters are known
    patience: Positive  # looks without a better figure before stopping; the best parameters are kept
    seed: Seed
    optimizer: OptimizerConfig


@strict
class RolloutConfig:
    """How completions are sampled: from the whole distribution, which is the one that is scored."""

    prompts: Two  # a step, each with its samples (2 at least: standard errors are over distinct prompts)
    samples: Positive  # completions a prompt
    max_new_tokens: Positive
    temperature: NonNegative  # scales policy and reference logits alike, when sampling and when scoring; 0 is greedy
    cache_dtype: Dtype | None  # of keys and values while sampling; null: that of the activations
    updates: Positive  # optimiser steps a rollout; those after the first are off-policy, with importance weights
    microbatches: Positive  # parts of the batch whose gradients are added up, one after another: less memory, same gradient
    keep_activations: bool | None  # of sampling, for the gradient, which needs no forward pass then; null: where they fit


@strict
class RewardTerm:
    """One term of the reward; the reward is the weighted sum of all."""

    kind: Literal["jax", "python"]  # a factory of a JAX function, or a Python function of texts
    function: str  # a built-in name, or a dotted path to your own
    weight: Number
    arguments: dict[str, Any]  # keyword arguments for the factory (jax) or for each call (python)


@strict
class NeverRefresh:
    """The reference stays what it is."""

    kind: Literal["never"]


@strict
class RefreshEvery:
    """The reference becomes the policy of that moment every so many steps."""

    kind: Literal["every"]
    steps: Positive


@strict
class RefreshAverage:
    """The reference is an exponential average of the policy's parameters: decay·reference + (1 − decay)·policy a step."""

    kind: Literal["average"]
    decay: Fraction


@strict
class ReferenceConfig:
    """The model that the policy is held to."""

    path: str | None  # another checkpoint of the same architecture: a run directory or a Hugging Face one; null: the base model
    revision: str | None = None  # branch, tag or commit, where path is a hub name; null: its default
    base: str | None = None  # the model under it, where path is a LoRA of PEFT's; null: the one that its files name
    dtype: Dtype  # of its parameters
    memory: Literal["device", "host"]  # where they lie while they are not used
    refresh: NeverRefresh | RefreshEvery | RefreshAverage = Field(discriminator="kind")


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

    kind: PlainDivergenceName


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

    penalty: PenaltyName
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
    """Where a run is written and how often, and how its process uses the machine. No number changes, but in its last digits."""

    root: Folder  # runs live in <root>/<name>/<variant>
    variant: Name  # auto: the overrides of the command line
    save_every: Positive  # steps between checkpoints
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
    run: RunConfig


@strict
class AnalysisConfig:
    """A look at a finished or running run (experiments/analyze.py). Null: as the run's own config says."""

    run: str  # a run directory
    step: Literal["latest"] | Natural
    prompts: Two | None
    samples: Positive | None
    seed: Seed | None
    top_k: Natural | None
    top_p: Mass | None
    rewards: Literal["built_in", "custom"]  # custom: the run's own reward functions, too, whose code is imported
    mesh: MeshConfig
    samples_shown: Natural
    compilation_cache: str


@strict
class ExportConfig:
    """A step of a run as a Hugging Face directory (experiments/export.py): the whole model, or its LoRA as PEFT reads it."""

    run: str  # a run directory
    step: Literal["latest"] | Natural
    out: str  # a directory that is not there yet
    merge: bool  # LoRA adapters into the weights; false: the adapters alone, as PEFT's files
    base: str | None  # with merge=false: where the model under the adapters lies; null: the run's model.path
    dtype: Dtype
    mesh: MeshConfig
    compilation_cache: str


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dictionary of a validated config: what config.yaml holds."""
    return TypeAdapter(type(config)).dump_python(config)
