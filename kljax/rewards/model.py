"""A fitted classifier or reward model as a reward: on the rollout's own tokens in the compiled step, or on its text.

Both read a Hugging Face directory: one that kljax pretrain wrote (its run directory will do), or any other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from kljax.config import DecoderConfig, HuggingFaceModel
from kljax.data import tokenizers
from kljax.data.conversations import Message, said
from kljax.data.labelled import Texts, padded
from kljax.errors import UserError, did_you_mean
from kljax.models.classifier import Classifier
from kljax.models.huggingface import models as huggingface
from kljax.types import Params, Rollout, Tokenizer

FIELD = "arguments.path"
ENDS = ("own", "both", "none")


@dataclass(frozen=True)
class ModelReward:
    """A reward with parameters, which the step gets as an argument: `score(params, rollout)`."""

    params: Params
    score: Callable[[Params, Rollout], Float[Array, "B"]]


@dataclass(frozen=True)
class FittedModel:
    """A reward model in memory. `score(params, tokens, mask)` is one number a row."""

    path: Path
    tokenizer: Tokenizer
    context: int
    fingerprint: str  # changes when the weights do
    params: Params
    score: Callable[[Params, Int[Array, "B S"], Bool[Array, "B S"]], Float[Array, "B"]]

    @cached_property
    def own_ends(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer by itself puts before a text and after it."""
        return tokenizers.own_ends(self.tokenizer)


def on_tokens(
    tokenizer: Tokenizer,
    path: str,
    label: str | None = None,
    scale: str = "log_odds",
    of: str = "whole",
    revision: str | None = None,
    base: str | None = None,
) -> ModelReward:
    """The model's score of prompt and completion (`of="completion"`: of that alone), for a policy with the same tokenizer."""
    fitted = load(path, label, scale, revision, base)
    _check_of(of)
    if fitted.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{FIELD}: the reward model in {path} was trained with another tokenizer ({len(fitted.tokenizer)} tokens, this one "
            f"has {len(tokenizer)}), expected the policy's own. To score the text, not its tokens, use reward=model_text."
        )
    bos: Any = tokenizer.bos_token_id

    def score(params: Params, rollout: Rollout) -> Float[Array, "B"]:
        length = rollout.tokens.shape[1]
        if length > fitted.context:
            raise UserError(
                f"{FIELD}: prompts and completions have up to {length} tokens, expected at most the {fitted.context} that the "
                f"reward model in {path} reads. Shorten data.prompt.max_tokens or rollout.max_new_tokens."
            )
        tokens, prompt_mask = rollout.tokens, rollout.prompt_mask
        if of == "completion":  # a beginning token of its own in the place of the prompt's last
            last = prompt_mask.shape[1] - 1
            tokens = tokens.at[:, last].set(bos)
            prompt_mask = jnp.zeros_like(prompt_mask).at[:, last].set(True)
        return fitted.score(params, tokens, jnp.concatenate([prompt_mask, rollout.mask], axis=1))

    return ModelReward(fitted.params, score)


def on_text(
    prompts: list[str] | list[list[Message]],
    completions: list[str] | list[list[Message]],
    *,
    path: str,
    label: str | None = None,
    scale: str = "log_odds",
    of: str = "whole",
    length: int = 128,
    ends: str = "own",
    revision: str | None = None,
    base: str | None = None,
) -> list[float]:
    """The model's score of the text by its own tokenizer, at most `length` tokens of it; arguments else as `on_tokens`.

    `ends`: the tokens before and after a text are those that its tokenizer puts there (own), the beginning and the end token
    (both) or none. A conversation goes through its chat template, which has its own.
    """
    fitted = load(path, label, scale, revision, base)
    size = min(length, fitted.context)
    if of == "whole" and prompts and not isinstance(prompts[0], str):
        tokens = [_chat(fitted, [*p, *c]) for p, c in zip(prompts, completions, strict=True)]  # pyright: ignore
        rows = _rows(fitted, tokens, size, ([], []))
    else:
        texts = [said(c) if of == "completion" else p + said(c) for p, c in zip(prompts, completions, strict=True)]  # pyright: ignore
        rows = _rows(fitted, tokenizers.encode(fitted.tokenizer, texts), size, _ends(fitted, ends))
    return np.asarray(_compiled(fitted.score)(fitted.params, rows.tokens, rows.mask)).tolist()


def _ends(fitted: FittedModel, ends: str) -> tuple[list[int], list[int]]:
    if ends == "own":
        return fitted.own_ends
    tokenizer = fitted.tokenizer
    return ([tokenizer.bos_token_id], [tokenizer.eos_token_id]) if ends == "both" else ([], [])  # pyright: ignore


def _rows(fitted: FittedModel, tokens: list[list[int]], size: int, ends: tuple[list[int], list[int]]) -> Texts:
    """The tokens between these ends, cut on the side on which the tokenizer cuts. Of an empty text it is a beginning token."""
    before, after = ends
    room = size - len(before) - len(after)
    left = fitted.tokenizer.truncation_side == "left"
    rows = [[*before, *(row[max(len(row) - room, 0) :] if left else row[:room]), *after] for row in tokens]
    return padded(fitted.tokenizer, [row or [fitted.tokenizer.bos_token_id] for row in rows], size)  # pyright: ignore


def _chat(fitted: FittedModel, messages: list[Message]) -> list[int]:
    """The conversation in the reward model's chat template. What a message spells never becomes a special token."""
    if not fitted.tokenizer.chat_template:
        raise UserError(
            f"{FIELD}: the prompts are conversations, and the tokenizer in {fitted.path} has no chat template for them; "
            "expected one there, or arguments.of=completion, which scores the answer alone."
        )
    return tokenizers.chat_tokens(fitted.tokenizer, messages, begin_answer=False)


def prepare(
    path: str,
    label: str | None = None,
    scale: str = "log_odds",
    of: str = "whole",
    length: int = 128,
    ends: str = "own",
    revision: str | None = None,
    base: str | None = None,
) -> None:
    """Load the model before anything compiles, so that what is wrong with it is said then."""
    load(path, label, scale, revision, base)
    _check_of(of)
    if not isinstance(length, int) or length < 3:
        raise UserError(f"arguments.length: got {length!r}, expected a number of tokens >= 3.")
    if ends not in ENDS:
        raise UserError(f"arguments.ends: got {ends!r}, expected one of {', '.join(ENDS)}.{did_you_mean(str(ends), ENDS)}")


def _check_of(of: str) -> None:
    if of not in ("whole", "completion"):
        raise UserError(f"arguments.of: got {of!r}, expected whole (prompt and completion) or completion.")


@lru_cache(maxsize=4)
def load(path: str, label: str | None, scale: str, revision: str | None = None, base: str | None = None) -> FittedModel:
    """The model in a Hugging Face directory, or in the directory of a fit. Its parameters are float32.

    `label` names the class that is the reward (None: the model has one output, the score); `scale` is log_odds or probability.
    `revision` of a hub name; `base`: the model under a LoRA of PEFT's, where it lies elsewhere than its files say.
    """
    folder = Path(path).expanduser()
    folder = folder / "huggingface" if (folder / "huggingface").is_dir() else folder
    if (Path(path.partition("@")[0]).expanduser() / "config.yaml").exists() and not (folder / "config.json").exists():
        raise UserError(
            f"{FIELD}: {path} is a run whose model writes text and gives no score; expected a fit of a classifier or of a "
            "reward model (kljax pretrain), or a Hugging Face directory of one."
        )
    source = HuggingFaceModel(
        kind="huggingface",
        path=str(folder),
        revision=revision,
        base=base,
        context=None,
        dropout=0.0,
        dtype="float32",
        param_dtype="float32",
        remat="none",
        logit_chunk=16,
        vocab_chunk=None,
    )
    pretrained = huggingface.describe(source, FIELD)
    if not pretrained.outputs:
        raise UserError(
            f"{FIELD}: {path} holds a model without a score or classes, expected a classifier or a reward model. "
            "Fit one with kljax pretrain pretrain/objective=regression (or rated_pairs, preference, classification)."
        )
    read = _reading(pretrained, label, scale)
    tokenizer = tokenizers.load(pretrained.tokenizer_path, FIELD)
    huggingface.check_tokenizer(pretrained, tokenizer, FIELD)

    # A decoder's score is read, as transformers reads it, at the last token that is not its padding token: with padding that is
    # its end token, too, before the end. Of one that was fitted here config.json names no padding token then.
    pad = huggingface.padding(pretrained) if isinstance(pretrained.config, DecoderConfig) else None

    def make() -> Classifier:
        return Classifier(pretrained.config, pretrained.vocab_size, pretrained.outputs, rngs=nnx.Rngs(0))

    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    shapes: Any = nnx.to_pure_dict(abstract)  # pyright: ignore
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = huggingface.load_params(pretrained, "classifier", shapes, jax.tree.map(lambda _: here, shapes))

    def score(params: Params, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B"]:
        return read(nnx.merge(graphdef, params)(tokens, _without_pads(tokens, mask, pad)))

    return FittedModel(folder, tokenizer, pretrained.config.context, pretrained.fingerprint, params, score)


def _without_pads(tokens: Int[Array, "B S"], mask: Bool[Array, "B S"], pad: int | None) -> Bool[Array, "B S"]:
    """The mask without padding tokens at a row's end; all of a row that has no other."""
    if pad is None:
        return mask
    others = mask & (tokens != pad)
    after = jnp.cumsum(others[:, ::-1], axis=-1)[:, ::-1] == 0
    return jnp.where(others.any(axis=-1, keepdims=True), mask & ~after, mask)


def fingerprint(path: str, label: str | None = None, scale: str = "log_odds", **others: Any) -> str:
    """Of the weights of the model that these arguments name."""
    return load(path, label, scale, others.get("revision"), others.get("base")).fingerprint


def _reading(pretrained: huggingface.Pretrained, label: str | None, scale: str) -> Callable[[Array], Array]:
    """From the outputs of each row to its reward: the only score or that called `label`, or log-odds or probability of a class.

    Of classes of which one is right the odds are against all others; of those of which any number is, against its absence.
    """
    if scale not in ("log_odds", "probability"):
        raise UserError(f"arguments.scale: got {scale!r}, expected log_odds or probability.")
    scores, labels = pretrained.problem == "regression", list(pretrained.labels)
    if scores and scale == "probability":
        raise UserError(f"arguments.scale: got probability, but {pretrained.path} gives scores, no classes; leave it out.")
    if scores and pretrained.outputs == 1:
        if label is not None:
            raise UserError(f"arguments.label: got {label!r}, but {pretrained.path} gives a score, no classes; leave it out.")
        return lambda outputs: outputs[:, 0]
    if str(label) not in labels:
        raise UserError(
            f"arguments.label: got {label!r}, expected one of the {'scores' if scores else 'classes'} that {pretrained.path} "
            f"{'gives' if scores else 'tells apart'}: {', '.join(labels)}.{did_you_mean(str(label), labels)}"
        )
    chosen = labels.index(str(label))
    others = [i for i in range(len(labels)) if i != chosen]

    def log_odds(outputs: Array) -> Array:
        if pretrained.problem != "single_label_classification":  # a score, or the logit of a sigmoid
            return outputs[:, chosen]
        return outputs[:, chosen] - jax.nn.logsumexp(outputs[:, jnp.array(others)], axis=-1)

    return log_odds if scale == "log_odds" else lambda outputs: jax.nn.sigmoid(log_odds(outputs))


@lru_cache(maxsize=4)
def _compiled(score: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(score)
