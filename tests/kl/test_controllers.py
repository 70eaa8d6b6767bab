"""Where beta comes from: traces against Python loops, and control of a toy plant."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.command_line import compose
from kljax.config import Config
from kljax.kl import controllers

SCHEDULE = optax.linear_schedule(init_value=1.0, end_value=0.2, transition_steps=4)
TARGET = {"beta": 0.3, "budget": 5.0, "rate": 0.05, "gain": 0.5, "minimum": 0.01, "maximum": 10.0}
MAKE = {
    "fixed": lambda: controllers.fixed(0.3),
    "scheduled": lambda: controllers.scheduled(0.3, SCHEDULE),
    "adaptive": lambda: controllers.adaptive(0.3, target=5.0, horizon=1000.0, samples=64),
    "target": lambda: controllers.target(**TARGET),
}
KLS = [4.0, 5.5, 7.0, 3.0, 0.0, 1e6, -0.1, 5.0]  # below and above the target, clipped, none, and a sampled one below 0


def trace(controller, kls):
    """beta before the first step and after each."""
    state, betas = controller.init(), []
    for kl in kls:
        betas.append(float(state.beta))
        state = controller.update(state, jnp.float32(kl))
    return [*betas, float(state.beta)]


def test_a_fixed_beta_stays():
    np.testing.assert_allclose(trace(controllers.fixed(0.3), KLS), 0.3, rtol=1e-7)


def test_a_scheduled_beta_is_the_schedule_whatever_the_kl():
    expected = [0.3, 0.24, 0.18, 0.12, 0.06, 0.06]  # 0.3·(1 → 0.2 in 4 steps)
    for kls in ([0.0] * 5, [1e6] * 5):
        np.testing.assert_allclose(trace(MAKE["scheduled"](), kls), expected, rtol=1e-6)


def test_an_adaptive_beta_is_zieglers():
    """Claim 9: e = clip(KL/target − 1, ±.2), beta ← beta·(1 + e·n_steps/horizon)."""
    beta, expected = 0.3, [0.3]
    for kl in KLS:
        beta *= 1 + min(max(kl / 5.0 - 1, -0.2), 0.2) * 64 / 1000
        expected.append(beta)
    np.testing.assert_allclose(trace(MAKE["adaptive"](), KLS), expected, rtol=1e-6)


def test_a_saturated_adaptive_beta_doubles_in_68_steps():
    """Claim 9, with Ziegler's numbers: ×1.01024 a step, 68.04 steps."""
    betas = np.array(trace(controllers.adaptive(1.0, target=6.0, horizon=10_000.0, samples=512), [100.0] * 69))
    np.testing.assert_allclose(betas[1:] / betas[:-1], 1.01024, rtol=1e-6)
    assert betas[68] < 2 < betas[69]
    assert 68 + np.log(2 / betas[68]) / np.log(betas[69] / betas[68]) == pytest.approx(68.04, abs=0.005)


def test_a_target_beta_is_the_loop_of_its_docstring():
    memory, expected = math.log(0.3), [0.3]
    for kl in KLS:
        error = min(max(math.log(max(kl, 1e-6) / 5.0), -1), 1)
        memory += 0.05 * error
        log_beta = min(max(memory + 0.5 * error, math.log(0.01)), math.log(10.0))
        memory = log_beta - 0.5 * error
        expected.append(math.exp(log_beta))
    np.testing.assert_allclose(trace(MAKE["target"](), KLS), expected, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.02, 5.0])
def test_a_target_beta_holds_the_budget_of_a_plant_that_follows_with_a_delay(beta):
    """The KL of a policy drifts towards c/beta², as the frontier of a Gaussian reward has it (claim 7)."""
    controller = controllers.target(**{**TARGET, "beta": beta})

    def one(carry, _):
        state, kl = carry
        kl = kl + 0.2 * (0.8 / state.beta**2 - kl)
        return (controller.update(state, kl), kl), (kl, state.beta)

    _, (kls, betas) = jax.lax.scan(one, (controller.init(), jnp.float32(0.0)), length=400)
    np.testing.assert_allclose(kls[-100:], TARGET["budget"], rtol=0.02)
    np.testing.assert_allclose(betas[-100:], np.sqrt(0.8 / TARGET["budget"]), rtol=0.02)


@pytest.mark.parametrize("lag", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("elasticity", [1.0, 2.0, 3.0])
def test_the_default_target_controller_settles_on_plants_with_and_without_a_delay(lag, elasticity):
    """KL moves by the share `lag` towards c/beta^elasticity: all of the way where that is 1."""
    values = {"beta": 5.0, **compose(["kl/controller=target"], Config).kl.controller.__dict__}
    controller = controllers.target(**{name: value for name, value in values.items() if name != "kind"})

    def one(carry, _):
        state, kl = carry
        kl = kl + lag * (0.8 / state.beta**elasticity - kl)
        return (controller.update(state, kl), kl), kl

    _, kls = jax.lax.scan(one, (controller.init(), jnp.float32(1e-3)), length=300)
    budget = values["budget"]
    np.testing.assert_allclose(kls[-100:], budget, rtol=1e-4 if lag == 1 else 0.05)
    assert kls.max() < 1.6 * budget


def test_a_schedule_that_rounding_takes_below_0_gives_beta_0():
    assert trace(controllers.scheduled(0.5, lambda step: 1.0 - (1.0 + 3e-9) * step), [4.0]) == [0.5, 0.0]


@pytest.mark.parametrize(("kl", "bound", "then"), [(1e3, "maximum", 2.5), (1e-3, "minimum", 10.0)])
def test_a_target_beta_leaves_its_bound_as_soon_as_the_error_turns(kl, bound, then):
    """Without anti-windup 200 steps at the bound would take as many to undo."""
    controller = MAKE["target"]()
    state = controller.init()
    for _ in range(200):
        state = controller.update(state, jnp.float32(kl))
    np.testing.assert_allclose(state.beta, TARGET[bound], rtol=1e-5)
    for _ in range(3):
        state = controller.update(state, jnp.float32(then))
    assert abs(math.log(float(state.beta) / TARGET[bound])) > 0.1


def test_a_target_beta_never_leaves_its_bounds():
    betas = trace(MAKE["target"](), [1e6] * 100 + [0.0] * 300)
    assert min(betas) == pytest.approx(0.01, rel=1e-5)
    assert max(betas) == pytest.approx(10.0, rel=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_states_are_arrays_that_keep_their_types_from_step_to_step(name):
    """So they can be donated, checkpointed and carried by a loop."""
    state = MAKE[name]().init()
    later = MAKE[name]().update(state, jnp.float32(3.0))
    leaves, later_leaves = jax.tree.leaves(state), jax.tree.leaves(later)
    assert jax.tree.structure(state) == jax.tree.structure(later)
    assert state.beta.dtype == jnp.float32
    for leaf, other in zip(leaves, later_leaves, strict=True):
        assert isinstance(leaf, jax.Array)
        assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype) == ((), leaf.dtype)


@pytest.mark.parametrize("name", MAKE)
def test_a_sweep_is_a_vmap_over_states(name):
    """Each member at a step and a beta of its own, with a KL of its own, as if it were alone."""
    controller = MAKE[name]()
    update = jax.jit(jax.vmap(controller.update))
    singles = [controller.init()]
    for kl in KLS[:2]:
        singles.append(controller.update(singles[-1], jnp.float32(kl)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    kls = jnp.array([3.0, 7.0, 1e6])
    together = update(stacked, kls)
    for i, single in enumerate(singles):
        alone = controller.update(single, kls[i])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.tree.map(lambda leaf, i=i: leaf[i], together), alone
        )


ADAPTIVE = {"beta": 0.3, "target": 5.0, "horizon": 1000.0, "samples": 64}


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["beta", "target", "horizon"])
def test_adaptive_refuses_what_is_not_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}: got {value}, expected a number > 0"):
        controllers.adaptive(**{**ADAPTIVE, name: value})


def test_adaptive_refuses_a_horizon_in_which_one_step_could_turn_beta_negative():
    """At e = −.2 the factor is 1 − .2·samples/horizon."""
    with pytest.raises(ValueError, match="horizon"):
        controllers.adaptive(**{**ADAPTIVE, "horizon": 0.2 * 64})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["beta", "budget", "minimum"])
def test_target_refuses_what_is_not_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}: got {value}, expected a number > 0"):
        controllers.target(**{**TARGET, name: value})


@pytest.mark.parametrize("beta", [0.001, 11.0])
def test_target_refuses_a_beta_outside_its_bounds(beta):
    with pytest.raises(ValueError, match=rf"beta: got {beta}, expected a number between minimum=0\.01 and maximum=10\.0"):
        controllers.target(**{**TARGET, "beta": beta})
