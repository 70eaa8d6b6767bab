"""Where beta comes from."""

import jax
import jax.numpy as jnp
import numpy as np

from kljax.kl import controllers


def test_a_fixed_beta_stays():
    controller = controllers.fixed(0.3)
    state = controller.init()
    assert state.beta.dtype == jnp.float32
    for kl in (0.0, 5.0, 1e6):
        state = controller.update(state, jnp.float32(kl))
    assert state.beta == jnp.float32(0.3)


def test_a_sweep_over_beta_is_a_vmap():
    betas = jnp.array([0.1, 0.3, 1.0])
    states = controllers.ControllerState(betas)
    update = controllers.fixed(0.0).update
    np.testing.assert_array_equal(jax.vmap(update, in_axes=(0, None))(states, jnp.float32(2.0)).beta, betas)
