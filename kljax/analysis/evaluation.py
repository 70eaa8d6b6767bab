"""Policy and reference on held-out prompts: reward and both exact KLs, with standard errors, and samples side by side.

Reverse KL(pi‖rho) is taken in states that pi visits, forward KL(rho‖pi) in states that *rho* visits: each is then the KL
between the two distributions over sequences, by the chain rule.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from kljax.config import Config, EvaluationConfig
from kljax.data.tokenizers import completion_texts
from kljax.json_text import json_text
from kljax.kl.sequences import masked_sum
from kljax.models.sampling import sample
from kljax.models.scoring import score
from kljax.policy.means import mean_with_se
from kljax.rewards import combination
from kljax.rewards.combination import score_texts
from kljax.rewards.functions import Logged, TrainerState
from kljax.training.enumeration import enumerate_task
from kljax.training.mesh import batch_sharding, replicated
from kljax.training.regularisation import ablation_note
from kljax.training.restore import RestoredRun
from kljax.training.run_directory import write_atomically
from kljax.types import Params


@dataclass(frozen=True)
class Sequences:
    """One number a sampled completion, and its text."""

    reward: Float[np.ndarray, "B"]
    terms: dict[str, Float[np.ndarray, "B"]]  # of the reward, before their weights
    kl: Float[np.ndarray, "B"]  # of the sampling model to the other one, summed over tokens, nats
    length: Float[np.ndarray, "B"]
    prompts: list[str]
    completions: list[str]
    logged: dict[str, float]  # means of what Python rewards log


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, what a reader must know of them, and the first completion of each prompt by reference and policy."""

    step: int
    metrics: dict[str, float]
    notes: list[str]
    samples: list[dict[str, Any]]


def evaluate(run: RestoredRun, config: EvaluationConfig) -> Evaluation:
    """Sample policy and reference on the first `config.prompts` held-out prompts and compare them."""
    by_policy = sample_and_score(run, run.policy, run.reference, config)
    by_reference = sample_and_score(run, run.reference, run.policy, config)
    means = {
        "reward/mean": (by_policy.reward, None),
        "reward/reference_mean": (by_reference.reward, None),
        "kl/reverse_exact_seq": (by_policy.kl, None),
        "kl/reverse_exact_tok": (by_policy.kl, by_policy.length),
        "kl/forward_exact_seq": (by_reference.kl, None),
        "kl/forward_exact_tok": (by_reference.kl, by_reference.length),
        "rollout/length": (by_policy.length, None),
        "rollout/reference_length": (by_reference.length, None),
    }
    for name, term in run.task.config.reward.items():
        for title, of in ((f"reward/terms/{name}", by_policy), (f"reward/reference_terms/{name}", by_reference)):
            applies = ~np.isnan(of.terms[name]) | (term.kind == "jax")  # a Python reward can say None
            means[title] = np.where(applies, of.terms[name], 0.0), applies.astype(np.float32)
    metrics = {}
    for name, (values, weights) in means.items():
        weights = np.ones_like(values) if weights is None else weights
        mean, se = mean_with_se(jnp.asarray(values), jnp.asarray(weights), jnp.eye(len(values) // config.samples, dtype=bool))
        metrics[name], metrics[f"{name}_se"] = float(mean), float(se)
    metrics |= by_policy.logged | {name.replace("/", "/reference_", 1): mean for name, mean in by_reference.logged.items()}
    metrics["kl/beta"] = run.beta
    if run.task.config.run.oracle_every:
        reward = combination.build(run.task.config.reward, run.task.tokenizer)
        metrics |= enumerate_task(run.task, run.prompts(), reward, run.reference).metrics(run.policy, run.beta)
    metrics["reward/reference_std"] = float(by_reference.reward.std(ddof=1))
    samples = [
        {
            "prompt": by_policy.prompts[i],
            "reference": by_reference.completions[i],
            "reference_reward": float(by_reference.reward[i]),
            "policy": by_policy.completions[i],
            "policy_reward": float(by_policy.reward[i]),
        }
        for i in range(0, len(by_policy.prompts), config.samples)
    ]
    return Evaluation(run.step, metrics, notes(run.task.config), samples)


def notes(config: Config) -> list[str]:
    """What the figures do not say of themselves."""
    found = [note] if (note := ablation_note(config.kl)) else []
    if config.reward_scale != "none":
        found.append(f"reward_scale={config.reward_scale} rescales beta; kl/beta_effective in metrics.jsonl is what acts.")
    return found


def save(evaluation: Evaluation, path: Path) -> Path:
    """Write it into the run directory: evaluation/step_<step>.json."""
    file = path / "evaluation" / f"step_{evaluation.step:06d}.json"
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, json_text(asdict(evaluation), indent=2) + "\n")
    return file


def sample_and_score(run: RestoredRun, sampled: Params, other: Params, config: EvaluationConfig) -> Sequences:
    """Completions of the held-out prompts by the model `sampled`, with their reward and exact KL(sampled‖other)."""
    task = run.task
    prompts = run.held_out_prompts()
    reward = combination.build(task.config.reward, task.tokenizer, prompts.rows.column_names)
    program = _compile(run, reward, config)
    reward_params = jax.device_put(reward.params, replicated(task.mesh))
    count, batch = min(config.prompts, len(prompts.tokens)), task.config.rollout.prompts
    parts, logged, state = [], Logged(), TrainerState(run.step, task.config.steps)
    for i, start in enumerate(range(0, count, batch)):
        rows = np.arange(start, start + batch) % len(prompts.tokens)
        chosen = prompts.select(rows, batch_sharding(task.mesh))
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        rollout, terms, kl, length = program(sampled, other, reward_params, chosen, key)
        texts = completion_texts(task.tokenizer, rollout)
        if reward.host:
            terms |= score_texts(reward.host, task.tokenizer, prompts, rows, rollout, state, logged)
        total, terms, kl, length = jax.tree.map(np.asarray, (reward.total(terms), terms, kl, length))
        parts.append(Sequences(total, terms, kl, length, *texts, {}))
    return replace(_join(parts, count * config.samples), logged=logged.means())


def _compile(run: RestoredRun, reward: combination.Reward, config: EvaluationConfig) -> Callable[..., Any]:
    sampler = run.task.sampler(config.samples)
    graphdef = run.task.architecture.graphdef

    @jax.jit
    def program(sampled: Params, other: Params, reward_params: Params, prompts, key):
        model = nnx.merge(graphdef, sampled)
        rollout = sample(model, prompts, key, sampler)
        scores = score(model, nnx.merge(graphdef, other), rollout, sampler.samples, sampler.scoring_temperature)
        lengths = rollout.mask.sum(axis=-1).astype("float32")
        return rollout, reward.device(reward_params, rollout), masked_sum(scores.reverse_kl, rollout.mask), lengths

    return program


def _join(parts: list[Sequences], total: int) -> Sequences:
    def arrays(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[:total]

    def texts(name: str) -> list[str]:
        return [text for part in parts for text in getattr(part, name)][:total]

    terms = {name: np.concatenate([part.terms[name] for part in parts])[:total] for name in parts[0].terms}
    return Sequences(arrays("reward"), terms, arrays("kl"), arrays("length"), texts("prompts"), texts("completions"), {})
