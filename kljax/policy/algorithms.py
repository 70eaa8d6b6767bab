"""The table of algorithms: each a choice of parts. A new one is a function and a line."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Array, Bool, Float

from kljax.policy.advantages import leave_one_out, no_baseline
from kljax.policy.losses import score_function


@dataclass(frozen=True)
class Algorithm:
    """`baseline` maps the returns to what is taken from them; `loss` maps (logp, advantage, mask) to a scalar."""

    baseline: Callable[[Float[Array, "N G T"]], Float[Array, "N G T"]]
    loss: Callable[[Float[Array, "B T"], Float[Array, "B T"], Bool[Array, "B T"]], Float[Array, ""]]
    min_samples: int


ALGORITHMS = {
    #                        baseline                loss                 samples a prompt, at least
    "reinforce": Algorithm(baseline=no_baseline,   loss=score_function, min_samples=1),
    "rloo":      Algorithm(baseline=leave_one_out, loss=score_function, min_samples=2),
}  # fmt: skip
