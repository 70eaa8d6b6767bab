"""The gated activation against JAX's own parts."""

import jax
import jax.numpy as jnp
import numpy as np

from kljax.models.ops.swiglu import swiglu


def test_value_and_gradients_are_those_of_jax():
    gate, up, weights = (jnp.array(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(3, 4, 5)) * 3)

    def plain(gate, up):
        return jax.nn.silu(gate) * up

    ours, theirs = (
        jax.value_and_grad(lambda g, u, f=f: jnp.vdot(weights, f(g, u)), argnums=(0, 1))(gate, up) for f in (swiglu, plain)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_two_arrays_are_kept():
    gate, up = jnp.ones((4, 5)), jnp.ones((4, 5))
    assert len(jax.tree.leaves(jax.vjp(swiglu, gate, up)[1])) == 2
