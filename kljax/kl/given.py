"""Probabilities where logits or log-probs are meant, refused where that can be seen: in arrays with values.

Under jit, grad and vmap there are none; nothing is checked there and nothing is added to what is compiled.
"""

from typing import Any

import numpy as np
from jax.core import Tracer

SUM_WITHIN = 1e-3  # probabilities that were rounded to three digits, or to float16, are still seen as such
ROUNDED = 2e-2  # likewise, rounded to bfloat16, which has two


def refuse_probabilities(**logits: Any) -> None:
    """Raise where all rows of an array (over the last axis, of two entries or more) are >= 0 and sum to 1.

    softmax of probabilities is nearly flat: every divergence would be small, finite and wrong. Logits that are such by chance
    are rare, as *every* row has to be, and two kinds that people do write by hand pass where an array has no other rows:
    uniform ones, which are the same distribution read either way, and one-hot ones (`jnp.eye(n)`), as often meant as logits. A
    constant on all logits changes nothing, so that logits that look so are handed over as `logits - 1`. Log-probs are logits.

    Raises:
        ValueError: which array, and what to hand over.
    """
    for name, given in logits.items():
        if not isinstance(given, Tracer) and _look_like_probabilities(given):
            raise ValueError(
                f"{name}: got probabilities (every row is >= 0 and sums to 1), expected logits; hand over jnp.log of them, or, "
                "if they are logits, the same less 1."
            )


def refuse_positive(mask: Any, **log_probs: Any) -> None:
    """Raise where a log-prob is above 0 at a token where the mask is on, which no log-prob of a token is.

    Raises:
        ValueError: which array, where, and what to hand over.
    """
    for name, given in log_probs.items():
        if isinstance(given, Tracer) or isinstance(mask, Tracer):
            continue
        if (above := np.asarray(mask) & (np.asarray(given) > SUM_WITHIN)).any():
            row, step = np.argwhere(above)[0]
            raise ValueError(
                f"{name}: got {given[row, step]:g} at sequence {row}, token {step}, expected a log-prob, which is <= 0; of "
                "probabilities hand over jnp.log, of logits jax.nn.log_softmax."
            )


def _look_like_probabilities(given: Any) -> bool:
    if given.ndim == 0 or given.size == 0 or given.shape[-1] < 2 or not getattr(given, "is_fully_addressable", True):
        return False
    within = ROUNDED if str(given.dtype) == "bfloat16" else SUM_WITHIN
    if not _sum_to_one(
        np.asarray(given[(0,) * (given.ndim - 1)], np.float64), within
    ):  # most arrays: one row leaves the device
        return False
    rows = np.asarray(given, np.float64)
    telling = (rows.max(-1) > rows.min(-1)) & (np.count_nonzero(rows, axis=-1) > 1)
    return bool(_sum_to_one(rows, within).all() and telling.any())


def _sum_to_one(rows, within):
    possible = (rows >= 0).all(-1)
    return possible & (np.abs(np.where(possible[..., None], rows, 0.0).sum(-1) - 1) < within)
