"""Optimisers and initial states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.devices.state import initial_state, learning_rate, make_optimizer, state_shapes, state_shardings
from kljax.kl import controllers
from kljax.models.layers import stack, unroll
from kljax.runs.setup import prepare


def update_sizes(config, steps):
    """The size of each step for a constant gradient: Adam's is the learning rate, up to the sign."""
    optimizer = make_optimizer(config, steps)
    params = {"w": jnp.ones(3)}
    state, sizes = optimizer.init(params), []
    for _ in range(steps):
        changes, state = optimizer.update({"w": jnp.full(3, 0.1)}, state, params)
        sizes.append(float(-changes["w"][0]))
    return np.array(sizes)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", lambda t: np.ones_like(t)),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: 0.5 * (1 + np.cos(np.pi * t))),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(tiny, schedule, after, warmup):
    """No update is lost: the first has rate/warmup, the warmup-th the whole rate."""
    steps = 20
    overrides = [f"optimizer.schedule={schedule}", f"optimizer.warmup_steps={warmup}", f"steps={steps}"]
    config = tiny(*overrides).optimizer
    shares = np.concatenate([(np.arange(warmup) + 1) / max(warmup, 1), after(np.arange(steps - warmup) / (steps - warmup))])
    rate = learning_rate(config, steps)
    stated = np.array([rate(count) for count in range(steps)])
    np.testing.assert_allclose(stated, config.learning_rate * shares, rtol=1e-5)
    np.testing.assert_allclose(update_sizes(config, steps), stated, rtol=1e-4)
    assert stated.min() > 0


@pytest.mark.parametrize("form", [lambda params: params, partial(unroll, count=3)], ids=["stacked", "one by one"])
def test_weight_decay_is_decoupled_and_spares_vectors(tiny, form):
    """Those of layers, too, which are matrices where they lie stacked."""
    decay = 0.1
    config = tiny("optimizer.weight_decay=0.1", "optimizer.warmup_steps=0").optimizer
    optimizer = make_optimizer(config, 10)
    layers = {"matrix": jnp.ones((3, 2, 2)), "vector": jnp.ones((3, 2))}
    params = form({"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2), "layers": layers})
    changes, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    changes = stack(changes)
    for of in (changes, changes["layers"]):
        np.testing.assert_allclose(of["matrix"], -config.learning_rate * decay, rtol=1e-5)
        np.testing.assert_array_equal(of["vector"], 0.0)


def test_the_initial_state_is_a_copy(tiny):
    """A step donates its state; the reference must survive that."""
    setup = prepare(tiny())
    optimizer, controller = make_optimizer(setup.config.optimizer, 6), controllers.fixed(0.5)
    shapes = state_shapes(setup.architecture.shapes, optimizer, controller)
    shardings = state_shardings(shapes, optimizer, setup.architecture.shardings, setup.mesh)
    params = setup.architecture.init(0)
    state = initial_state(params, optimizer, controller, 0, shardings)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
