"""The best step of a run by its held-out figures: best.json, written anew at each look while it trains. JAX-free.

Best is the highest figure of `evaluation.best`, of equal ones the earliest. A step that is the best so far is saved, and stays
until a better one is. What a run says of steps that it has still to take, or takes again, counts for nothing.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.progress import say
from kljax.reading import read_bytes, strict_json
from kljax.runs import digests

BEST_FILE = "best.json"
HELD_OUT = "held_out/"
"""Begins the names of held-out figures in metrics.jsonl."""
FIGURES = {"objective": "objective/mean", "reward": "reward/mean"}
"""Figures that a step can be the best by, and the metric of an evaluation that it is."""


@dataclass(frozen=True)
class Look:
    """The figure of the policy after so many steps."""

    step: int
    figure: float


Log = Callable[[], Sequence[Mapping[str, object]]]
"""The lines of metrics.jsonl, which are read where there is no best.json."""


class BestSoFar:
    """The looks of a run at `step` and later are still to come; `saved` are the steps whose checkpoints are there.

    `step` is the best of those that are saved, None without any.
    """

    def __init__(self, path: Path, by: str, first: int, saved: Collection[int], log: Log):
        self._path, self._by = path, by
        known = read(path) if (path / BEST_FILE).exists() else _from_log(by, log())
        self._looks = [look for look in known if look.step < first]
        self._best = best_of(self._looks, saved)

    @property
    def step(self) -> int | None:
        """The best step so far."""
        return None if self._best is None else self._best.step

    @property
    def sentence(self) -> str | None:
        """The sentence of a launch at its end."""
        best = best_of(self._looks, {look.step for look in self._looks})
        if best is None:
            return None
        lost = f"{best.figure:.3f} after step {best.step}, whose checkpoint is not there"
        if self._best is None:
            return f"Best held-out {self._by}: {lost}; no step that was looked at is saved."
        also = "" if best == self._best else f" Better was {lost}."
        return (
            f"Best held-out {self._by}: {self._best.figure:.3f} after step {self.step}, which is run={self._path}@best.{also}"
        )

    def add(self, step: int, figures: Mapping[str, float]) -> bool:
        """Take note of a look; whether it is the best one."""
        look = Look(step, figures[FIGURES[self._by]])
        self._looks.append(look)
        self._write()
        if self._best is not None and look.figure <= self._best.figure:
            return False
        self._best = look
        return True

    def forget_from(self, step: int, saved: Collection[int]) -> None:
        """Drop the looks at `step` and later, whose checkpoints are deleted; `saved` are those that are left."""
        self._looks = [look for look in self._looks if look.step < step]
        self._best = best_of(self._looks, saved)
        self._write()

    def _write(self) -> None:
        looks = [{"step": look.step, "figure": look.figure} for look in self._looks]
        digests.write_text(self._path, BEST_FILE, json_text({"by": self._by, "looks": looks}, indent=1) + "\n")


def _from_log(by: str, log: Sequence[Mapping[str, object]]) -> list[Look]:
    """The looks that metrics.jsonl tells of."""
    found = ((line["step"], line.get(f"{HELD_OUT}{FIGURES[by]}")) for line in log)
    return [Look(int(step), float(figure)) for step, figure in found if isinstance(figure, int | float)]  # pyright: ignore


def best_of(looks: Sequence[Look], saved: Collection[int]) -> Look | None:
    """The look with the highest figure, of equal ones the earliest, among steps that are saved."""
    return max((look for look in looks if look.step in saved), key=lambda look: (look.figure, -look.step), default=None)


def read(path: Path) -> list[Look]:
    """The looks of a run. Raises `Damaged` where the file is not what was written."""
    way_out = "restore it from a copy, or delete it: the command that began the run makes it again"
    digests.check(path, BEST_FILE, way_out)
    try:
        looks = [Look(one["step"], one["figure"]) for one in strict_json(read_bytes(path / BEST_FILE))["looks"]]
        if all(type(look.step) is int and math.isfinite(look.figure) for look in looks):
            return looks
    except (ValueError, KeyError, TypeError):
        pass
    raise digests.Damaged(f"{path / BEST_FILE} has something else where a look belongs", way_out)


def best_step(path: Path, saved: Sequence[int], field: str) -> int:
    """The best of the steps that are saved; a sentence where a better one is not there any more."""
    has = f"expected latest or one of {', '.join(map(str, saved))}"
    if not (path / BEST_FILE).exists():
        raise UserError(
            f"{field}: got best, but {path} was not looked at while it trained (evaluation.every=0, or evaluation.best=null); "
            f"{has}."
        )
    looks = read(path)
    found, best = best_of(looks, saved), best_of(looks, {look.step for look in looks})
    if found is None or best is None:
        raise UserError(f"{field}: got best, but no step at which {path} was looked at is saved; {has}.")
    if found != best:
        say(f"{path}: step {best.step} is the best, but its checkpoint is not there; step {found.step} is the best that is.")
    return found.step
