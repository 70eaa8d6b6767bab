"""A language model at hand: it writes completions of what a user types, and scores texts that the user has.

Programs are compiled once a shape, not once a call: prompts and their number are padded to the next power of two.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from kljax.analysis.completions import Completions, Drawn
from kljax.analysis.prompting import Prompt, Prompting, listed
from kljax.config.base import AboveZero, Mass, Natural, NonNegative, Positive, Seed, strict
from kljax.config.validation import validate
from kljax.data.tokenizers import encode
from kljax.devices.state import Architecture, params_hash
from kljax.errors import UserError
from kljax.models.ops.vocabulary import comparisons
from kljax.models.sampling import Sampler, sample_jit
from kljax.models.scoring import completion_states
from kljax.types import Params, Prompts, Rollout, Tokenizer

NOISE = 0x6E6F7465  # in the key of every sample: none shares its noise with a step of a run or with an evaluation
ROWS = 256  # completions that a program works on at once
NARROWEST = 8  # prompts and texts of up to so many tokens share a program


COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures beyond which float32 has no logits left."""


@strict
class _Asked:
    samples: Positive
    seed: Seed
    max_new_tokens: Positive
    temperature: NonNegative
    top_k: Natural
    top_p: Mass


@dataclass(frozen=True, eq=False, repr=False)
class Policy:
    """A language model with its tokenizer, how prompts are made for it, and how it samples where a call says nothing else."""

    name: str
    architecture: Architecture
    params: Params
    prompting: Prompting
    sampler: Sampler
    context: int

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that it was trained with."""
        return self.prompting.tokenizer

    @property
    def temperature(self) -> float:
        """The number that logits are divided by, when it samples and when it is scored."""
        return self.sampler.temperature

    @cached_property
    def identity(self) -> str:
        """A digest of its parameters, parts and context: two models that are one have the same, wherever they lie."""
        config = nnx.merge(self.architecture.graphdef, self.params).config
        return hashlib.sha256(f"{params_hash(self.params)} {config}".encode()).hexdigest()[:12]

    def sample(
        self,
        prompts: Prompt | Iterable[Prompt],
        *,
        samples: int = 1,
        seed: int = 0,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Completions:
        """`samples` completions of each prompt (a text, a conversation, or a list of either), by the seed.

        `temperature` and `max_new_tokens` are the model's own where they are None; 0 is greedy. The same prompt at the same
        place of the list gets the same completions, whatever comes after it.
        """
        own = self.sampler
        asked = validate(
            {
                "samples": plain(samples),
                "seed": plain(seed),
                "max_new_tokens": own.max_new_tokens if max_new_tokens is None else plain(max_new_tokens),
                "temperature": own.temperature if temperature is None else plain(temperature),
                "top_k": plain(top_k),
                "top_p": plain(top_p),
            },
            _Asked,
        )
        check_temperature(asked.temperature)
        sampler = replace(
            own, samples=asked.samples, max_new_tokens=asked.max_new_tokens, temperature=asked.temperature,
            top_k=asked.top_k, top_p=asked.top_p,
        )  # fmt: skip
        rows = self._fitting(self.prompting.encode(listed(prompts)), sampler.max_new_tokens)
        key = jax.random.fold_in(jax.random.key(asked.seed), NOISE)
        width, parts = filled(max(map(len, rows))), []
        for i, chosen in enumerate(batches(len(rows), sampler.samples)):
            given = _prompts([rows[row] for row in chosen], width, sampler.pad_id)
            made = sample_jit(self.architecture.graphdef, self.params, given, jax.random.fold_in(key, i), sampler)
            parts.append(first(made, len(chosen) * sampler.samples))
        drawn = Drawn(self.identity, self.name, asked.seed, asked.temperature, asked.top_k, asked.top_p)
        return Completions(joined(parts), sampler.samples, sampler.scoring_temperature, self.tokenizer, self.name, drawn)

    def score(
        self,
        prompts: Prompt | Iterable[Prompt],
        completions: str | Iterable[str],
        *,
        ends: bool = False,
        temperature: float | None = None,
    ) -> Completions:
        """The log-probs of given completions, each of the prompt at its place, or all of the only prompt.

        A completion is encoded by itself, without its prompt: a space between the two belongs to one of them. `ends` says
        that a completion is over, and puts the model's end token behind it.
        """
        asked, texts = listed(prompts), listed(completions, "completions")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"completions: got {texts[0]!r}, expected texts.")
        asked = asked * len(texts) if len(asked) == 1 else asked
        if len(asked) != len(texts):
            raise UserError(
                f"completions: got {len(texts)} for {len(asked)} prompts, expected one for each prompt, or one prompt for all."
            )
        end = [self.sampler.eos_ids[0]] if ends else []
        written = [[*row, *end] for row in encode(self.tokenizer, [str(text) for text in texts])]
        if empty := [i for i, row in enumerate(written) if not row]:
            raise UserError(f"completions: completion {empty[0]} is empty, expected some text, or ends=True.")
        length = filled(max(map(len, written)))
        rows = self._fitting(self.prompting.encode(asked), max(map(len, written)))
        own = scoring_temperature(self.sampler.scoring_temperature if temperature is None else temperature)
        rollout = _given(rows, written, filled(max(map(len, rows))), length, self.sampler.pad_id)
        graphdef, parts = self.architecture.graphdef, []
        for some in parts_of(rollout, 1):
            parts.append(first(_log_probs(graphdef, self.params, some.rollout, own), some.count))
        logp = jnp.where(rollout.mask, joined(parts), 0.0)
        return Completions(replace(rollout, behaviour_logp=logp), 1, own, self.tokenizer, self.name)

    def _fitting(self, rows: list[list[int]], more: int) -> list[list[int]]:
        """These prompts, refused where one has no room for so many tokens more."""
        self.check_context(max(map(len, rows)), more)
        return rows

    def check_context(self, longest: int, more: int) -> None:
        """Refuse a prompt of so many tokens with so many more, where that is beyond what the model has positions for."""
        if longest + more > self.context:
            raise UserError(
                f"prompts: the longest has {longest} tokens, and {more} are to follow; expected {self.context} at most in all, "
                f"the context of {self.name}. Shorten it, or lower max_new_tokens."
            )

    def __repr__(self) -> str:
        ends = ", ".join(map(str, self.tokenizer.convert_ids_to_tokens(list(self.sampler.eos_ids))))
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"Policy {self.name}: {size:,} parameters\n"
            f"  prompts: {self.prompting}\n"
            f"  temperature {self.temperature:g}; a completion ends with {ends}, or after {self.sampler.max_new_tokens} tokens"
        )


@strict
class _Temperature:
    temperature: AboveZero


def scoring_temperature(given: float) -> float:
    """A temperature at which tokens are scored, checked: there is no such of 0."""
    found = validate({"temperature": plain(given)}, _Temperature).temperature
    check_temperature(found)
    return found


def check_temperature(given: float) -> None:
    """Refuse a temperature that leaves no number of logits."""
    if given and not COLDEST <= given <= HOTTEST:
        raise UserError(f"temperature: got {given:g}, expected 0 (greedy), or a number from {COLDEST:g} to {HOTTEST:g}.")


@partial(jax.jit, static_argnames=("graphdef", "temperature"))
def _log_probs(graphdef: nnx.GraphDef, params: Params, rollout: Rollout, temperature: float) -> Float[Array, "B T"]:
    model = nnx.merge(graphdef, params)
    head, tokens = model.over_vocabulary(completion_states(model, rollout, 1)), rollout.completion
    chunk, block = model.config.logit_chunk, model.config.vocab_chunk
    return comparisons((head, head), tokens, temperature=temperature, chunk=chunk, block=block).logp


def plain(given: Any) -> Any:
    """A number of NumPy's, as frames have them, as Python's own."""
    return given.item() if isinstance(given, np.generic) else given


# Shapes ---------------------------------------------------------------------------------------------------------------


def filled(count: int, least: int = NARROWEST) -> int:
    """The next power of two: what has up to so many tokens shares a program."""
    return max(least, 1 << (count - 1).bit_length())


def batches(prompts: int, samples: int) -> Iterator[range]:
    """Prompts that are worked on at once."""
    some = max(1, ROWS // samples)
    return (range(start, min(start + some, prompts)) for start in range(0, prompts, some))


def first(tree: Params, count: int) -> Params:
    """The first so many rows of what a batch has, in the host's memory."""
    return jax.tree.map(lambda x: np.asarray(x)[:count], tree)


def joined(parts: Sequence[Params]) -> Params:
    """The rows of all batches, as JAX's arrays again."""
    return jax.tree.map(lambda *some: jnp.asarray(np.concatenate(some)), *parts)


@dataclass(frozen=True)
class Part:
    """Some rows of a rollout, filled up with copies of the last ones, and how many are no copies."""

    rollout: Rollout
    count: int


def parts_of(rollout: Rollout, samples: int) -> Iterator[Part]:
    """The rows of a rollout, as many at once as a program works on."""
    for prompts in batches(len(rollout.tokens) // samples, samples):
        chosen = np.arange(prompts.start, prompts.start + filled(len(prompts), least=1)).clip(max=prompts.stop - 1)
        rows = (chosen[:, None] * samples + np.arange(samples)).reshape(-1)
        yield Part(jax.tree.map(lambda x, rows=rows: jnp.asarray(np.asarray(x)[rows]), rollout), len(prompts) * samples)


def _prompts(rows: Sequence[Sequence[int]], width: int, pad: int) -> Prompts:
    """Prompts of one width, their number filled up with copies of the last one."""
    rows = [*rows, *[rows[-1]] * (filled(len(rows), least=1) - len(rows))]
    tokens, mask = _on_the_left(rows, width, pad)
    return Prompts(jnp.asarray(tokens), jnp.asarray(mask))


def _on_the_left(rows: Sequence[Sequence[int]], width: int, pad: int) -> tuple[Int[np.ndarray, "B P"], np.ndarray]:
    mask = np.arange(width) >= width - np.array([len(row) for row in rows])[:, None]
    tokens = np.full(mask.shape, pad, np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return tokens, mask


def _given(rows: Sequence[Sequence[int]], written: Sequence[Sequence[int]], width: int, length: int, pad: int) -> Rollout:
    """Prompts and completions that nobody has sampled; no log-probs yet."""
    tokens, prompt_mask = _on_the_left(rows, width, pad)
    mask = np.arange(length) < np.array([len(row) for row in written])[:, None]
    completion = np.full(mask.shape, pad, np.int32)
    completion[mask] = np.concatenate([np.asarray(row, np.int32) for row in written])
    together = np.concatenate([tokens, completion], axis=1)
    return Rollout(*map(jnp.asarray, (together, prompt_mask, mask, np.zeros(mask.shape, np.float32))))
