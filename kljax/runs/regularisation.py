"""The parts that the config's section `kl` asks for: the divergence of states, and where beta comes from."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.config import AdaptiveBeta, Config, KlConfig, ScheduledBeta, TargetBeta, to_dict
from kljax.errors import UserError, did_you_mean
from kljax.kl import controllers
from kljax.kl.controllers import Controller
from kljax.kl.divergences import DIVERGENCES, Divergence
from kljax.kl.penalties import PENALTIES

ROUNDING = 1e-6  # a schedule that ends at 0 may end so far below it; beta is 0 there


def make_divergence(config: KlConfig) -> Divergence:
    """The divergence of two next-token distributions that the penalty counts."""
    parameters = to_dict(config.divergence)
    kind = parameters.pop("kind")
    if kind != "reverse_kl" and not PENALTIES[config.penalty].takes_divergence:
        exact = ", ".join(name for name, penalty in PENALTIES.items() if penalty.takes_divergence)
        raise UserError(
            f"kl.divergence: got {kind} with kl.penalty={config.penalty}, which estimates the reverse KL from samples; "
            f"expected kl.penalty to be one of {exact}."
        )
    return partial(DIVERGENCES[kind], **parameters) if parameters else DIVERGENCES[kind]


def ablation_note(config: KlConfig) -> str:
    """A sentence on a penalty that does not do what it is named for; empty for the others."""
    why = PENALTIES[config.penalty].ablation
    return f"kl.penalty={config.penalty} is an ablation, it does not regularise as its name suggests: {why}." if why else ""


def make_controller(config: Config) -> Controller:
    """The controller of beta; it starts at kl.beta."""
    beta, chosen = config.kl.beta, config.kl.controller
    if isinstance(chosen, ScheduledBeta):
        return controllers.scheduled(beta, _schedule(chosen, config.steps))
    if isinstance(chosen, AdaptiveBeta | TargetBeta) and beta == 0:
        raise UserError(f"kl.beta: got 0 with kl.controller={chosen.kind}, which multiplies it; expected a number > 0.")
    if isinstance(chosen, AdaptiveBeta):
        sequences = config.rollout.prompts * config.rollout.samples
        if chosen.horizon <= controllers.CLIP * sequences:
            raise UserError(
                f"kl.controller.horizon: got {chosen.horizon:g}, expected more than {controllers.CLIP * sequences:g}: a step "
                f"of {sequences} sequences could take beta to 0."
            )
        return controllers.adaptive(beta, chosen.target, chosen.horizon, sequences)
    if isinstance(chosen, TargetBeta):
        if not chosen.minimum <= beta <= chosen.maximum:
            raise UserError(
                f"kl.beta: got {beta}, expected a number between kl.controller.minimum={chosen.minimum} and "
                f"kl.controller.maximum={chosen.maximum}."
            )
        return controllers.target(beta, chosen.budget, chosen.rate, chosen.gain, chosen.minimum, chosen.maximum)
    return controllers.fixed(beta)


def _schedule(config: ScheduledBeta, steps: int) -> optax.Schedule:
    known = {name for name, value in vars(optax.schedules).items() if inspect.isfunction(value)}
    if config.schedule not in known:
        raise UserError(
            f"kl.controller.schedule: optax has no schedule {config.schedule!r}; it has: {', '.join(sorted(known))}."
            + did_you_mean(config.schedule, known)
        )
    try:
        schedule = getattr(optax.schedules, config.schedule)(**config.arguments)
        values = np.asarray(jax.vmap(schedule)(jnp.arange(steps)))
    except Exception as error:  # optax checks its arguments by many kinds of error
        raise UserError(
            f"kl.controller.arguments: {config.schedule} does not take them ({' '.join(str(error).split())})."
        ) from None
    if (bad := np.flatnonzero(~(np.isfinite(values) & (values >= -ROUNDING)))).size:
        raise UserError(
            f"kl.controller: the schedule is {values[bad[0]]:g} at step {bad[0]}, expected numbers >= 0, which kl.beta is "
            "multiplied with: a beta below 0 would reward leaving the reference."
        )
    return schedule
