"""Exact divergences: value and gradient against float64 NumPy, inequalities of the literature, and other libraries."""

import importlib.util
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr

from kljax.kl import divergences
from kljax.kl.divergences import GENERATORS, alpha_generator, f_divergence, jensen_shannon_generator


def softmax(x):
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return rel_entr(p, q).sum(-1)


def power_sum(p, q, alpha):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((p == 0) & (q == 0), 0.0, p**alpha * q ** (1 - alpha)).sum(-1)


def jensen_shannon(p, q, mix):
    m = mix * q + (1 - mix) * p
    return mix * kl(q, m) + (1 - mix) * kl(p, m)


def alpha_divergence(p, q, alpha):
    return (power_sum(p, q, alpha) - 1) / (alpha * (alpha - 1))


def renyi(p, q, alpha):
    with np.errstate(divide="ignore"):
        if alpha == 0:
            return -np.log(np.where(p > 0, q, 0.0).sum(-1))
        return np.log(power_sum(p, q, alpha)) / (alpha - 1)


def chi_squared(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((p == 0) & (q == 0), 0.0, (p - q) ** 2 / q).sum(-1)


def total_variation(p, q):
    return 0.5 * np.abs(p - q).sum(-1)


def squared_hellinger(p, q):
    return 0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1)


def along(p, slope):
    """p·(ℓ − Σ p ℓ): the gradient in the logits where ℓ is that in p."""
    return p * (slope - np.sum(p * slope, -1, keepdims=True))


def shares(p, q, alpha):
    s = p**alpha * q ** (1 - alpha)
    return s / s.sum(-1, keepdims=True)


def of_jensen_shannon(mix):
    return lambda p, q: (1 - mix) * along(p, np.log(p / (mix * q + (1 - mix) * p)))


def of_alpha(alpha):
    return lambda p, q: along(p, (p / q) ** (alpha - 1) / (alpha - 1))


def of_renyi(alpha):
    return lambda p, q: alpha / (alpha - 1) * (shares(p, q, alpha) - p)


@dataclass(frozen=True)
class Row:
    """A divergence and what is known of it.

    `definition` takes float64 p and q, zeros allowed; `gradient` is the docstring's formula, in the logits of p. It is at
    least `floor`·TV², and `curvature`/2·Σ (p − q)²/q to second order in p − q. `infinite`: whose lone tokens make it so.
    """

    function: Callable
    definition: Callable
    gradient: Callable
    floor: float
    curvature: float
    infinite: str = ""
    symmetric: bool = False


ROWS = {
    "reverse_kl": Row(divergences.reverse_kl, kl, lambda p, q: p * (np.log(p / q) - kl(p, q)), 2, 1, "p"),
    "forward_kl": Row(divergences.forward_kl, lambda p, q: kl(q, p), lambda p, q: p - q, 2, 1, "q"),
    "jeffreys": Row(
        divergences.jeffreys, lambda p, q: kl(p, q) + kl(q, p), lambda p, q: p * (np.log(p / q) - kl(p, q)) + p - q,
        floor=4, curvature=2, infinite="pq", symmetric=True,
    ),
    "jensen_shannon": Row(
        divergences.jensen_shannon, partial(jensen_shannon, mix=0.5), of_jensen_shannon(0.5), 0.5, 0.25, symmetric=True
    ),
    "jensen_shannon .3": Row(
        partial(divergences.jensen_shannon, mix=0.3), partial(jensen_shannon, mix=0.3), of_jensen_shannon(0.3),
        floor=2 * 0.3 * 0.7, curvature=0.3 * 0.7,
    ),
    "renyi .5": Row(
        partial(divergences.renyi, alpha=0.5), partial(renyi, alpha=0.5), of_renyi(0.5), 1, 0.5, symmetric=True
    ),
    "renyi .8": Row(partial(divergences.renyi, alpha=0.8), partial(renyi, alpha=0.8), of_renyi(0.8), 1.6, 0.8),
    "renyi 2": Row(partial(divergences.renyi, alpha=2.0), partial(renyi, alpha=2.0), of_renyi(2.0), 2, 2, "p"),
    "alpha −1": Row(
        partial(divergences.alpha_divergence, alpha=-1.0), partial(alpha_divergence, alpha=-1.0), of_alpha(-1.0), 2, 1, "q"
    ),
    "alpha .5": Row(
        partial(divergences.alpha_divergence, alpha=0.5), partial(alpha_divergence, alpha=0.5), of_alpha(0.5), 2, 1,
        symmetric=True,
    ),
    "alpha 2": Row(
        partial(divergences.alpha_divergence, alpha=2.0), partial(alpha_divergence, alpha=2.0), of_alpha(2.0), 2, 1, "p"
    ),
    "chi_squared": Row(
        divergences.chi_squared, chi_squared, lambda p, q: 2 * p * (p / q - np.sum(p**2 / q, -1, keepdims=True)), 4, 2, "p"
    ),
    "total_variation": Row(
        divergences.total_variation, total_variation, lambda p, q: along(p, 0.5 * np.sign(p - q)), 1, math.nan, symmetric=True
    ),
    "squared_hellinger": Row(
        divergences.squared_hellinger, squared_hellinger,
        lambda p, q: -0.5 * (np.sqrt(p * q) - p * np.sum(np.sqrt(p * q), -1, keepdims=True)),
        floor=0.5, curvature=0.25, symmetric=True,
    ),
}  # fmt: skip
KLS = {"reverse_kl": ROWS["reverse_kl"], "forward_kl": ROWS["forward_kl"]}
every = pytest.mark.parametrize("name", ROWS)

# float32 keeps about 6e-8 of a log-prob, here up to 20: 1e-6 of a value, less what sums cancel
RTOL, ATOL = 1e-4, 1e-5


@jax.jit
def evaluate_all(a, b):
    """Values and gradients of every row, of four pairs over five tokens: one program serves nearly all tests."""

    def total(function, a, b):
        values = function(a, b)
        return values.sum(), values

    return {
        name: jax.value_and_grad(partial(total, row.function), argnums=(0, 1), has_aux=True)(a, b) for name, row in ROWS.items()
    }


def evaluate(name, a, b):
    """Values and gradients in both arguments of at most 4 rows of at most 5 tokens, made up with tokens that both forbid."""
    shape, dtype = np.shape(a), jnp.asarray(a).dtype
    width, rows = shape[-1], math.prod(shape[:-1])
    padded = np.full((2, 4, 5), -np.inf, dtype)
    padded[..., 0] = 0.0
    padded[:, :rows, :width] = np.reshape(a, (rows, width)), np.reshape(b, (rows, width))
    (_, values), gradients = evaluate_all(*padded)[name]
    assert values.dtype == dtype
    return np.asarray(values)[:rows].reshape(shape[:-1]), *(np.asarray(g)[:rows, :width].reshape(shape) for g in gradients)


def value(name, a, b):
    return evaluate(name, a, b)[0]


def differentiate(function, at, h=1e-5):
    """Central differences: exact to h², less rounding of 1e-16/h."""
    steps = h * np.eye(len(at))
    return np.array([(function(at + step) - function(at - step)) / (2 * h) for step in steps])


# Values and gradients are those of the definitions ---------------------------------------------------------------------


@every
def test_values_are_those_of_the_definitions(name):
    a, b = np.random.default_rng(0).normal(size=(2, 2, 2, 5)).astype(np.float32) * 3
    np.testing.assert_allclose(value(name, a, b), ROWS[name].definition(softmax(a), softmax(b)), rtol=RTOL)


@every
def test_values_in_float64_are_those_of_the_definitions(name, x64):
    a, b = np.random.default_rng(0).normal(size=(2, 2, 2, 5)) * 3
    np.testing.assert_allclose(value(name, a, b), ROWS[name].definition(softmax(a), softmax(b)), rtol=1e-10)


@every
def test_gradients_are_those_of_the_docstrings(name):
    a, b = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
    _, gradient, _ = evaluate(name, a, b)
    formula = [ROWS[name].gradient(p, q) for p, q in zip(softmax(a), softmax(b), strict=True)]
    np.testing.assert_allclose(gradient, formula, rtol=RTOL, atol=ATOL)


@every
def test_gradients_in_both_arguments_are_finite_differences_of_the_definition(name, x64):
    define = ROWS[name].definition
    for a, b in np.random.default_rng(2).normal(size=(3, 2, 5)):
        _, in_a, in_b = evaluate(name, a, b)
        of_a = differentiate(lambda x, b=b: define(softmax(x), softmax(b)), a)
        of_b = differentiate(lambda x, a=a: define(softmax(a), softmax(x)), b)
        np.testing.assert_allclose(in_a, of_a, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(in_b, of_b, rtol=1e-6, atol=1e-8)


def test_entropy_and_cross_entropy_are_those_of_the_definitions_value_and_gradient(x64):
    a, b = np.random.default_rng(3).normal(size=(2, 7)) * 3
    p, q = softmax(a), softmax(b)
    h, cross = -np.sum(p * np.log(p)), -np.sum(p * np.log(q))
    np.testing.assert_allclose(divergences.entropy(jnp.array(a)), h, rtol=1e-12)
    np.testing.assert_allclose(divergences.cross_entropy(jnp.array(a), jnp.array(b)), cross, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(divergences.entropy)(jnp.array(a)), -p * (np.log(p) + h), rtol=1e-10)
    gradient = jax.grad(divergences.cross_entropy)(jnp.array(a), jnp.array(b))
    np.testing.assert_allclose(gradient, -p * (np.log(q) + cross), rtol=1e-10)


# Independent code ------------------------------------------------------------------------------------------------------


def pairs():
    a, b = np.random.default_rng(4).normal(size=(2, 4, 5)).astype(np.float32) * 2
    return jnp.array(a), jnp.array(b), softmax(a), softmax(b)


def test_scipy_has_the_same_divergences():
    a, b, p, q = pairs()
    np.testing.assert_allclose(divergences.reverse_kl(a, b), scipy.stats.entropy(p, q, axis=-1), rtol=RTOL)
    np.testing.assert_allclose(divergences.forward_kl(a, b), scipy.stats.entropy(q, p, axis=-1), rtol=RTOL)
    np.testing.assert_allclose(divergences.entropy(a), scipy.stats.entropy(p, axis=-1), rtol=RTOL)
    distance = scipy.spatial.distance.jensenshannon(p, q, axis=-1)
    np.testing.assert_allclose(divergences.jensen_shannon(a, b), distance**2, rtol=RTOL)


def test_optax_has_the_same_kl_with_its_arguments_the_other_way_round():
    """optax.losses.kl_divergence(log_predictions, targets) is KL(targets‖predictions)."""
    a, b, *_ = pairs()
    np.testing.assert_allclose(
        divergences.reverse_kl(a, b), optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a)), rtol=RTOL
    )
    np.testing.assert_allclose(
        divergences.forward_kl(a, b), optax.losses.kl_divergence(jax.nn.log_softmax(a), jax.nn.softmax(b)), rtol=RTOL
    )


def test_torch_has_the_same_kl_and_gradient():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
    a, b, *_ = pairs()
    policy, reference = (torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True) for x in (a, b))
    categorical = torch.distributions.Categorical
    for function, order in ((divergences.reverse_kl, (policy, reference)), (divergences.forward_kl, (reference, policy))):
        theirs = torch.distributions.kl_divergence(*(categorical(logits=x) for x in order))
        gradients = torch.autograd.grad(theirs.sum(), (policy, reference))
        np.testing.assert_allclose(function(a, b), theirs.detach().numpy(), rtol=RTOL)
        ours = jax.grad(lambda a, b, f=function: f(a, b).sum(), argnums=(0, 1))(a, b)
        for mine, other in zip(ours, gradients, strict=True):
            np.testing.assert_allclose(mine, other.numpy(), rtol=RTOL, atol=ATOL)


# What every divergence has in common -----------------------------------------------------------------------------------

logits = arrays(np.float32, (2, 5), elements=st.floats(-8, 8, width=32))
shifts = st.floats(-50, 50, width=32)
often = settings(max_examples=30, deadline=None)


@every
@often
@given(logits, logits, shifts)
def test_a_divergence_is_not_negative_and_sees_no_shift_of_the_logits(name, a, b, shift):
    of_both = value(name, a, b)
    assert (of_both >= -ATOL).all()
    # a shift of 50 costs 4e-6 of each logit, and ratios of e^16 are squared
    np.testing.assert_allclose(value(name, a + shift, b), of_both, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(value(name, a, b + shift), of_both, rtol=1e-3, atol=1e-4)


@every
@often
@given(logits, logits)
def test_a_divergence_is_zero_between_equals_and_only_there(name, a, b):
    """Pinsker's inequality and its kin: at least a multiple of the squared total variation."""
    assert np.abs(value(name, a, a)).max() < ATOL
    floor = ROWS[name].floor * total_variation(softmax(a), softmax(b)) ** 2
    assert (value(name, a, b) >= floor * (1 - RTOL) - ATOL).all()


@every
@often
@given(logits, logits)
def test_merging_two_tokens_never_makes_a_divergence_grow(name, a, b):
    """Data processing: who cannot tell two tokens apart sees less of a difference."""
    merged = (np.concatenate([np.logaddexp(x[:, :1], x[:, 1:2]), x[:, 2:]], axis=1) for x in (a, b))
    assert (value(name, *merged) <= value(name, a, b) * (1 + RTOL) + ATOL).all()


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].symmetric])
@often
@given(logits, logits)
def test_a_symmetric_divergence_does_not_change_where_its_arguments_are_swapped(name, a, b):
    np.testing.assert_allclose(value(name, a, b), value(name, b, a), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("name", [name for name in ROWS if not ROWS[name].symmetric])
def test_an_asymmetric_divergence_changes_where_its_arguments_are_swapped(name):
    a, b = np.array([[4.0, 0.0, -1.0], [0.0, 1.0, 0.0]], np.float32)
    one, other = value(name, a, b), value(name, b, a)
    assert abs(one - other) > 0.05 * max(one, other)


def test_each_direction_is_the_other_with_its_arguments_swapped():
    a, b, *_ = pairs()
    np.testing.assert_allclose(divergences.forward_kl(a, b), divergences.reverse_kl(b, a), rtol=1e-6)
    swapped = divergences.jensen_shannon(b, a, mix=0.7)
    np.testing.assert_allclose(divergences.jensen_shannon(a, b, mix=0.3), swapped, rtol=1e-6)
    of_ref = f_divergence(a, b, GENERATORS["chi_squared_of_ref"])
    np.testing.assert_allclose(of_ref, divergences.chi_squared(b, a), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "total_variation"])
def test_near_equality_every_smooth_divergence_is_a_multiple_of_the_fisher_metric(name, x64):
    step = 1e-4
    a, direction = np.random.default_rng(5).normal(size=(2, 5))
    p, q = softmax(a + step * direction), softmax(a)
    fisher = np.sum((p - q) ** 2 / q)
    of_both = value(name, a + step * direction, a)
    np.testing.assert_allclose(of_both, ROWS[name].curvature / 2 * fisher, rtol=10 * step)


@often
@given(logits, shifts)
def test_entropy_lies_between_zero_and_log_v_and_sees_no_shift(a, shift):
    of_a = divergences.entropy(jnp.array(a))
    assert (of_a >= -ATOL).all()
    assert (of_a <= np.log(a.shape[-1]) + ATOL).all()
    np.testing.assert_allclose(divergences.entropy(jnp.array(a) + shift), of_a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", KLS)
def test_chain_rule_the_kl_of_a_sequence_is_the_expected_sum_over_its_states(name):
    """Expected under the first argument of KL(·‖·): p for the reverse KL, q for the forward."""
    rng = np.random.default_rng(0)
    first_a, first_b = rng.normal(size=(2, 3)).astype(np.float32)
    then_a, then_b = rng.normal(size=(2, 3, 4)).astype(np.float32)  # a next-token distribution after each first token
    joint_p, joint_q = (softmax(f)[:, None] * softmax(t) for f, t in ((first_a, then_a), (first_b, then_b)))
    visits = softmax(first_a if name == "reverse_kl" else first_b)
    total = value(name, first_a, first_b) + np.sum(visits * value(name, then_a, then_b))
    np.testing.assert_allclose(total, KLS[name].definition(joint_p.ravel(), joint_q.ravel()), rtol=RTOL)


# The families: their limits, and how their members are related ---------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "limit", "name"),
    [
        (divergences.alpha_divergence, 1.0, "reverse_kl"),
        (divergences.alpha_divergence, 0.0, "forward_kl"),
        (divergences.renyi, 1.0, "reverse_kl"),
    ],
)
def test_the_families_pass_through_the_kls_value_and_gradient_without_losing_digits(function, limit, name):
    """In float32, where the definition, divided by α(α − 1) = 1e-6, would have one digit left."""
    a, b, p, q = (x[0] for x in pairs())

    @jax.jit
    def around(a, b):
        return [jax.value_and_grad(function)(a, b, limit + epsilon) for epsilon in (-1e-6, 0.0, 1e-6)]

    for of_both, gradient in around(a, b):
        np.testing.assert_allclose(of_both, ROWS[name].definition(p, q), rtol=RTOL)
        np.testing.assert_allclose(gradient, ROWS[name].gradient(p, q), rtol=RTOL, atol=ATOL)


def test_scaled_renyi_tends_to_forward_kl_for_alpha_to_zero():
    a, b, p, q = pairs()
    np.testing.assert_allclose(divergences.renyi(a, b, 1e-6) / 1e-6, kl(q, p), rtol=RTOL)


def test_scaled_jensen_shannon_joins_the_two_kls(x64):
    a, b = np.random.default_rng(4).normal(size=(2, 4, 5))
    p, q, mix = softmax(a), softmax(b), 1e-7
    np.testing.assert_allclose(divergences.jensen_shannon(jnp.array(a), jnp.array(b), mix) / mix, kl(q, p), rtol=1e-5)
    np.testing.assert_allclose(divergences.jensen_shannon(jnp.array(a), jnp.array(b), 1 - mix) / mix, kl(p, q), rtol=1e-5)
    for end in (0.0, 1.0):
        assert not np.asarray(divergences.jensen_shannon(jnp.array(a), jnp.array(b), end)).any()


@often
@given(logits, logits)
def test_named_divergences_are_members_of_the_families(a, b):
    hellinger, chi = value("squared_hellinger", a, b), value("chi_squared", a, b)
    np.testing.assert_allclose(value("alpha .5", a, b), 4 * hellinger, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(value("alpha 2", a, b), chi / 2, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(value("renyi 2", a, b), np.log1p(chi), rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(value("renyi .5", a, b), -2 * np.log1p(-hellinger), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(value("alpha −1", a, b), value("chi_squared", b, a) / 2, rtol=RTOL, atol=ATOL)
    kls = value("reverse_kl", a, b) + value("forward_kl", a, b)
    np.testing.assert_allclose(value("jeffreys", a, b), kls, rtol=RTOL, atol=ATOL)


@often
@given(logits, logits)
def test_inequalities_between_divergences_hold(a, b):
    tv, hellinger, reverse = (value(name, a, b) for name in ("total_variation", "squared_hellinger", "reverse_kl"))
    assert (hellinger <= tv + ATOL).all()
    assert (tv**2 <= hellinger * (2 - hellinger) + ATOL).all()
    assert (tv**2 <= reverse / 2 + ATOL).all()
    assert (value("chi_squared", a, b) >= np.expm1(reverse) * (1 - 1e-3) - ATOL).all()
    assert (value("jensen_shannon", a, b) <= np.log(2) + ATOL).all()
    of_mix = -0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    assert (value("jensen_shannon .3", a, b) <= of_mix + ATOL).all()
    orders = [value(name, a, b) for name in ("renyi .5", "renyi .8", "reverse_kl", "renyi 2")]
    for lower, higher in itertools.pairwise(orders):
        assert (lower <= higher * (1 + RTOL) + ATOL).all()


def test_renyi_of_one_order_is_that_of_the_other_with_swapped_arguments():
    """(1 − α)·renyi(p, q, α) = α·renyi(q, p, 1 − α)."""
    a, b, *_ = pairs()
    np.testing.assert_allclose(0.8 * divergences.renyi(a, b, 0.2), 0.2 * divergences.renyi(b, a, 0.8), rtol=RTOL)


T_VALUES = np.array([1e-3, 0.2, 0.9, 1.0, 1.1, 3.0, 50.0])
AS_WRITTEN = {
    "reverse_kl": lambda t: t * np.log(t) - t + 1,
    "forward_kl": lambda t: t - 1 - np.log(t),
    "jensen_shannon": lambda t: 0.5 * (t * np.log(2 * t / (t + 1)) + np.log(2 / (t + 1))),
    "jeffreys": lambda t: (t - 1) * np.log(t),
    "total_variation": lambda t: 0.5 * np.abs(1 - t),
    "squared_hellinger": lambda t: 0.5 * (np.sqrt(t) - 1) ** 2,
    "chi_squared": lambda t: (t - 1) ** 2,
    "chi_squared_of_ref": lambda t: (t - 1) ** 2 / t,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_each_generator_is_the_function_of_the_table(name, x64):
    f = np.asarray(GENERATORS[name](jnp.asarray(T_VALUES)))
    np.testing.assert_allclose(f, AS_WRITTEN[name](T_VALUES), rtol=1e-9, atol=1e-15)
    assert f[T_VALUES == 1.0] == 0


@pytest.mark.parametrize("name", GENERATORS)
def test_the_ends_of_each_generator_are_its_limits(name, x64):
    """f(0), and f(t)/t for t → ∞: approached within t·|log t| of a small t, or beyond every bound."""
    small, generator = 1e-30, GENERATORS[name]
    at_zero, slope = float(generator(jnp.float64(small))), float(generator(jnp.float64(1 / small))) * small
    for found, stated in ((at_zero, generator.at_zero), (slope, generator.slope_at_infinity)):
        assert found > 50 if math.isinf(stated) else found == pytest.approx(stated, abs=1e-12)  # log 1e30 = 69


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "chi_squared_of_ref"])
def test_f_divergence_of_each_generator_is_the_function_of_its_name(name):
    a, b, p, q = pairs()
    expected = np.sum(q * AS_WRITTEN[name](p / q), -1)
    np.testing.assert_allclose(f_divergence(a, b, GENERATORS[name]), expected, rtol=RTOL)
    np.testing.assert_allclose(f_divergence(a, b, GENERATORS[name]), getattr(divergences, name)(a, b), rtol=RTOL)


@pytest.mark.parametrize("make", [alpha_generator, jensen_shannon_generator])
def test_the_generator_of_a_parameter_is_convex_with_its_zero_at_one(make, x64):
    t = np.linspace(0.01, 5, 500)
    for parameter in (0.0, 0.25, 0.5, 1.0):
        f = np.asarray(make(parameter)(jnp.asarray(t)))
        assert (f >= 0).all()
        assert (np.diff(f, 2) >= -1e-12).all()
        assert make(parameter)(jnp.ones(())) == 0


# Where a token is forbidden, or nearly ---------------------------------------------------------------------------------

holes = arrays(np.float32, 4, elements=st.sampled_from([-np.inf, -20.0, -1.0, 0.0, 2.5, 20.0]))


@every
@often
@given(holes, holes)
def test_with_forbidden_tokens_values_are_those_of_the_definition_and_gradients_finite(name, a, b):
    """0 · log 0 = 0; +inf exactly where the definition is; a forbidden token's logit has no gradient."""
    a[0] = b[0] = 0.0  # a row needs one possible token, and here they share one
    of_both, *gradients = evaluate(name, a, b)
    p, q = softmax(a), softmax(b)
    np.testing.assert_allclose(of_both, ROWS[name].definition(p, q), rtol=1e-3, atol=ATOL)
    lone = {"p": (p > 0) & (q == 0), "q": (q > 0) & (p == 0)}
    assert np.isposinf(of_both) == any(lone[side].any() for side in ROWS[name].infinite)
    if np.isfinite(of_both):
        for x, gradient in zip((a, b), gradients, strict=True):
            assert np.isfinite(gradient).all()
            assert not gradient[np.isneginf(x)].any()
            np.testing.assert_allclose(np.sum(gradient), 0.0, atol=ATOL + RTOL * of_both)  # a shift changes nothing


# Ratios of at most e^85 or at least e^254: either the value and its gradient, about twice as large, fit float32, or neither
wide = arrays(np.float32, 4, elements=st.sampled_from([-np.inf, -1e4, -300.0, -45.0, 0.0, 1.0, 40.0, 300.0, 1e4]))


@every
@often
@given(wide, wide)
def test_a_divergence_is_never_nan_and_has_a_finite_gradient_where_it_is_finite(name, a, b):
    """Masses that underflow, ratios that overflow, rows that share no token."""
    a[0] = 0.0  # a row needs one possible token
    b[3] = 0.0
    of_both, *gradients = evaluate(name, a, b)
    assert of_both >= -ATOL
    if np.isfinite(of_both):
        assert np.isfinite(gradients).all()


@every
def test_with_forbidden_tokens_gradients_are_finite_differences_in_the_other_logits(name, x64):
    """Token 3 is forbidden by both; token 2 by the one that may."""
    row, some = ROWS[name], [0, 1, 2]
    a, b = np.array([0.5, 1.0, 0.2, -np.inf]), np.array([1.0, 0.0, 0.7, -np.inf])
    for missing in ({"", "p", "q"} - set(row.infinite)) | {""}:
        for x, side in ((a, "q"), (b, "p")):  # "q": a token that only q allows
            x[2] = -np.inf if side == missing else 0.2
        _, *gradients = evaluate(name, a, b)

        def define(a, b):
            return row.definition(softmax(a), softmax(b))

        with np.errstate(invalid="ignore"):
            finite_a = differentiate(lambda x: define(np.append(x, -np.inf), b), a[some])
            finite_b = differentiate(lambda x: define(a, np.append(x, -np.inf)), b[some])
        for x, gradient, expected in zip((a, b), gradients, (finite_a, finite_b), strict=True):
            expected = np.where(np.isneginf(x[some]), 0.0, expected)
            np.testing.assert_allclose(gradient[some], expected, rtol=1e-6, atol=1e-8)
            assert gradient[3] == 0


def test_total_variation_takes_a_tie_for_less_in_its_gradient():
    """p = (⅓, ⅓, ⅓, 0), q = (⅓, ⅓, 0, ⅓): p·(s − Σ p s) with s = (−½, −½, ½)."""
    a, b = np.array([0.0, 0.0, 0.0, -np.inf], np.float32), np.array([0.0, 0.0, -np.inf, 0.0], np.float32)
    of_both, gradient, _ = evaluate("total_variation", a, b)
    np.testing.assert_allclose(of_both, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1 / 9, -1 / 9, 2 / 9, 0], rtol=1e-6)


DISJOINT = {  # no token in common
    "jensen_shannon": np.log(2),
    "jensen_shannon .3": -0.3 * np.log(0.3) - 0.7 * np.log(0.7),
    "alpha .5": 4.0,
    "total_variation": 1.0,
    "squared_hellinger": 1.0,
}


@every
def test_between_distributions_that_share_no_token_a_divergence_is_greatest(name):
    a, b = np.array([0.0, -np.inf, 1.0, -np.inf], np.float32), np.array([-np.inf, 2.0, -np.inf, -np.inf], np.float32)
    np.testing.assert_allclose(value(name, a, b), DISJOINT.get(name, np.inf), rtol=1e-6)
    np.testing.assert_allclose(value(name, b, a), DISJOINT.get(name, np.inf), rtol=1e-6)


def test_entropy_counts_forbidden_tokens_nothing_value_and_gradient():
    a = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(divergences.entropy(a), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(divergences.entropy)(jnp.array([0.0, 1.0, -jnp.inf]))[2], 0.0)


def test_cross_entropy_is_infinite_where_the_reverse_kl_is():
    a, b = jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])
    assert divergences.cross_entropy(a, b) == jnp.inf
    np.testing.assert_allclose(divergences.cross_entropy(b, a), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].infinite])
def test_a_mass_that_underflows_to_zero_is_still_infinite_where_it_ought_to_be(name):
    """exp(−10,000) is 0 in float32, but not in truth."""
    nearly, never = np.array([0.0, -1e4], np.float32), np.array([0.0, -np.inf], np.float32)
    for side, arguments in (("p", (nearly, never)), ("q", (never, nearly))):
        if side in ROWS[name].infinite:
            assert value(name, *arguments) == np.inf


HUGE = {  # p = (1, e^−10⁴, e^−2·10⁴), q the other way round; missing: too large for float32
    "reverse_kl": 2e4,
    "forward_kl": 2e4,
    "jeffreys": 4e4,
    "renyi .5": 2e4 - 2 * np.log(3),  # −2 log Σ √(pq), three terms of e^−10⁴
    "renyi .8": 2e4,  # log e^(−0.2·2·10⁴) / (−0.2)
    "renyi 2": 2e4,
    **DISJOINT,
}


@every
def test_huge_logits_give_their_value_or_infinity_and_finite_gradients(name):
    a = np.array([1e4, 0.0, -1e4], np.float32)
    of_both, *gradients = evaluate(name, a, -a)
    np.testing.assert_allclose(of_both, HUGE.get(name, np.inf), rtol=1e-5)
    if name in HUGE:
        assert np.isfinite(gradients).all()
    of_same, *gradients = evaluate(name, a, a)
    assert of_same == 0
    np.testing.assert_allclose(gradients, 0.0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 0.99])
def test_renyi_is_finite_where_hardly_any_mass_is_shared(alpha):
    """They share one token, which has e^−20 in each; the rest is where the other forbids it."""
    a, b = np.array([0.0, 20.0, -np.inf], np.float32), np.array([0.0, -np.inf, 20.0], np.float32)
    of_both, gradient = jax.value_and_grad(divergences.renyi)(jnp.array(a), jnp.array(b), alpha)
    np.testing.assert_allclose(of_both, renyi(softmax(a), softmax(b), alpha), rtol=RTOL)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mix", [1e-9, 1e-5, 1 - 1e-5, 1 - 1e-9])
def test_jensen_shannon_of_a_mix_near_its_ends_is_never_nan(mix):
    """In float32 1 − 1e-9 is 1: the mixture must not lose its smaller part."""
    a, b = np.array([0.0, -1e4], np.float32), np.array([0.0, 0.0], np.float32)
    of_both, gradients = jax.value_and_grad(divergences.jensen_shannon, argnums=(0, 1))(jnp.array(a), jnp.array(b), mix)
    np.testing.assert_allclose(of_both, jensen_shannon(softmax(a), softmax(b), mix), rtol=1e-2, atol=1e-7)
    assert np.isfinite(gradients).all()


def test_bfloat16_logits_are_computed_in_float32():
    a, b = (jnp.array(x, jnp.bfloat16) for x in np.random.default_rng(0).normal(size=(2, 64)))
    computed = jax.jit(lambda a, b: {name: row.function(a, b) for name, row in ROWS.items()} | {"": divergences.entropy(a)})
    expected = {name: row.definition(softmax(a), softmax(b)) for name, row in ROWS.items()}
    for name, of_both in computed(a, b).items():
        assert of_both.dtype == jnp.float32, name
        np.testing.assert_allclose(of_both, expected.get(name, scipy.stats.entropy(softmax(a))), rtol=RTOL, err_msg=name)


# Bad input -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unchecked():
    """The module as users import it, without the type checks of shapes that the tests run under."""
    spec = importlib.util.spec_from_file_location("unchecked_divergences", divergences.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUNCTIONS = {getattr(row.function, "func", row.function).__name__ for row in ROWS.values()}


@pytest.mark.parametrize("name", sorted(FUNCTIONS | {"cross_entropy"}))
def test_shapes_that_disagree_are_refused(name, unchecked):
    parameters = {"alpha": 0.5} if name in ("renyi", "alpha_divergence") else {}
    with pytest.raises(ValueError, match=r"ref_logits: got shape \(3,\), expected that of logits, \(2, 3\)"):
        getattr(unchecked, name)(jnp.zeros((2, 3)), jnp.zeros(3), **parameters)


@pytest.mark.parametrize("mix", [-0.1, 1.5, math.nan, math.inf])
def test_a_mix_that_is_no_share_is_refused(mix):
    with pytest.raises(ValueError, match=r"mix: got .*, expected a number in \[0, 1\]"):
        divergences.jensen_shannon(jnp.zeros(3), jnp.zeros(3), mix)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_an_alpha_that_is_not_finite_is_refused(alpha):
    for function in (divergences.alpha_divergence, divergences.renyi):
        with pytest.raises(ValueError, match=r"alpha: got .*, expected a finite number"):
            function(jnp.zeros(3), jnp.zeros(3), alpha)


def test_a_negative_order_of_renyi_is_refused():
    with pytest.raises(ValueError, match=r"alpha: got -0\.5, expected a finite number >= 0"):
        divergences.renyi(jnp.zeros(3), jnp.zeros(3), -0.5)
