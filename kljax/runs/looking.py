"""One model writes on held-out prompts: its completions, their rewards, and their exact KL to other models."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from kljax.config import ChatPrompt, Config, EvaluationConfig
from kljax.data.batches import PromptRows
from kljax.data.chats import without_template
from kljax.data.tokenizers import completion_texts
from kljax.devices.mesh import batch_sharding, replicated
from kljax.errors import UserError
from kljax.kl.sequences import masked_sum
from kljax.models.sampling import Sampler, sample
from kljax.models.scoring import score
from kljax.models.truncated import reverse_kl_of
from kljax.rewards import combination
from kljax.rewards.combination import Reward, score_texts
from kljax.rewards.functions import Logged, TrainerState
from kljax.runs.restore import RestoredRun
from kljax.runs.setup import Setup
from kljax.tasks.measuring import Measured, measure_of
from kljax.tasks.task import Task
from kljax.types import Params, Prompts, Rollout

NOISE = 0x6B6C6A61  # in the key of every evaluation: no step of a run has so high a number, so that none shares its noise

Values = Float[np.ndarray, "B"]


@dataclass(frozen=True)
class Sequences:
    """One number a sampled completion, and its text."""

    reward: Values  # NaN where a part of it is not computed
    terms: dict[str, Values]  # of the reward, before their weights
    kls: tuple[Values, ...]  # of the sampling model to each of the others, summed over tokens, nats
    length: Values
    prompts: list[str]
    completions: list[str]
    logged: dict[str, float]  # means of what Python rewards log
    measured: Measured | None = None  # by the task, where there is one


Look = Callable[..., Sequences]
"""(model that samples, others, step=…) → its completions of the held-out prompts, with its KL to each of the others.

`step`: that of the run, for rewards that ask; its own where nothing is said.
"""


def is_whole(config: Config, without: Collection[str]) -> bool:
    """Whether the reward is known without these of its terms: they only report."""
    return config.reward.keys() > {*without} and not any(config.reward[name].weight for name in without)


def look_at(
    run: RestoredRun,
    prompts: PromptRows,
    config: EvaluationConfig,
    without: Collection[str] = (),
    reward: Reward | None = None,
    task: Task | None = None,
    temperature: float | None = None,
) -> Look:
    """How models are looked at on the first `config.prompts` of these prompts; compiled once for each number of others.

    `without`: terms of the reward that are not computed. `reward`: that of the run, where it is made already. `task`: that by
    which completions are measured. `temperature`: of sampling, where it is not the run's; at 0 the first of the likeliest
    tokens is taken, and no noise matters.
    The noise follows from both seeds, that of the evaluation and that of the run, and is the same for every model.
    """
    setup = run.setup
    terms = {name: term for name, term in setup.config.reward.items() if name not in without}
    whole = is_whole(setup.config, without)
    if reward is None:
        reward = combination.build(terms, setup.tokenizer, prompts.rows.column_names, setup.own_rewards(terms))
    measure = None if task is None else measure_of(task, prompts.rows.column_names)
    sampler = replace(setup.sampler(config.samples), top_k=config.top_k, top_p=config.top_p)
    sampler = sampler if temperature is None else replace(sampler, temperature=temperature)
    chat, around_texts = setup.config.data.prompt, prompts.conversations is None
    shown = without_template(setup.tokenizer, chat) if isinstance(chat, ChatPrompt) and around_texts else str
    program = _compile(setup.architecture.graphdef, reward, sampler)
    reward_params = jax.device_put(reward.params, replicated(setup.mesh))

    def look(sampled: Params, others: tuple[Params, ...], step: int = run.step) -> Sequences:
        parts, logged, state = [], Logged(), TrainerState(step, setup.config.steps)
        for rows, chosen, key in evaluation_batches(setup, prompts, config):
            made = program(sampled, others, reward_params, chosen, key)
            rollout, terms, kls, length = _first(made, len(rows) * config.samples)
            texts = completion_texts(setup.tokenizer, rollout)
            if reward.host:
                terms |= score_texts(reward.host, setup.tokenizer, prompts, rows, rollout, state, logged)
            total = reward.total(terms) if whole else np.full(length.shape, np.nan)
            wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (total, terms, kls, length))
            of_task = None
            if measure is not None:
                columns = prompts.columns(rows, config.samples)
                of_task = measure(*prompts.texts(setup.tokenizer, rows, rollout), columns)
            asked = [shown(prompt) for prompt in texts[0]]
            parts.append(Sequences(*wide, prompts=asked, completions=texts[1], logged={}, measured=of_task))
        return replace(_join(parts), logged=logged.means())

    return look


def evaluation_batches(
    setup: Setup, prompts: PromptRows, config: EvaluationConfig
) -> Iterator[tuple[Int[np.ndarray, "N"], Prompts, Key[Array, ""]]]:
    """The prompts of an evaluation, as many at once as in a step: their rows, the prompts, the noise of their completions.

    The last batch is filled up: it has more prompts than rows.
    """
    count, batch = min(config.prompts, len(prompts.tokens)), setup.config.rollout.prompts
    noise = _noise(config.seed, setup.config.seed)
    for i, start in enumerate(range(0, count, batch)):
        rows = np.arange(start, start + batch) % len(prompts.tokens)
        chosen = prompts.select(rows, batch_sharding(setup.mesh))
        yield rows[: count - start], chosen, jax.random.fold_in(noise, i)


def _noise(evaluation_seed: int, run_seed: int) -> Key[Array, ""]:
    key = jax.random.fold_in(jax.random.key(evaluation_seed), NOISE)
    return jax.random.fold_in(key, np.uint32(run_seed))


def _compile(graphdef: nnx.GraphDef, reward: Reward, sampler: Sampler) -> Callable[..., Any]:
    divergence = reverse_kl_of(sampler.top_k, sampler.top_p)

    @jax.jit
    def program(sampled: Params, others: tuple[Params, ...], reward_params: Params, prompts: Prompts, key: Key[Array, ""]):
        model = nnx.merge(graphdef, sampled)
        rollout = sample(model, prompts, key, sampler)
        compare = partial(score, temperature=sampler.scoring_temperature, divergence=divergence)
        kls = [compare(model, nnx.merge(graphdef, other), rollout, sampler.samples).divergence for other in others]
        lengths = rollout.mask.sum(axis=-1).astype("float32")
        sums = tuple(masked_sum(kl, rollout.mask) for kl in kls)
        return rollout, reward.device(reward_params, rollout), sums, lengths

    return program


def _first(tree: Any, count: int) -> tuple[Rollout, dict[str, Any], tuple[Any, ...], Any]:
    """The first so many rows of what a batch has, on one device."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:count]), tree)


def _join(parts: list[Sequences]) -> Sequences:
    kls = tuple(np.concatenate(each) for each in zip(*(part.kls for part in parts), strict=True))
    terms = {name: np.concatenate([part.terms[name] for part in parts]) for name in parts[0].terms}
    reward, length = (np.concatenate([getattr(part, name) for part in parts]) for name in ("reward", "length"))
    prompts, texts = ([text for part in parts for text in getattr(part, name)] for name in ("prompts", "completions"))
    measured = [part.measured for part in parts if part.measured is not None]
    return Sequences(reward, terms, kls, length, prompts, texts, {}, Measured.join(measured) if measured else None)


def check_parameters(run: RestoredRun, name: str, params: Params) -> None:
    """Refuse a model that holds a number which is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not bool(jnp.isfinite(leaf).all()):
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            way_out = "evaluate an earlier step (kljax analyze step=…)" if name == "policy" else "restore the model"
            raise UserError(
                f"evaluation: the {name}'s parameters of step {run.step} in {run.path} are not finite, {where} first; expected "
                f"finite ones: {way_out}."
            )


def check_figures(run: RestoredRun, found: Mapping[str, Sequences], *, whole: bool = True) -> None:
    """Refuse what would be written as NaN, and say which of rewards and KLs it is."""
    for name, of in found.items():
        # NaN of a Python term is None; of the sum it is not. The term is named, where it is one.
        for term, values in of.terms.items():
            if not run.setup.config.reward[term].weight:  # is reported where it is a number, and trained nothing
                continue
            python = run.setup.config.reward[term].kind == "python"
            _check_finite(run, f"reward.{term}", name, of, np.where(np.isnan(values), 0.0, values) if python else values)
        if whole:
            _check_finite(run, "reward (the weighted sum)", name, of, of.reward)
        for values in of.kls:
            _check_finite(run, "the KL", name, of, values)


def _check_finite(run: RestoredRun, what: str, name: str, of: Sequences, values: Values) -> None:
    if (wrong := np.flatnonzero(~np.isfinite(values))).size:
        i = int(wrong[0])
        raise UserError(
            f"evaluation: {what} of the {name}'s completion {of.completions[i]!r} of the prompt {of.prompts[i]!r} is "
            f"{values[i]}, expected a finite number. {run.path} is whole: that mended, kljax analyze evaluates it."
        )
