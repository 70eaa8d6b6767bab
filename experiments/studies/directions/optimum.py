"""The best that a model can do which sees one word: exact, by descent from many starts in float64, in NumPy and SciPy alone.

The family has a table of next-word logits for each place in the sentence and each word before it: a Markov chain whose
transitions depend on the place. It shares no code with the students, their training or `kljax.kl.divergences`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize

Vector = Float[np.ndarray, "n"]

# Value of D, and its derivative in each log q, for the list of all sequences; p is the teacher, q the student.
DIVERGENCES: dict[str, Callable[[Vector, Vector], tuple[float, Vector]]] = {
    "forward_kl": lambda p, q: (float(p @ np.log(p / q)), -p),
    "reverse_kl": lambda p, q: (float(q @ np.log(q / p)), q * (np.log(q / p) + 1)),
    "jeffreys": lambda p, q: (float((p - q) @ np.log(p / q)), q * (np.log(q / p) + 1) - p),
    "jensen_shannon": lambda p, q: (
        0.5 * float(p @ np.log(2 * p / (p + q)) + q @ np.log(2 * q / (p + q))),
        0.5 * q * np.log(2 * q / (p + q)),
    ),
}


@dataclass(frozen=True)
class Optimum:
    """Where descent came to rest: log q of all sequences, the divergence there in nats, and how many starts came there."""

    logp: Vector
    value: float
    starts: int


def optima(
    logp: Vector, divergence: str, words: int, length: int, *, starts: int = 6, near: Sequence[Vector] = (), seed: int = 0
) -> list[Optimum]:
    """The local optima that were found, the global one first; those within 1e-4 nats of the one before are one.

    A start is a chain of standard normal logits, or the chain nearest to one of the distributions `near`. Descent is L-BFGS
    until it no longer gains.
    """
    rng = np.random.default_rng(seed)
    objective = _objective(np.exp(logp), divergence, words, length)
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-9}
    first = [rng.normal(size=words + (length - 1) * words**2) for _ in range(starts)]
    first += [chain_of(each, words, length) for each in near]
    runs = [optimize.minimize(objective, x, jac=True, method="L-BFGS-B", options=options) for x in first]
    found: list[Optimum] = []
    for run in sorted(runs, key=lambda run: run.fun):
        if found and run.fun - found[-1].value < 1e-4:
            found[-1] = Optimum(found[-1].logp, found[-1].value, found[-1].starts + 1)
        else:
            found.append(Optimum(chain_logp(run.x, words, length).reshape(-1), float(run.fun), 1))
    return found


def chain_of(logp: Vector, words: int, length: int) -> Float[np.ndarray, "parameters"]:
    """The logits of the chain with the least forward KL(p‖chain), in closed form: first word, and next word after each."""
    p = np.exp(logp).reshape((words,) * length)
    tables = [p.sum(tuple(axis for axis in range(length) if axis not in (t - 1, t))) for t in range(1, length)]
    return np.log(np.concatenate([p.sum(tuple(range(1, length))), *(table.reshape(-1) for table in tables)]))


def chain_logp(x: Vector, words: int, length: int) -> Float[np.ndarray, "*words"]:
    """log q of every sequence of the chain with these logits: those of the first word, then a table a place."""
    total = _log_softmax(x[:words]).reshape((words,) + (1,) * (length - 1))
    for place, table in enumerate(_tables(x, words, length), start=1):
        total = total + _log_softmax(table).reshape(_along(place, words, length))
    return total


def _objective(p: Vector, divergence: str, words: int, length: int):
    def objective(x: Vector) -> tuple[float, Vector]:
        q = np.exp(chain_logp(x, words, length).reshape(-1))
        value, slope = DIVERGENCES[divergence](p, np.maximum(q, 1e-300))
        slope = slope.reshape((words,) * length)
        parts = [_through_softmax(x[:words], slope.sum(tuple(range(1, length))))]
        for place, table in enumerate(_tables(x, words, length), start=1):
            others = tuple(axis for axis in range(length) if axis not in (place - 1, place))
            parts.append(_through_softmax(table, slope.sum(others)).reshape(-1))
        return value, np.concatenate(parts)

    return objective


def _tables(x: Vector, words: int, length: int) -> Float[np.ndarray, "places words words"]:
    return x[words:].reshape(length - 1, words, words)


def _along(place: int, words: int, length: int) -> tuple[int, ...]:
    return tuple(words if axis in (place - 1, place) else 1 for axis in range(length))


def _through_softmax(logits: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return slope - np.exp(_log_softmax(logits)) * slope.sum(-1, keepdims=True)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
