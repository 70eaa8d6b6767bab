"""Exact figures of a task that is small enough to list every completion: J, J*, regret and KL(pi‖pi*), from the oracle.

J = E[reward] − beta·KL(pi‖rho), at the temperature of sampling: what a run optimises that has the reverse KL and unscaled
rewards. `check_objective` refuses others, whose optimum has no closed form. The policy is the real model: its log-prob of
each completion comes from the scorer that trains it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from kljax.config import Config
from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.kl import oracle
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import score
from kljax.progress import working
from kljax.rewards.combination import Reward, score_texts
from kljax.runs.setup import Setup
from kljax.types import Params, Rollout


@dataclass(frozen=True)
class Enumeration:
    """Every completion of every distinct prompt: log-prob under the reference, reward, and how often each prompt occurs.

    The policy sees the prompt alone: where a reward tells rows with one prompt apart by their columns, it counts by its mean.
    """

    tree: oracle.Tree
    share: Float[np.ndarray, "prompts"]
    ref_logp: Float[np.ndarray, "prompts B"]
    reward: Float[np.ndarray, "prompts B"]
    logp: Callable[[Params], Float[np.ndarray, "prompts B"]]

    def metrics(self, params: Params, beta: float) -> dict[str, float]:
        """Means over the prompts; KLs in nats per sequence. Of beta 0, which has no optimum that is one policy, nothing."""
        if beta == 0:
            return {}
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


@working("enumerating all completions")
def enumerate_task(setup: Setup, prompts: PromptRows, reward: Reward, reference: Params) -> Enumeration:
    """List every completion of the distinct prompts, or a `UserError` that says how many there are."""
    rows, of_row, count = _distinct(prompts)
    tree = completion_tree(setup, prompts)
    rollouts = [_all_completions(tree, prompts.tokens[row], prompts.mask[row]) for row in rows]
    graphdef, temperature = setup.architecture.graphdef, setup.sampler(1).scoring_temperature

    @jax.jit
    def logp_of(params: Params, rollout: Rollout) -> Any:
        model = nnx.merge(graphdef, params)
        return masked_sum(score(model, model, rollout, tree.count, temperature).logp, rollout.mask)

    def logp(params: Params) -> Float[np.ndarray, "prompts B"]:
        # float32 leaves Σ pi − 1 of about 1e-6
        return oracle.log_softmax(np.array([logp_of(params, rollout) for rollout in rollouts], np.float64))

    device = jax.jit(reward.device)

    def reward_of(rollout: Rollout, prompt: int) -> Float[np.ndarray, "B"]:
        terms = device(reward.params, rollout)
        if reward.host is None:
            reward.check(terms)  # here each completion is looked at, also those that a run may never sample
            return np.asarray(reward.total(terms), np.float64)
        found, times = [int(rows[prompt])], [1]
        if reward.reads_columns:
            found, times = _by_columns(prompts, np.flatnonzero(of_row == prompt))
        each = [
            reward.total(terms | score_texts(reward.host, setup.tokenizer, prompts, np.array([row]), rollout)) for row in found
        ]
        return np.average(np.asarray(each, np.float64), axis=0, weights=times)

    rewards = np.array([reward_of(rollout, prompt) for prompt, rollout in enumerate(rollouts)])
    return Enumeration(tree, count / count.sum(), logp(reference), rewards, logp)


def completion_tree(setup: Setup, prompts: PromptRows) -> oracle.Tree:
    """All completions of a prompt, or a `UserError` that says how many there are; nothing is computed."""
    try:
        tree = oracle.Tree(setup.vocab_size, setup.config.rollout.max_new_tokens, setup.generation.ends)
    except ValueError as error:
        raise UserError(f"run.oracle_every: this task cannot be enumerated ({error}) Set it to 0.") from None
    distinct = len(_distinct(prompts)[0])
    if tree.count * distinct > oracle.MAX_SEQUENCES:
        raise UserError(
            f"run.oracle_every: {distinct} distinct prompts of {tree.count:,} completions each make "
            f"{tree.count * distinct:,}, expected at most {oracle.MAX_SEQUENCES:,}. Shorten data.prompt, or set it to 0."
        )
    return tree


def check_objective(config: Config) -> None:
    """Refuse to enumerate what has no optimum in closed form, or one that moves."""
    if not config.run.oracle_every:
        return
    way_out = "set run.oracle_every=0"
    if (kind := config.kl.divergence.kind) != "reverse_kl":
        raise UserError(
            f"run.oracle_every: kl.divergence is {kind}, summed over a sequence's states, for which the optimum has no closed "
            f"form, as it has for the reverse KL; {way_out}, or kl/divergence=reverse_kl."
        )
    if config.reward_scale != "none":
        raise UserError(
            f"run.oracle_every: with reward_scale={config.reward_scale} beta acts as beta·σ, σ that of its own rewards, and "
            f"the optimum moves with it; {way_out}, or reward_scale=none."
        )


def _distinct(
    prompts: PromptRows,
) -> tuple[Int[np.ndarray, "prompts"], Int[np.ndarray, "rows"], Int[np.ndarray, "prompts"]]:
    """A row of each distinct prompt, the prompt of each row, and how many rows have it."""
    together = np.concatenate([prompts.tokens, prompts.mask], axis=1)
    return np.unique(together, axis=0, return_index=True, return_inverse=True, return_counts=True)[1:]


def _by_columns(prompts: PromptRows, rows: Int[np.ndarray, "n"]) -> tuple[list[int], list[int]]:
    """Of some rows those that differ in a column, by which a reward may tell them apart, and how often each occurs."""
    columns = prompts.columns(rows, 1)
    entries = [repr(entry) for entry in zip(*columns.values(), strict=True)] or [""] * len(rows)
    first = {entry: i for i, entry in reversed(list(enumerate(entries)))}
    return [int(rows[i]) for i in first.values()], [entries.count(entry) for entry in first]


def _all_completions(tree: oracle.Tree, prompt: Int[np.ndarray, "P"], prompt_mask: Bool[np.ndarray, "P"]) -> Rollout:
    shape = tree.count, len(prompt)
    return Rollout(
        tokens=jnp.asarray(np.concatenate([np.broadcast_to(prompt, shape), tree.tokens], axis=1), jnp.int32),
        prompt_mask=jnp.asarray(np.broadcast_to(prompt_mask, shape)),
        mask=jnp.asarray(tree.mask),
        behaviour_logp=jnp.zeros(tree.mask.shape, jnp.float32),
    )
