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
    """Set by kl/controller=fixed."""


@strict
class ScheduledBeta:
    """beta is `kl.beta` times an optax schedule of the step."""

    kind: Literal["scheduled"]
    """Set by kl/controller=scheduled."""
    schedule: str
    """The name of a function of optax.schedules, such as linear_schedule; beta is kl.beta times its value."""
    arguments: dict[str, Any]
    """The schedule's keyword arguments."""


@strict
class AdaptiveBeta:
    """Proportional control (Ziegler et al. 2019): beta grows while the sequence KL is above `target`."""

    kind: Literal["adaptive"]
    """Set by kl/controller=adaptive."""
    target: AboveZero
    """The sequence KL that is aimed at, nats per sequence."""
    horizon: AboveZero
    """Sequences; the smaller, the faster beta moves."""


@strict
class TargetBeta:
    """A dual variable on log beta that holds the sequence KL at `budget`."""

    kind: Literal["target"]
    """Set by kl/controller=target."""
    budget: AboveZero
    """The sequence KL that is held, nats per sequence."""
    rate: AboveZero
    """The change of log beta a step, where the KL is off by a factor e or more."""
    gain: NonNegative
    """The change of log beta at once, likewise; it damps."""
    minimum: AboveZero
    """The least that beta can be."""
    maximum: AboveZero
    """The most that beta can be."""


@strict
class PlainDivergence:
    """A divergence of two next-token distributions that has no parameter; p is the policy, q the reference."""

    kind: PlainDivergenceName
    """Which one; set by kl/divergence=NAME."""


@strict
class JensenShannon:
    """Skewed Jensen–Shannon: mix·KL(q‖m) + (1 − mix)·KL(p‖m), m = mix·q + (1 − mix)·p."""

    kind: Literal["jensen_shannon"]
    """Set by kl/divergence=jensen_shannon."""
    mix: Fraction
    """The weight of the reference in the mixture m; 0.5 is the symmetric one."""


@strict
class Renyi:
    """Rényi's divergence of order alpha; 1 is the reverse KL."""

    kind: Literal["renyi"]
    """Set by kl/divergence=renyi."""
    alpha: NonNegative
    """The order; 1 is the reverse KL."""


@strict
class AlphaDivergence:
    """The alpha divergence; 1 is the reverse KL, 0 the forward."""

    kind: Literal["alpha_divergence"]
    """Set by kl/divergence=alpha_divergence."""
    alpha: Number
    """The order; 1 is the reverse KL, 0 the forward."""


@strict
class KlConfig:
    """The penalty for leaving the frozen reference."""

    penalty: PenaltyName
    """Which estimate of the KL is taken, and whether it enters by the reward or by the loss (README: Penalties)."""
    beta: NonNegative
    """Reward units per nat, at the start where a controller moves it; 0: no penalty."""
    controller: FixedBeta | ScheduledBeta | AdaptiveBeta | TargetBeta = Field(discriminator="kind")
    """How beta moves in training."""
    divergence: PlainDivergence | JensenShannon | Renyi | AlphaDivergence = Field(discriminator="kind")
    """The measure of the penalties exact and exact_token; the others are of the reverse KL."""
    hard_budget: AboveZero | None
    """Nats per sequence: a run that exceeds it stops and keeps its last checkpoint below; null: no limit."""
