"""Values that a config leaves to be worked out from its other values, before it is validated: widths of the model.

So the library and config.yaml see numbers only.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kljax.errors import UserError

MULTIPLE = 16  # of the hidden width of a SwiGLU: what matrix units take in one go


def with_widths(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config, each width of `model` that is null filled in by RULES; what is given is kept."""
    model = values.get("model")
    if not isinstance(model, Mapping):
        return dict(values)
    filled = dict(model)
    for name, rule in RULES.items():
        if name in filled and filled[name] is None:
            filled[name] = rule(filled)
    return {**values, "model": filled}


def divisors(number: int) -> str:
    """All divisors, as a list in words."""
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def _d_mlp(model: Mapping[str, Any]) -> int | None:
    """4·d_model; for a SwiGLU, which has three matrices for two, 8/3·d_model rounded up to a multiple of MULTIPLE."""
    if (d_model := _size(model, "d_model")) is None:
        return None
    if model.get("mlp") != "swiglu":  # an encoder's has no name: it is a GELU's
        return 4 * d_model
    return -(-8 * d_model // (3 * MULTIPLE)) * MULTIPLE


def _head_dim(model: Mapping[str, Any]) -> int | None:
    """d_model / heads."""
    d_model, heads = _size(model, "d_model"), _size(model, "heads")
    if d_model is None or heads is None:
        return None
    if d_model % heads:
        raise UserError(
            f"model.heads: got {heads}, expected a divisor of model.d_model={d_model}: {divisors(d_model)}. For heads of "
            "another width, give model.head_dim."
        )
    return d_model // heads


def _size(model: Mapping[str, Any], name: str) -> int | None:
    """A number that a width follows from; None where it is missing or wrong, which validation will say."""
    value = model.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


RULES: dict[str, Callable[[Mapping[str, Any]], int | None]] = {
    "d_mlp": _d_mlp,
    "kv_heads": lambda model: _size(model, "heads"),
    "head_dim": _head_dim,
}
"""A width, and what it is where the config says null."""
