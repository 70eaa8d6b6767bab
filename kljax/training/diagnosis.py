"""Where a number that is not finite came from, in the order in which a step computes: reward, policy, KL, penalty, gradient."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from kljax.config import Config

SLOWER = "a lower optimizer.learning_rate or optimizer.clip_norm, or a higher kl.beta, usually helps"


def fetched(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics as Python's numbers and lists, once they are there."""
    return {name: np.asarray(value).tolist() for name, value in jax.device_get(dict(metrics)).items()}


def cause(values: Mapping[str, Any], config: Config) -> str | None:
    """What a reader must know of the first figure that is not finite, with a remedy; None where all that trains is finite."""
    for name, sentence in _signs(config):
        if not math.isfinite(values.get(name, 0.0)):
            return f"{name} is {values[name]}, expected a finite number: {sentence}."
    return None


def _signs(config: Config) -> Iterator[tuple[str, str]]:
    """Figures in the order in which one makes the next, and what it means if this is the first that is not finite."""
    for name, term in config.reward.items():
        if term.weight:
            what = "the reward model's score" if term.function == "model" else f"'{term.function}'"
            remedy = f"guard it where it divides or takes a logarithm (jnp.where), or leave it out with ~reward.{name}"
            yield f"reward/terms/{name}", f"{what} is none for some completion; {remedy}"
    yield "reward/mean", f"the weighted sum is too large for float32; lower a weight ({', '.join(config.reward)})"
    yield "policy/entropy_tok", f"the policy gives no probabilities, as an update before has made it; {SLOWER}"
    yield "kl/forward_exact_on_policy_tok", _of_reference(config)
    yield "kl/reverse_exact_seq", _of_reference(config)
    yield f"kl/{config.kl.divergence.kind}_exact_seq", f"kl.divergence={config.kl.divergence.kind} has no bound; {SLOWER}"
    unbounded = f"kl.penalty={config.kl.penalty} grows without bound where the policy is far off, which exact does not"
    yield "policy/penalty_loss", unbounded
    yield "policy/loss", unbounded
    yield "policy/grad_norm", f"all that the loss is made of is finite, its gradient is not; {SLOWER}"


def _of_reference(config: Config) -> str:
    path = config.reference.path
    return f"the policy is finite, the reference is not; look at {'the base model' if path is None else path}"


AFTER_UPDATE = f"metrics and gradient are finite, what the optimiser made of them (parameters, moments) is not; {SLOWER}."
