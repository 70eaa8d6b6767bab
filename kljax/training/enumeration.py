"""Exact figures of a task that is small enough to list every completion: J, J*, regret and KL(pi‖pi*), from the oracle.

The policy is the real model: its log-prob of each completion comes from the scorer that trains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.kl import oracle
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import score
from kljax.rewards.combination import Reward, score_texts
from kljax.training.task import Task
from kljax.types import Params, Rollout


@dataclass(frozen=True)
class Enumeration:
    """Every completion of every distinct prompt: log-prob under the reference, reward, and how often each prompt occurs."""

    tree: oracle.Tree
    share: Float[np.ndarray, "prompts"]
    ref_logp: Float[np.ndarray, "prompts B"]
    reward: Float[np.ndarray, "prompts B"]
    logp: Callable[[Params], Float[np.ndarray, "prompts B"]]

    def metrics(self, params: Params, beta: float) -> dict[str, float]:
        """Means over the prompts; KLs in nats per sequence."""
        rows = []
        for logp, ref_logp, reward in zip(self.logp(params), self.ref_logp, self.reward, strict=True):
            best = oracle.optimum(ref_logp, reward, beta)
            to_optimum = float(oracle.kl(logp, best.logp))
            rows.append(
                {
                    "oracle/objective": oracle.objective(logp, ref_logp, reward, beta),
                    "oracle/optimal_objective": best.objective,
                    "oracle/regret": beta * to_optimum,
                    "oracle/kl_to_optimum": to_optimum,
                    "oracle/kl_to_reference": float(oracle.kl(logp, ref_logp)),
                    "oracle/reward": float(np.exp(logp) @ reward),
                }
            )
        return {name: float(self.share @ [row[name] for row in rows]) for name in rows[0]}


def enumerate_task(task: Task, prompts: PromptRows, reward: Reward, reference: Params) -> Enumeration:
    """List every completion of the distinct prompts, or a `UserError` that says how many there are."""
    rows, count = _distinct(prompts)
    tree = completion_tree(task, prompts)
    rollouts = [_all_completions(tree, prompts.tokens[row], prompts.mask[row]) for row in rows]
    graphdef, temperature = task.architecture.graphdef, task.sampler(1).scoring_temperature

    @jax.jit
    def logp_of(params: Params, rollout: Rollout) -> Any:
        model = nnx.merge(graphdef, params)
        return masked_sum(score(model, model, rollout, tree.count, temperature).logp, rollout.mask)

    def logp(params: Params) -> Float[np.ndarray, "prompts B"]:
        # float32 leaves Σ pi − 1 of about 1e-6
        return oracle.log_softmax(np.array([logp_of(params, rollout) for rollout in rollouts], np.float64))

    def reward_of(rollout: Rollout, row: int) -> Float[np.ndarray, "B"]:
        terms = jax.jit(reward.device)(reward.params, rollout)
        if reward.host is not None:
            terms |= score_texts(reward.host, task.tokenizer, prompts, np.array([row]), rollout)
        return np.asarray(reward.total(terms), np.float64)

    rewards = np.array([reward_of(rollout, row) for rollout, row in zip(rollouts, rows.tolist(), strict=True)])
    return Enumeration(tree, count / count.sum(), logp(reference), rewards, logp)


def completion_tree(task: Task, prompts: PromptRows) -> oracle.Tree:
    """All completions of a prompt, or a `UserError` that says how many there are; nothing is computed."""
    try:
        tree = oracle.Tree(task.vocab_size, task.config.rollout.max_new_tokens, task.generation.ends)
    except ValueError as error:
        raise UserError(f"run.oracle_every: this task cannot be enumerated ({error}) Set it to 0.") from None
    distinct = len(_distinct(prompts)[0])
    if tree.count * distinct > oracle.MAX_SEQUENCES:
        raise UserError(
            f"run.oracle_every: {distinct} distinct prompts of {tree.count:,} completions each make "
            f"{tree.count * distinct:,}, expected at most {oracle.MAX_SEQUENCES:,}. Shorten data.prompt, or set it to 0."
        )
    return tree


def _distinct(prompts: PromptRows) -> tuple[Int[np.ndarray, "prompts"], Int[np.ndarray, "prompts"]]:
    """A row of each distinct prompt, and how many rows have it."""
    together = np.concatenate([prompts.tokens, prompts.mask], axis=1)
    return np.unique(together, axis=0, return_index=True, return_counts=True)[1:]


def _all_completions(tree: oracle.Tree, prompt: Int[np.ndarray, "P"], prompt_mask: Bool[np.ndarray, "P"]) -> Rollout:
    shape = tree.count, len(prompt)
    return Rollout(
        tokens=jnp.asarray(np.concatenate([np.broadcast_to(prompt, shape), tree.tokens], axis=1), jnp.int32),
        prompt_mask=jnp.asarray(np.broadcast_to(prompt_mask, shape)),
        mask=jnp.asarray(tree.mask),
        behaviour_logp=jnp.zeros(tree.mask.shape, jnp.float32),
    )
