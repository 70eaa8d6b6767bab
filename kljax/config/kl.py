"""The penalty for leaving the reference: beta, its controller, the divergence."""

from typing import Any, Literal

from pydantic import Field

from kljax.config.base import AboveZero, Fraction, NonNegative, Number, strict

# The rows of PENALTIES, ALGORITHMS, REWARD_SCALES and DIVERGENCES by name: the tables hold functions, which need JAX, and a
# command line does not. tests/policy/ compares them.
PenaltyName = Literal[
    "exact", "k1_reward", "exact_token", "k2_loss", "weighted_k3_loss", "k3_loss", "k1_loss", "k3_reward", "k2_reward"
]
PlainDivergenceName = Literal["reverse_kl", "forward_kl", "jeffreys", "chi_squared", "total_variation", "squared_hellinger"]


@strict
class FixedBeta:
    """beta stays `kl.beta`."""

    kind: Literal["fixed"]


@strict
class ScheduledBeta:
    """beta is `kl.beta` times an optax schedule of the step."""

    kind: Literal["scheduled"]
    schedule: str  # the name of a function of optax.schedules, such as linear_schedule
    arguments: dict[str, Any]  # its keyword arguments


@strict
class AdaptiveBeta:
    """Proportional control (Ziegler et al. 2019): beta grows while the sequence KL is above `target`."""

    kind: Literal["adaptive"]
    target: AboveZero  # nats per sequence
    horizon: AboveZero  # sequences; the smaller, the faster


@strict
class TargetBeta:
    """A dual variable on log beta that holds the sequence KL at `budget`."""

    kind: Literal["target"]
    budget: AboveZero  # nats per sequence
    rate: AboveZero  # log beta a step, where KL is off by a factor e or more
    gain: NonNegative  # log beta at once, likewise; it damps
    minimum: AboveZero  # beta is never below
    maximum: AboveZero  # nor above


@strict
class PlainDivergence:
    """A divergence of two next-token distributions that has no parameter; p is the policy, q the reference."""

    kind: PlainDivergenceName


@strict
class JensenShannon:
    """Skewed Jensen–Shannon: mix·KL(q‖m) + (1 − mix)·KL(p‖m), m = mix·q + (1 − mix)·p."""

    kind: Literal["jensen_shannon"]
    mix: Fraction


@strict
class Renyi:
    """Rényi's divergence of order alpha; 1 is the reverse KL."""

    kind: Literal["renyi"]
    alpha: NonNegative


@strict
class AlphaDivergence:
    """The alpha divergence; 1 is the reverse KL, 0 the forward."""

    kind: Literal["alpha_divergence"]
    alpha: Number


@strict
class KlConfig:
    """The penalty for leaving the frozen reference."""

    penalty: PenaltyName
    beta: NonNegative  # reward units per nat; at the start, where a controller moves it
    controller: FixedBeta | ScheduledBeta | AdaptiveBeta | TargetBeta = Field(discriminator="kind")
    divergence: PlainDivergence | JensenShannon | Renyi | AlphaDivergence = Field(discriminator="kind")  # of exact, exact_token
    hard_budget: AboveZero | None  # nats per sequence: a run that exceeds it stops and keeps its last checkpoint below
