"""x·W with a weight gradient that transposes the narrower of its two factors.

For the gradient xᵀ·ȳ a CPU's matrix product wants its left factor transposed in memory. Autodiff always takes ȳ, and XLA then
computes whatever made ȳ along the wrong axis: where a layer widens, that costs more than the product.
"""

from typing import Any

import jax
from jaxtyping import Array, Float


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **options: Any) -> Array:
    """`lax.dot_general` as `nnx.Linear` calls it: the last axis of x with the first of the kernel, and no option.

    Raises:
        ValueError: for what the product would not follow: other axes, a precision, a result's type or sharding.
    """
    asked = {name: value for name, value in {"precision": precision, **options}.items() if value is not None}
    if asked or dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"dot_general: got axes {dimension_numbers} and {asked}, expected x·W as it is, and nothing else.")
    return product(x, kernel)


@jax.custom_vjp
def product(x: Float[Array, "*dims inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*dims outputs"]:
    """x·W."""
    return x @ kernel


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    left, right = (each.reshape(-1, each.shape[-1]) for each in (x, cotangent))
    narrower_first = left.T @ right if left.shape[1] <= right.shape[1] else (right.T @ left).T
    return cotangent @ kernel.T, narrower_first


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _backward)
