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
from jaxtyping import Array, Bool, Float

from kljax.devices.mesh import batch_sharding
from kljax.devices.microbatches import accumulate
from kljax.devices.state import TrainState
from kljax.kl import estimators
from kljax.kl.controllers import Controller
from kljax.kl.divergences import Divergence
from kljax.kl.penalties import Penalty
from kljax.kl.sequences import Weights, effective_fraction, importance_weights, log_ratio, masked_sum, on_policy
from kljax.models.layers import is_unrolled
from kljax.models.ops.recall import Known
from kljax.models.sampling import Sampler, sample, sample_with_activations
from kljax.models.scoring import score
from kljax.policy.algorithms import Algorithm
from kljax.policy.means import distinct, mean_with_se, same_prompts
from kljax.policy.scaling import RewardScale, unscaled
from kljax.rewards.combination import Reward, Terms
from kljax.runs.adapter import Adaptation, Frozen, Refresh
from kljax.types import Params, Prompts, Rollout, Scores, struct

Metrics = dict[str, Float[Array, "..."]]
"""Scalars, but for what is said to be by position: [T]."""


@dataclass(frozen=True)
class Parts:
    """The choice of parts that makes a step. `divergence_name` names its metrics.

    `updates` are made of each rollout, each from a gradient in `microbatches` parts. With `keep_activations` the first has the
    forward pass with which the policy sampled for its own.
    """

    adaptation: Adaptation
    shardings: TrainState
    sampler: Sampler
    reward: Reward
    penalty: Penalty
    divergence: Divergence
    divergence_name: str
    algorithm: Algorithm
    reward_scale: RewardScale
    controller: Controller
    refresh: Refresh
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    updates: int
    microbatches: int
    keep_activations: bool


@struct
class Outcome:
    """Results of a step beside its metrics."""

    rollout: Rollout
    reward: Float[Array, "B"]
    reverse_kl: Float[Array, "B T"]


Step = Callable[[TrainState, Frozen, Prompts], tuple[TrainState, Metrics, Outcome]]
RolloutHalf = Callable[[TrainState, Frozen, Prompts], tuple[Rollout, Terms, Known | None]]
"""The last are the activations with which the policy sampled, where they are kept."""
UpdateHalf = Callable[[TrainState, Frozen, Rollout, Terms, Known | None], tuple[TrainState, Metrics, Outcome]]


def compile_step(parts: Parts) -> Step:
    """step(state, frozen, prompts) in one program. Donates the state; what is frozen is an argument, never a constant."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(parts.shardings, None, None))
    def step(state: TrainState, frozen: Frozen, prompts: Prompts):
        return update(parts, state, frozen, *roll_out(parts, state, frozen, prompts))

    return step


def compile_halves(parts: Parts) -> tuple[RolloutHalf, UpdateHalf]:
    """The same step in two programs, for a reward that is computed between them."""

    @jax.jit
    def rollout_half(state: TrainState, frozen: Frozen, prompts: Prompts):
        return roll_out(parts, state, frozen, prompts)

    @partial(jax.jit, donate_argnums=0, out_shardings=(parts.shardings, None, None))
    def update_half(state: TrainState, frozen: Frozen, rollout: Rollout, terms: Terms, known: Known | None):
        return update(parts, state, frozen, rollout, terms, known)

    return rollout_half, update_half


def roll_out(parts: Parts, state: TrainState, frozen: Frozen, prompts: Prompts) -> tuple[Rollout, Terms, Known | None]:
    """Completions of the prompts and the rewards that are computed on the device. Its noise follows from (key, step)."""
    over_batch = batch_sharding(parts.adaptation.architecture.mesh)
    prompts = jax.lax.with_sharding_constraint(prompts, over_batch)
    policy = parts.adaptation.policy(state.params, frozen)
    inputs = policy, prompts, jax.random.fold_in(state.key, state.step), parts.sampler
    rollout, known = sample_with_activations(*inputs) if parts.keep_activations else (sample(*inputs), None)
    rollout = jax.lax.with_sharding_constraint(rollout, over_batch)
    return rollout, parts.reward.device(frozen.reward, rollout), known


def update(
    parts: Parts, state: TrainState, frozen: Frozen, rollout: Rollout, terms: Terms, known: Known | None = None
) -> tuple[TrainState, Metrics, Outcome]:
    """Optimiser steps on E[reward] − beta·KL(pi‖rho) from samples of the present policy; metrics are of that policy.

    The first is on-policy. Where there are more, the policy has moved since it sampled, and they carry importance weights.
    """
    beta, reward = state.controller.beta, parts.reward.total(terms)
    reference = parts.refresh(state.reference, state.params, state.step)
    batch = frozen, reference, rollout, reward, beta
    first = _descend(parts, state.params, state.opt_state, *batch, known=known)
    params, opt_state = first.params, first.opt_state
    metrics = report(parts, first.scores, rollout, reward, beta)
    metrics |= {
        "policy/loss": first.loss,
        "policy/penalty_loss": first.penalty_loss,
        "policy/grad_norm": first.gradient_norm,
        "policy/learning_rate": jnp.asarray(parts.learning_rate(state.step * parts.updates), jnp.float32),
    }
    same = same_rows(rollout, parts.sampler.samples)
    for name, values in terms.items():
        applies = parts.reward.applies(name, values)
        mean, error = mean_with_se(jnp.where(applies, values, 0.0), applies.astype(jnp.float32), same)
        metrics[f"reward/terms/{name}"], metrics[f"reward/terms/{name}_se"] = mean, error
    if parts.updates > 1:

        def further(_: Any, carry: tuple[Params, Any, Any]):
            now = _descend(parts, carry[0], carry[1], *batch, old_logp=first.scores.logp)
            return now.params, now.opt_state, effective_fraction(now.weights.sequence)

        carry = params, opt_state, jnp.ones((), jnp.float32)
        params, opt_state, metrics["policy/effective_sample_fraction"] = jax.lax.fori_loop(1, parts.updates, further, carry)
    new_state = TrainState(
        params=params,
        opt_state=opt_state,
        controller=parts.controller.update(state.controller, metrics["kl/reverse_exact_seq"]),
        key=state.key,
        step=state.step + 1,
        reference=reference,
    )
    return new_state, metrics, Outcome(rollout, reward, jnp.where(rollout.mask, first.scores.reverse_kl, 0.0))


@struct
class _Descent:
    """New parameters and optimiser state, and what they were made with."""

    params: Params
    opt_state: Any
    scores: Scores
    weights: Weights
    gradient_norm: Float[Array, ""]
    loss: Float[Array, ""]
    penalty_loss: Float[Array, ""]


def _descend(
    parts: Parts,
    params: Params,
    opt_state: Any,
    frozen: Frozen,
    reference: Params,
    rollout: Rollout,
    reward: Float[Array, "B"],
    beta: Float[Array, ""],
    old_logp: Float[Array, "B T"] | None = None,
    known: Known | None = None,
) -> _Descent:
    """One optimiser step; off-policy where there is an `old_logp`: of the policy that sampled, before its first update."""

    def loss_function(params, rollout, reward, old_logp, known):
        scores = score_rollout(parts, params, frozen, reference, rollout, known)
        weights = on_policy(rollout.mask) if old_logp is None else importance_weights(scores.logp, old_logp, rollout.mask)
        return loss(parts, scores, rollout.mask, reward, beta, weights)[0], (scores, weights)

    def gradient(batch):
        return jax.grad(loss_function, has_aux=True)(params, *batch)

    batch = rollout, scaled(parts, reward), old_logp, known
    axes = (0, 0, 0, 0 if is_unrolled(known) else 1)  # of what is known, stacked layers come first
    gradients, (scores, weights) = accumulate(gradient, batch, parts.microbatches, parts.sampler.samples, axes)
    changes, opt_state = parts.optimizer.update(gradients, opt_state, params)
    figures = optax.tree.norm(gradients), *loss(parts, scores, rollout.mask, batch[1], beta, weights)
    return _Descent(optax.apply_updates(params, changes), opt_state, scores, weights, *figures)


def score_rollout(
    parts: Parts, params: Params, frozen: Frozen, reference: Params, rollout: Rollout, known: Known | None = None
) -> Scores:
    """Policy and reference scored by the same code: no dropout, the sampling temperature, the same masks."""
    models = parts.adaptation.policy(params, frozen), parts.adaptation.reference(reference, frozen)
    return score(*models, rollout, parts.sampler.samples, parts.sampler.scoring_temperature, parts.divergence, known)


def loss(
    parts: Parts,
    scores: Scores,
    mask: Bool[Array, "B T"],
    scaled_reward: Float[Array, "B"],
    beta: Float[Array, ""],
    weights: Weights,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Score-function loss on the return that the penalty leaves, plus what the penalty adds: the sum, and the latter alone.

    A mean over sequences.
    Sequences of different prompts do not meet in it, so that a batch can be taken in parts.
    """
    returns = (weights.sequence * scaled_reward)[:, None] - beta * parts.penalty.from_reward(scores, mask, weights)
    baseline = parts.algorithm.baseline(returns.reshape(-1, parts.sampler.samples, returns.shape[-1])).reshape(returns.shape)
    penalty = beta * jnp.mean(masked_sum(parts.penalty.to_loss(scores, mask, weights), mask))
    return parts.algorithm.loss(scores.logp, returns - weights.token * baseline, mask) + penalty, penalty


def scaled(parts: Parts, reward: Float[Array, "B"]) -> Float[Array, "B"]:
    """Rewards as the batch's scale leaves them."""
    grouped = reward.reshape(-1, parts.sampler.samples)
    return (grouped / parts.reward_scale(grouped)).reshape(reward.shape)


def same_rows(rollout: Rollout, samples: int) -> Bool[Array, "N N"]:
    """Which of the batch's rows have the same prompt; each has `samples` completions."""
    return same_prompts(rollout.tokens[::samples, : rollout.prompt_mask.shape[1]], rollout.prompt_mask[::samples])


def report(parts: Parts, scores: Scores, rollout: Rollout, reward: Float[Array, "B"], beta: Float[Array, ""]) -> Metrics:
    """The metrics of a batch. `_seq` is nats per sequence, `_tok` per token, `_se` a standard error over distinct prompts.

    The objective has the divergence that is penalised, and the beta that acts. Exact, k1, k2 and k3 are of the same samples.
    `forward_exact_on_policy_tok` is KL(rho‖pi) of next-token distributions in the states that *pi* visits; the forward KL of
    sequences needs samples from rho, and is reported by kljax analyze.
    """
    mask, samples = rollout.mask, parts.sampler.samples
    lengths = mask.sum(axis=-1).astype(jnp.float32)
    ones = jnp.ones_like(lengths)
    ratio = log_ratio(scores.logp, scores.ref_logp, mask)
    kls = {"exact": scores.reverse_kl, "k1": ratio, "k2": estimators.k2(ratio), "k3": estimators.k3(ratio)}
    same = same_rows(rollout, samples)
    grouped = reward.reshape(-1, samples)
    beta_effective = (beta * jnp.broadcast_to(parts.reward_scale(grouped), grouped.shape)).reshape(reward.shape)
    means = {
        "reward/mean": (reward, ones),
        "objective/mean": (reward - beta_effective * masked_sum(scores.divergence, mask), ones),
        "kl/forward_exact_on_policy_tok": (masked_sum(scores.forward_kl, mask), lengths),
        "policy/entropy_tok": (masked_sum(scores.entropy, mask), lengths),
        "rollout/length": (lengths, ones),
    }
    for name, kl in kls.items():
        total = masked_sum(kl, mask)
        means |= {f"kl/reverse_{name}_seq": (total, ones), f"kl/reverse_{name}_tok": (total, lengths)}
    if parts.divergence_name != "reverse_kl":
        means[f"kl/{parts.divergence_name}_exact_seq"] = (masked_sum(scores.divergence, mask), ones)
    metrics: dict[str, Any] = {"kl/beta": beta, "reward/std": jnp.std(reward, ddof=1)}
    for name, (values, weights) in means.items():
        metrics[name], metrics[f"{name}_se"] = mean_with_se(values, weights, same)
    metrics |= {"rollout/sequences": jnp.float32(len(reward)), "rollout/distinct_prompts": distinct(same)}
    if parts.reward_scale is not unscaled:
        metrics["kl/beta_effective"] = jnp.mean(beta_effective)
    running = mask.sum(axis=0)
    metrics["kl/reverse_exact_by_position"] = jnp.where(mask, scores.reverse_kl, 0.0).sum(axis=0) / running  # NaN: none left
    metrics["rollout/eos_fraction"] = jnp.mean(jnp.any(mask & parts.sampler.ends(rollout.completion), axis=-1))
    metrics["rollout/logp_gap_max"] = jnp.max(jnp.where(mask, jnp.abs(scores.logp - rollout.behaviour_logp), 0.0))
    metrics["kl/reverse_exact_tok_max"] = jnp.max(jnp.where(mask, jnp.abs(scores.reverse_kl), 0.0))
    return metrics
