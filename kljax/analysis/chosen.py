"""A divergence that a user names, with its parameters, and whose distribution the sampling has cut."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp

from kljax.analysis.completions import Drawn
from kljax.analysis.policies import plain
from kljax.errors import UserError, did_you_mean
from kljax.kl.divergences import DIVERGENCES, Divergence
from kljax.models.truncated import reverse_kl_of

OF_COMPLETIONS = ("prompt", "prompts", "completion", "completions")


@dataclass(frozen=True)
class Chosen:
    """A divergence by name, with its parameters.

    A KL averages by its first distribution. Where that is the one that was sampled, and top_k and top_p have `cut` it, the KL
    is that of what is left of it.
    """

    name: str
    parameters: tuple[tuple[str, float], ...] = ()
    cut: Literal["policy", "reference"] | None = None
    top_k: int = 0
    top_p: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether neither distribution is cut."""
        return self.cut is None

    @property
    def label(self) -> str:
        """Its name in metrics: reverse_exact, jeffreys_exact, renyi(alpha=2)_exact."""
        given = ", ".join(f"{name}={value:g}" for name, value in self.parameters)
        return self.name.removesuffix("_kl") + (f"({given})" if given else "") + "_exact"

    @property
    def function(self) -> Divergence:
        """(logits, ref_logits) → nats."""
        kl = reverse_kl_of(self.top_k, self.top_p)
        if self.cut == "policy":
            return kl
        if self.cut == "reference":
            return lambda logits, ref_logits: kl(ref_logits, logits)
        whole = DIVERGENCES[self.name]  # itself where it has no parameters: scoring knows the reverse KL
        return partial(whole, **dict(self.parameters)) if self.parameters else whole


def choose(
    name: str, parameters: dict[str, Any], drawn: Drawn | None, temperature: float, identities: tuple[str, str]
) -> Chosen:
    """The divergence that a user asked for, checked. `identities` are those of policy and reference."""
    if not isinstance(name, str) or name not in DIVERGENCES:
        raise UserError(
            f"divergence: got {name!r}, expected one of {', '.join(DIVERGENCES)}.{did_you_mean(str(name), DIVERGENCES)}"
        )
    given = _checked(name, parameters)
    owner = {"reverse_kl": "policy", "forward_kl": "reference"}.get(name)
    if owner is None or drawn is None or drawn.is_whole or not drawn.temperature or drawn.temperature != temperature:
        return Chosen(name, given)
    if drawn.identity != identities[0 if owner == "policy" else 1]:
        return Chosen(name, given)
    return Chosen(name, given, owner, drawn.top_k, drawn.top_p)  # pyright: ignore


def _checked(name: str, parameters: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    known = dict(list(inspect.signature(DIVERGENCES[name]).parameters.items())[2:])
    for given in parameters.keys() - known.keys():
        if given in OF_COMPLETIONS:
            raise UserError(f"{given}: prompts and completions are compared as policy.score(prompts, completions, ends=True).")
        raise UserError(f"{given}: the divergence {name} has no such parameter, expected {', '.join(known) or 'none'}.")
    for needed, about in known.items():
        if about.default is inspect.Parameter.empty and needed not in parameters:
            raise UserError(f"{needed}: the divergence {name} needs it, as in divergence={name!r}, {needed}=2.0.")
    for key, value in parameters.items():
        if isinstance(value, bool) or not isinstance(plain(value), int | float):
            raise UserError(f"{key}: got {value!r}, expected a number.")
    try:
        found = tuple((key, float(value)) for key, value in sorted(parameters.items()))
        partial(DIVERGENCES[name], **dict(found))(jnp.zeros(2), jnp.zeros(2))
    except (ValueError, OverflowError) as error:
        raise UserError(str(error)) from None
    return found
