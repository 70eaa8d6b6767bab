"""The product against JAX's own, and which factor its weight gradient transposes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kljax.models.ops.linear import dot_general, product


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_value_and_gradients_are_those_of_jax(shape):
    rng = np.random.default_rng(0)
    x, kernel, weights = (jnp.array(rng.normal(size=s), jnp.float32) for s in ((2, 4, shape[0]), shape, (2, 4, shape[1])))
    ours, theirs = (
        jax.value_and_grad(lambda x, kernel, f=f: jnp.vdot(weights, f(x, kernel)), argnums=(0, 1))(x, kernel)
        for f in (product, jnp.matmul)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3)])
def test_the_narrower_factor_is_transposed(inputs, outputs):
    rows = 16
    x, kernel = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs))
    jaxpr = jax.make_jaxpr(jax.grad(lambda kernel: product(x, kernel).sum()))(kernel)
    transposed = [e.invars[0].aval.shape for e in jaxpr.eqns if e.primitive is lax.transpose_p]
    assert (rows, min(inputs, outputs)) in transposed
    assert (rows, max(inputs, outputs)) not in transposed


LAST_WITH_FIRST = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ((((0,), (0,)), ((), ())), {}),
        (LAST_WITH_FIRST, {"precision": lax.Precision.HIGHEST}),
        (LAST_WITH_FIRST, {"preferred_element_type": jnp.float64}),
    ],
)
def test_what_the_product_would_not_follow_is_refused(axes, options):
    x = jnp.ones((2, 2))
    np.testing.assert_array_equal(dot_general(x, x, LAST_WITH_FIRST, out_sharding=None), x @ x)
    with pytest.raises(ValueError, match="dot_general: got axes"):
        dot_general(x, x, axes, **options)
