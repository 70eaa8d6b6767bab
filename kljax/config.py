"""The schema: one frozen dataclass a section, with types, bounds and one line of doc a field.

Values live in `configs/` (Hydra), types and docs here, each once. `validate` turns the composed dictionary into a
`Config` or into one sentence for the person who wrote it; the library sees only the validated object.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from kljax.errors import UserError, did_you_mean

Schema = TypeVar("Schema")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def strict(schema: type[Schema]) -> type[Schema]:
    """A frozen dataclass whose fields are checked and that knows no others."""
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(schema)  # pyright: ignore


Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


@strict
class GrammarSource:
    """The built-in task: sentences drawn from the review grammar."""

    kind: Literal["grammar"]
    sentences: Positive  # how many to draw
    seed: Natural


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

    source: GrammarSource | TextSource = Field(discriminator="kind")
    prompt: PrefixPrompt | WholePrompt = Field(discriminator="kind")
    prompt_fraction: Fraction  # rows kept for RL prompts
    held_out_fraction: Fraction  # rows kept for early stopping, held-out figures and analysis
    seed: Natural  # of the split and of the prompts' lengths


@strict
class WordTokenizer:
    """One token a word, split at white space: for small closed vocabularies such as the grammar's."""

    kind: Literal["words"]


@strict
class BpeTokenizer:
    """A byte-level BPE trained on the task's text."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=259)]  # 256 bytes and three special tokens at least


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
    norm_eps: Annotated[float, Field(gt=0)]
    rope_theta: Annotated[float, Field(gt=0)]  # rotary base
    dropout: Annotated[float, Field(ge=0, lt=1)]  # in pretraining only: RL samples and scores without
    dtype: Literal["float32", "bfloat16"]  # of activations; parameters and log-probs are float32
    remat: bool  # recompute each layer in the backward pass
    logit_chunk: Positive  # time steps projected to the vocabulary at once; [B, T, V] never exists


@strict
class OptimizerConfig:
    """AdamW with a learning-rate schedule, global-norm clipping and decoupled weight decay."""

    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up, to 0 at the last step
    warmup_steps: Natural
    b1: Annotated[float, Field(ge=0, lt=1)]
    b2: Annotated[float, Field(ge=0, lt=1)]
    eps: Annotated[float, Field(gt=0)]
    weight_decay: NonNegative  # on matrices only
    clip_norm: Annotated[float, Field(gt=0)]


@strict
class PretrainConfig:
    """Maximum likelihood on the training rows, which minimises forward KL(data‖model)."""

    steps: Positive
    batch: Positive  # sequences a step
    length: Positive  # tokens a sequence, longer texts are cut into windows
    eval_every: Positive  # steps between looks at the held-out rows
    patience: Positive  # looks without a better figure before stopping; the best parameters are kept
    seed: Natural
    optimizer: OptimizerConfig


@strict
class RolloutConfig:
    """How completions are sampled."""

    prompts: Annotated[int, Field(ge=2)]  # distinct prompts a step (2 at least: standard errors are over prompts)
    samples: Positive  # completions a prompt
    max_new_tokens: Positive
    temperature: NonNegative  # scales policy and reference logits alike, when sampling and when scoring; 0 is greedy
    top_k: Natural  # 0: off
    top_p: Annotated[float, Field(gt=0, le=1)]  # 1: off


@strict
class RewardTerm:
    """One term of the reward; the reward is the weighted sum of all."""

    kind: Literal["jax", "python"]  # a factory of a JAX function, or a Python function of texts
    function: str  # a built-in name, or a dotted path to your own
    weight: float
    arguments: dict[str, Any]  # keyword arguments for the factory (jax) or for each call (python)


@strict
class KlConfig:
    """The reverse-KL penalty to the frozen reference."""

    penalty: Literal["exact", "k1_reward", "k2_loss", "k3_loss"]
    beta: NonNegative  # reward units per nat


@strict
class MeshConfig:
    """Devices a mesh axis; -1 takes the rest (one axis at most)."""

    data: Annotated[int, Field(ge=-1)]
    fsdp: Annotated[int, Field(ge=-1)]
    tensor: Annotated[int, Field(ge=-1)]


@strict
class RunConfig:
    """Where a run is written and how often. Nothing here changes a number that the run computes."""

    root: str  # runs live in <root>/<name>/<variant>
    variant: str  # auto: the overrides of the command line
    save_every: Positive  # steps between checkpoints
    log_every: Positive  # steps between lines of metrics.jsonl
    sample_every: Positive  # steps between entries of samples.jsonl
    samples_shown: Positive  # completions an entry
    compilation_cache: str  # directory of JAX's persistent cache


@strict
class EvaluationConfig:
    """The look at held-out prompts after the last step, and in experiments/analyze.py."""

    prompts: Annotated[int, Field(ge=2)]
    samples: Positive
    seed: Natural


@strict
class Config:
    """A whole experiment: a base model by maximum likelihood, then RLHF from it."""

    name: str
    seed: Natural
    steps: Positive
    data: DataConfig
    tokenizer: WordTokenizer | BpeTokenizer | PretrainedTokenizer = Field(discriminator="kind")
    model: ModelConfig
    pretrain: PretrainConfig
    rollout: RolloutConfig
    reward: Annotated[dict[str, RewardTerm], Field(min_length=1)]
    algorithm: Literal["rloo", "reinforce"]
    kl: KlConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    evaluation: EvaluationConfig
    run: RunConfig


@strict
class AnalysisConfig:
    """A look at a finished or running run (experiments/analyze.py). Null: as the run's own config says."""

    run: str  # a run directory
    step: Natural | Literal["latest"]
    prompts: Annotated[int, Field(ge=2)] | None
    samples: Positive | None
    seed: Natural | None
    mesh: MeshConfig
    samples_shown: Natural
    compilation_cache: str


WAYS_OUT = {
    "kl.beta": "To train without a penalty, set kl.beta=0.",
    "rollout.temperature": "For greedy decoding, set rollout.temperature=0.",
    "reward": "Choose one or more of configs/reward/, as in reward=[sentiment,length].",
}


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dictionary of a validated config: what config.yaml holds."""
    return TypeAdapter(type(config)).dump_python(config)


def leaf_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a config can have, for suggestions."""
    for field in fields(schema):
        yield prefix + field.name
        for member in _members(typing.get_type_hints(schema)[field.name]):
            yield from leaf_keys(member, f"{prefix}{field.name}.")


def _members(hint: Any) -> list[Any]:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    return [option for option in options if is_dataclass(option)]


def validate(values: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """The validated config, or a `UserError` that names the first field that is wrong."""
    try:
        config = TypeAdapter(schema).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UserError(_sentence(error.errors()[0], set(leaf_keys(schema)))) from None
    if isinstance(config, Config):
        _check_consistency(config)
    return config


def _sentence(error: Any, known: set[str]) -> str:
    """One pydantic error as: field, what was given, what was expected, the way out."""
    # A discriminated union puts its tag into the location; the user never wrote it there.
    parts = [str(part) for part in error["loc"]]
    kept: list[str] = []
    for i, part in enumerate(parts):
        is_tag = i < len(parts) - 1 and ".".join([*kept, part]) not in known and kept[:1] != ["reward"]
        if not is_tag:
            kept.append(part)
    field = ".".join(kept)
    given = repr(error["input"])
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{field}: no such config key.{did_you_mean(field, known)}"
        case "missing" | "missing_argument":
            return f"{field}: missing, and it has no default. Give it in the config or as {field}=…"
        case "literal_error" | "union_tag_invalid":
            expected = context.get("expected") or context.get("expected_tags")
            tag = context.get("tag", error["input"])
            names = [name.strip(" '") for name in expected.replace(" or ", ", ").split(",")]
            suffix = ".kind" if error["type"] == "union_tag_invalid" else ""
            return f"{field}{suffix}: got {tag!r}, expected one of {', '.join(names)}.{did_you_mean(str(tag), names)}"
        case "union_tag_not_found":
            return f"{field}: its 'kind' is missing."
    expected = error["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    way_out = WAYS_OUT.get(field, "")
    return f"{field}: got {given}, expected {expected}. {way_out}".strip()


def _check_consistency(config: Config) -> None:
    """Bounds that involve more than one field."""
    model, rollout = config.model, config.rollout
    if model.heads % model.kv_heads:
        raise UserError(
            f"model.kv_heads: got {model.kv_heads}, expected a divisor of model.heads={model.heads}: {_divisors(model.heads)}."
        )
    if model.positions == "rotary" and model.head_dim % 2:
        raise UserError(f"model.head_dim: got {model.head_dim}, expected an even number for rotary positions.")
    prompt = config.data.prompt
    if prompt.kind == "prefix" and prompt.min_tokens > prompt.max_tokens:
        raise UserError(
            f"data.prompt.min_tokens: got {prompt.min_tokens}, expected at most data.prompt.max_tokens={prompt.max_tokens}."
        )
    longest = prompt.max_tokens + 1 + rollout.max_new_tokens
    if longest > model.context:
        raise UserError(
            f"data.prompt.max_tokens: a prompt of {prompt.max_tokens} tokens, a beginning-of-sequence token and "
            f"rollout.max_new_tokens={rollout.max_new_tokens} make {longest}, expected at most "
            f"model.context={model.context}. Shorten one of them or raise model.context."
        )
    if config.pretrain.length > model.context:
        raise UserError(f"pretrain.length: got {config.pretrain.length}, expected at most model.context={model.context}.")
    if config.data.prompt_fraction + config.data.held_out_fraction >= 1:
        raise UserError("data.prompt_fraction: with data.held_out_fraction it leaves no row to train the base model on.")
    if rollout.temperature == 0:
        raise UserError("rollout.temperature: got 0 (greedy), expected a number > 0 to train: a policy gradient needs samples.")
    for section, optimizer, steps in (
        ("optimizer", config.optimizer, config.steps),
        ("pretrain.optimizer", config.pretrain.optimizer, config.pretrain.steps),
    ):
        if optimizer.warmup_steps >= steps:
            raise UserError(f"{section}.warmup_steps: got {optimizer.warmup_steps}, expected fewer than the {steps} steps.")


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
