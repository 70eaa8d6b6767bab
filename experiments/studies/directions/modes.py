"""Which dialect a student keeps: fitted by each divergence, beside its exact optimum and a student that can say all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.studies.directions import dialects, optimum
from experiments.studies.directions.dialects import ENDS, KINDS, LENGTH, WORDS, Dialects
from experiments.studies.directions.students import Student, fit
from kljax.kl import oracle
from kljax.kl.divergences import DIVERGENCES

NAMES = tuple(optimum.DIVERGENCES)
DRAWS = 100  # sentences among which the distinct ones are counted
SHOWN = 3  # sentences that stand for a distribution


@dataclass(frozen=True)
class Distribution:
    """Of a teacher, a trained student or an optimum, exact: KLs and entropy in nats per sequence.

    `value` is the divergence `fitted_by`, `above` how much that is above the best of the family; None of the teacher.
    `mass` is by kind of sentence; `distinct` the expected number of different sentences among DRAWS.
    """

    who: str
    fitted_by: str | None
    seed: int | None
    value: float | None
    above: float | None
    forward_kl: float  # KL(teacher‖student)
    reverse_kl: float  # KL(student‖teacher)
    entropy: float
    distinct: float
    mass: dict[str, float]
    says: list[str]


def study(teacher: Dialects, *, seeds: int, steps: int, starts: int, say: Callable[[str], None]) -> list[Distribution]:
    """The teacher; for each divergence the family's optimum and trained students; and students that see all words before."""
    found = [describe("teacher", teacher.logp, teacher)]
    for name in NAMES:
        say(f"{name}: the exact optimum of a model that sees one word")
        best = optimum.optima(teacher.logp, name, len(WORDS), LENGTH, starts=starts, near=teacher.each)
        found.append(describe("optimum", best[0].logp, teacher, name, best=best[0].value))
        found += [describe("other optimum", one.logp, teacher, name, best=best[0].value) for one in other_dialect(best)]
        for who, window in (("student", 1), ("seeing all", LENGTH)):
            say(f"{name}: {seeds} students, {who}")
            fitted = fit(Student(window), teacher.logp, DIVERGENCES[name], seeds=seeds, steps=steps)
            lowest = best[0].value if window == 1 else 0.0
            found += [describe(who, logp, teacher, name, seed=seed, best=lowest) for seed, logp in enumerate(fitted)]
    return found


def other_dialect(found: Sequence[optimum.Optimum]) -> list[optimum.Optimum]:
    """The best optimum that prefers another dialect than the best of all does, if descent found one."""
    of_kind = dialects.kinds()
    prefers = [int(np.argmax(dialects.mass(one.logp, of_kind)[: len(ENDS)])) for one in found]
    return [one for one, dialect in zip(found, prefers, strict=True) if dialect != prefers[0]][:1]


def describe(
    who: str,
    logp: Float[np.ndarray, "B"],
    teacher: Dialects,
    fitted_by: str | None = None,
    *,
    seed: int | None = None,
    best: float | None = None,
) -> Distribution:
    """All figures of a distribution over sentences; `best` is the least value of `fitted_by` that it could have."""
    q = np.exp(logp)
    value = None if fitted_by is None else float(optimum.DIVERGENCES[fitted_by](np.exp(teacher.logp), q)[0])
    return Distribution(
        who=who,
        fitted_by=fitted_by,
        seed=seed,
        value=value,
        above=None if value is None or best is None else value - best,
        forward_kl=float(oracle.kl(teacher.logp, logp)),
        reverse_kl=float(oracle.kl(logp, teacher.logp)),
        entropy=float(-q @ logp),
        distinct=float(-np.expm1(DRAWS * np.log1p(-q)).sum()),
        mass=dict(zip(KINDS, map(float, dialects.mass(logp, dialects.kinds())), strict=True)),
        says=[dialects.sentence(int(i)) for i in np.argsort(-q, kind="stable")[:SHOWN]],
    )
