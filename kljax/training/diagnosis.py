"""Where a number that is not finite came from, in the order in which a step computes: reward, policy, KL, penalty, gradient."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from kljax.config import Config

SLOWER = "a lower optimizer.learning_rate or optimizer.clip_norm usually helps"


def fetched(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics as Python's numbers and lists, once they are there."""
    return {name: np.asarray(value).tolist() for name, value in jax.device_get(dict(metrics)).items()}


def cause(values: Mapping[str, Any], config: Config, *, begun: bool = True) -> str | None:
    """A sentence on the first figure that is not finite, with a remedy; None where all that trains is finite.

    `begun`: there were updates before; otherwise the policy is the base model.
    """
    for name, sentence in _signs(config, begun):
        if not math.isfinite(values.get(name, 0.0)):
            return f"{name} is {values[name]}, expected a finite number: {sentence}."
    return None


def _signs(config: Config, begun: bool) -> Iterator[tuple[str, str]]:
    """Figures in the order in which one makes the next, and what it means if this is the first that is not finite."""
    for name, term in config.reward.items():
        if term.weight and term.kind == "jax":  # what Python functions return is looked at one by one, before
            yield f"reward/terms/{name}", _of_reward(name, term.function)
    yield "reward/mean", f"the sum of the batch's rewards is too large for float32; lower a weight ({', '.join(config.reward)})"
    yield "policy/entropy_tok", _of_policy(config, begun)
    yield "kl/beta", "the controller has raised it without bound; a lower gain or rate, or a larger horizon, keeps it"
    yield "kl/forward_exact_on_policy_tok", _of_reference(config)
    yield "kl/reverse_exact_seq", _of_reference(config)
    yield f"kl/{config.kl.divergence.kind}_exact_seq", f"kl.divergence={config.kl.divergence.kind} has no bound; {SLOWER}"
    unbounded = f"kl.penalty={config.kl.penalty} grows without bound where the policy is far off, which exact does not"
    yield "policy/penalty_loss", unbounded
    yield "policy/loss", unbounded
    yield "policy/grad_norm", f"all that the loss is made of is finite, its gradient is not; {SLOWER}"


def _of_reward(name: str, function: str) -> str:
    if function == "model":
        return f"the reward model's score is none for some completion; look at its weights, or leave it out with ~reward.{name}"
    remedy = f"guard it where it divides or takes a logarithm (jnp.where), or leave it out with ~reward.{name}"
    return f"'{function}' is none for some completion, or too large for the batch's mean; {remedy}"


def _of_policy(config: Config, begun: bool) -> str:
    if begun:
        return f"the policy gives no probabilities, as an update before has made it; {SLOWER}"
    temperature = config.rollout.temperature
    return (
        f"the base model gives no probabilities at rollout.temperature={temperature:g}: its logits are too large, or none; "
        "look at its weights, and at the temperature, by which they are divided"
    )


def _of_reference(config: Config) -> str:
    path = config.reference.path
    moves = f", which moves (reference.refresh={config.reference.refresh.kind})"
    where = moves if config.reference.refresh.kind != "never" else f"; look at {'the base model' if path is None else path}"
    return f"the policy is finite, the reference is not{where}"


AFTER_UPDATE = f"metrics and gradient are finite, what the optimiser made of them (parameters, moments) is not; {SLOWER}."
