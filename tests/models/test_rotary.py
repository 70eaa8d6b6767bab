"""Rotary positions: relative, as their paper writes them, and no longer than their table."""

import jax.numpy as jnp
import numpy as np

from kljax.models.rotary import rotate, rotation


def turned(x, position):
    return rotate(x, rotation(jnp.array([[position]]), 32, x.shape[-1], 1e4))


def test_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.array(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(i, j):
        return jnp.sum(turned(q, i) * turned(k, j))

    np.testing.assert_allclose(product(7, 4), product(13, 10), rtol=1e-4)
    assert abs(product(7, 4) - product(7, 5)) > 1e-3


def test_each_pair_is_multiplied_by_a_complex_number():
    x, position = np.random.default_rng(0).normal(size=8).astype(np.float32), 5
    expected = (x[:4] + 1j * x[4:]) * np.exp(1j * position * 1e4 ** (-np.arange(4) / 4))
    found = turned(jnp.array(x)[None, None, None], position)[0, 0, 0]
    np.testing.assert_allclose(found, np.concatenate([expected.real, expected.imag]), atol=1e-6)
