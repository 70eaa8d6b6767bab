"""One checked figure: what CLAIMS.md states beside what this code computes, and how far apart the two may be."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import Any

import jax


@dataclass(frozen=True)
class Row:
    """`obtained` has to be (`relation`) =, ≤ or ≥ `expected`, within the absolute `tolerance`."""

    claim: int
    what: str
    source: str
    relation: str
    expected: float
    obtained: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether it is; NaN never is."""
        excess = self.obtained - self.expected
        return bool({"=": abs(excess), "≤": excess, "≥": -excess}[self.relation] <= self.tolerance)


@dataclass(frozen=True)
class Claim:
    """Fields that the rows of one claim share."""

    number: int
    source: str

    def figure(self, what: str, stated: str, obtained: Any) -> Row:
        """A figure as CLAIMS.md prints it: right to half a unit of its last digit."""
        last_digit = Decimal(stated).as_tuple().exponent
        return self.equal(what, float(stated), obtained, tolerance=0.5 * 10.0 ** int(last_digit))

    def equal(self, what: str, expected: Any, obtained: Any, tolerance: Any) -> Row:
        """Equal within a tolerance that the reason for it, not the result, has set."""
        return self._row(what, "=", expected, obtained, tolerance)

    def at_most(self, what: str, bound: Any, obtained: Any, tolerance: Any = 0.0) -> Row:
        """A bound from above."""
        return self._row(what, "≤", bound, obtained, tolerance)

    def at_least(self, what: str, bound: Any, obtained: Any, tolerance: Any = 0.0) -> Row:
        """A bound from below."""
        return self._row(what, "≥", bound, obtained, tolerance)

    def _row(self, what: str, relation: str, *numbers: Any) -> Row:
        return Row(self.number, what, self.source, relation, *map(float, numbers))


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with JAX's 64-bit types on while it runs."""

    @wraps(function)
    def wide(*arguments: Any, **named: Any) -> Any:
        with jax.enable_x64(True):
            return function(*arguments, **named)

    return wide
