"""The RLHF step, where everything meets: prompts → sample → reward → score → penalty → advantage → update.

With JAX rewards it is one compiled program with donated state; with a Python reward two compiled halves, rollout and
update, around it. Nothing else differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from kljax.kl.controllers import Controller
from kljax.kl.penalties import Penalty, log_ratio
from kljax.models.sampling import Sampler, sample
from kljax.models.scoring import score
from kljax.policy.algorithms import Algorithm
from kljax.policy.means import masked_sum, mean_with_se
from kljax.rewards.device import DeviceReward
from kljax.training.mesh import batch_sharding
from kljax.training.state import Architecture, TrainState
from kljax.types import Params, Prompts, Rollout, Scores, struct

Metrics = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class Parts:
    """The choice of parts that makes a step."""

    architecture: Architecture
    shardings: TrainState
    sampler: Sampler
    reward: DeviceReward
    penalty: Penalty
    algorithm: Algorithm
    controller: Controller
    optimizer: optax.GradientTransformation


@struct
class Outcome:
    """What a step shows beside its metrics."""

    rollout: Rollout
    reward: Float[Array, "B"]
    reverse_kl: Float[Array, "B T"]


Step = Callable[[TrainState, Params, Prompts], tuple[TrainState, Metrics, Outcome]]
RolloutHalf = Callable[[TrainState, Prompts], tuple[Rollout, Float[Array, "B"]]]
UpdateHalf = Callable[[TrainState, Params, Rollout, Float[Array, "B"]], tuple[TrainState, Metrics, Outcome]]


def compile_step(parts: Parts) -> Step:
    """step(state, ref_params, prompts) in one program. Donates the state; the reference is an argument, never a constant."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(parts.shardings, None, None))
    def step(state: TrainState, ref_params: Params, prompts: Prompts):
        rollout, reward = roll_out(parts, state, prompts)
        return update(parts, state, ref_params, rollout, reward)

    return step


def compile_halves(parts: Parts) -> tuple[RolloutHalf, UpdateHalf]:
    """The same step in two programs, for a reward that is computed between them."""

    @jax.jit
    def rollout_half(state: TrainState, prompts: Prompts):
        return roll_out(parts, state, prompts)

    @partial(jax.jit, donate_argnums=0, out_shardings=(parts.shardings, None, None))
    def update_half(state: TrainState, ref_params: Params, rollout: Rollout, reward: Float[Array, "B"]):
        return update(parts, state, ref_params, rollout, reward)

    return rollout_half, update_half


def roll_out(parts: Parts, state: TrainState, prompts: Prompts) -> tuple[Rollout, Float[Array, "B"]]:
    """Completions of the prompts and the reward that is computed on the device. Its noise follows from (key, step)."""
    prompts = jax.lax.with_sharding_constraint(prompts, batch_sharding(parts.architecture.mesh))
    policy = nnx.merge(parts.architecture.graphdef, state.params)
    rollout = sample(policy, prompts, jax.random.fold_in(state.key, state.step), parts.sampler)
    rollout = jax.lax.with_sharding_constraint(rollout, batch_sharding(parts.architecture.mesh))
    return rollout, parts.reward(rollout)


def update(
    parts: Parts, state: TrainState, ref_params: Params, rollout: Rollout, reward: Float[Array, "B"]
) -> tuple[TrainState, Metrics, Outcome]:
    """One optimiser step on E[reward] − beta·KL(pi‖rho), from samples of the present policy."""
    beta = state.controller.beta

    def loss_function(params):
        scores = score_rollout(parts, params, ref_params, rollout)
        return loss(parts, scores, rollout.mask, reward, beta), scores

    gradients, scores = jax.grad(loss_function, has_aux=True)(state.params)
    changes, opt_state = parts.optimizer.update(gradients, state.opt_state, state.params)
    metrics = report(scores, rollout, reward, beta, parts.sampler)
    metrics["policy/grad_norm"] = optax.tree.norm(gradients)
    new_state = TrainState(
        params=optax.apply_updates(state.params, changes),
        opt_state=opt_state,
        controller=parts.controller.update(state.controller, metrics["kl/reverse_exact_seq"]),
        key=state.key,
        step=state.step + 1,
    )
    return new_state, metrics, Outcome(rollout, reward, jnp.where(rollout.mask, scores.reverse_kl, 0.0))


def score_rollout(parts: Parts, params: Params, ref_params: Params, rollout: Rollout) -> Scores:
    """Policy and reference scored by the same code: no dropout, the sampling temperature, the same masks."""
    graphdef = parts.architecture.graphdef
    policy, reference = nnx.merge(graphdef, params), nnx.merge(graphdef, ref_params)
    return score(policy, reference, rollout, parts.sampler.scoring_temperature)


def loss(
    parts: Parts, scores: Scores, mask: Bool[Array, "B T"], reward: Float[Array, "B"], beta: Float[Array, ""]
) -> Float[Array, ""]:
    """Score-function loss on the return that the penalty leaves, plus what the penalty adds; a mean over sequences."""
    returns = reward[:, None] - beta * parts.penalty.from_reward(scores, mask)
    grouped = returns.reshape(-1, parts.sampler.samples, returns.shape[-1])
    advantage = (grouped - parts.algorithm.baseline(grouped)).reshape(returns.shape)
    penalty = jnp.mean(masked_sum(parts.penalty.to_loss(scores, mask), mask))
    return parts.algorithm.loss(scores.logp, advantage, mask) + beta * penalty


def report(scores: Scores, rollout: Rollout, reward: Float[Array, "B"], beta: Float[Array, ""], sampler: Sampler) -> Metrics:
    """The metrics of a batch. `_seq` is nats per sequence, `_tok` per token, `_se` a standard error over prompts.

    `forward_exact_on_policy_tok` is KL(rho‖pi) of next-token distributions in the states that *pi* visits; the forward KL of
    sequences needs samples from rho, and is reported by experiments/analyze.py.
    """
    mask = rollout.mask
    lengths = mask.sum(axis=-1).astype(jnp.float32)
    ones = jnp.ones_like(lengths)
    exact = masked_sum(scores.reverse_kl, mask)
    k1 = jnp.sum(log_ratio(scores, mask), axis=-1)
    means = {
        "reward/mean": (reward, ones),
        "objective/mean": (reward - beta * exact, ones),
        "kl/reverse_exact_seq": (exact, ones),
        "kl/reverse_exact_tok": (exact, lengths),
        "kl/reverse_k1_seq": (k1, ones),
        "kl/reverse_k1_tok": (k1, lengths),
        "kl/forward_exact_on_policy_tok": (masked_sum(scores.forward_kl, mask), lengths),
        "policy/entropy_tok": (masked_sum(scores.entropy, mask), lengths),
        "rollout/length": (lengths, ones),
    }
    metrics: dict[str, Any] = {"kl/beta": beta, "reward/std": jnp.std(reward)}
    for name, (values, weights) in means.items():
        metrics[name], metrics[f"{name}_se"] = mean_with_se(values, weights, sampler.samples)
    metrics["rollout/eos_fraction"] = jnp.mean(jnp.any(mask & (rollout.completion == sampler.eos_id), axis=-1))
    metrics["rollout/logp_gap_max"] = jnp.max(jnp.where(mask, jnp.abs(scores.logp - rollout.behaviour_logp), 0.0))
    metrics["kl/reverse_exact_tok_max"] = jnp.max(jnp.where(mask, jnp.abs(scores.reverse_kl), 0.0))
    return metrics
