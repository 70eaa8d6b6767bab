"""Does training reach the optimum? Every penalty on the task that can be enumerated, a real transformer, against theory.

Each penalty comes to rest where its expected gradient and that of the reward cancel: `exact` and `k1_reward` at the optimum
of the objective, pi* = rho·exp(r/beta)/Z; the token-local ones at a policy that does not see the KL of later states;
`k3_loss` at the token-local optimum of the *forward* KL. The ablations have no such point that depends on beta alone.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.table import Table

from kljax.config import Config
from kljax.kl import oracle
from kljax.progress import console
from kljax.rewards import combination
from kljax.runs.enumeration import Enumeration, enumerate_task
from kljax.runs.restore import restore
from kljax.training.loop import train

RESTING_POINTS = {
    "exact": "optimum",
    "k1_reward": "optimum",
    "exact_token": "reverse",
    "k2_loss": "reverse",
    "weighted_k3_loss": "reverse",
    "k3_loss": "forward",
}
"""Of the penalties that have one: the optimum of J, or the token-local optimum of this direction of KL."""


@dataclass(frozen=True)
class Outcome:
    """One finished run, means over its prompts: nats per sequence, exact."""

    penalty: str
    seed: int
    kl_to_optimum: float
    kl_to_theory: float  # of the penalty's own resting point; NaN where there is none
    kl_to_reference: float
    reward: float
    regret: float


def run(config: Config) -> Outcome:
    """Train, restore the last step, and measure it by enumeration."""
    restored = restore(train(config), "latest", config.mesh)
    prompts = restored.prompts()
    own = restored.setup.own_rewards(config.reward)
    reward = combination.build(config.reward, restored.setup.tokenizer, prompts.rows.column_names, own)
    exact = enumerate_task(restored.setup, prompts, reward, restored.reference)
    metrics = exact.metrics(restored.policy, restored.beta)
    to_theory = float("nan")
    if kind := RESTING_POINTS.get(config.kl.penalty):
        theory = resting_point(exact, restored.beta, kind)
        to_theory = float(exact.share @ oracle.kl(exact.logp(restored.policy), theory))
    return Outcome(
        penalty=config.kl.penalty,
        seed=config.seed,
        kl_to_optimum=metrics["oracle/kl_to_optimum"],
        kl_to_theory=to_theory,
        kl_to_reference=metrics["oracle/kl_to_reference"],
        reward=metrics["oracle/reward"],
        regret=metrics["oracle/regret"],
    )


def resting_point(exact: Enumeration, beta: float, kind: str) -> Float[np.ndarray, "prompts B"]:
    """Log-probs of all sequences of the policy at which the penalty comes to rest, for each prompt."""

    def point(ref_logp: Float[np.ndarray, "B"], reward: Float[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
        if kind == "optimum":
            return oracle.optimum(ref_logp, reward, beta).logp
        table = oracle.conditionals(exact.tree, ref_logp)
        return oracle.sequence_logp(exact.tree, oracle.token_local_optimum(exact.tree, table, reward, beta, kind))

    return np.array([point(*problem) for problem in zip(exact.ref_logp, exact.reward, strict=True)])


def write_csv(outcomes: Sequence[Outcome], file: Path) -> None:
    """One row a run."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=[field.name for field in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)


def show(outcomes: Sequence[Outcome], beta: float) -> None:
    """Means over the seeds, and the worst seed's distance to the optimum."""
    seeds = len({outcome.seed for outcome in outcomes})
    table = Table(title=f"Where each penalty ends, beta = {beta:g}, means of {seeds} seeds; KLs in nats per sequence")
    table.add_column("penalty", no_wrap=True)
    for label in ("KL to optimum", "worst seed", "KL to its theory", "KL to reference", "reward", "regret"):
        table.add_column(label, justify="right")
    for penalty in dict.fromkeys(outcome.penalty for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.penalty == penalty]

        def mean(of: Callable[[Outcome], float], mine: list[Outcome] = mine) -> float:
            return float(np.mean([of(outcome) for outcome in mine]))

        theory = mean(lambda o: o.kl_to_theory)
        table.add_row(
            penalty,
            f"{mean(lambda o: o.kl_to_optimum):.4f}",
            f"{max(o.kl_to_optimum for o in mine):.4f}",
            "–" if np.isnan(theory) else f"{theory:.4f}",
            f"{mean(lambda o: o.kl_to_reference):.3f}",
            f"{mean(lambda o: o.reward):.3f}",
            f"{mean(lambda o: o.regret):.4f}",
        )
    console.print(table)
