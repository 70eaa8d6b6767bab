"""Masked means, baselines and losses against loops and enumeration."""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import Config, KlConfig
from kljax.config.mistakes import members
from kljax.kl.divergences import DIVERGENCES
from kljax.kl.penalties import PENALTIES
from kljax.kl.sequences import masked_sum
from kljax.policy.advantages import leave_one_out, no_baseline
from kljax.policy.algorithms import ALGORITHMS
from kljax.policy.losses import score_function
from kljax.policy.means import distinct, mean_with_se, same_prompts
from kljax.policy.scaling import REWARD_SCALES, SMALLEST

N, G, T = 3, 4, 5


def test_leave_one_out_is_the_mean_of_the_others():
    returns = np.random.default_rng(0).normal(size=(N, G, T)).astype(np.float32)
    expected = [[np.mean(np.delete(returns[n], g, axis=0), axis=0) for g in range(G)] for n in range(N)]
    np.testing.assert_allclose(leave_one_out(jnp.array(returns)), expected, rtol=1e-5, atol=1e-6)


def test_leave_one_out_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples a prompt, got G = 1"):
        leave_one_out(jnp.ones((N, 1, T)))


@pytest.mark.parametrize("baseline", [no_baseline, leave_one_out])
def test_a_baseline_leaves_the_expected_gradient_alone(baseline):
    """Over all pairs of samples of one prompt: E[Σ_g A_g ∇log pi(a_g)] / G = ∇E[r]."""
    logits, reward = jnp.array([0.3, -1.0, 0.8]), jnp.array([1.0, -2.0, 0.5])

    def expected_reward(logits):
        return jnp.sum(jax.nn.softmax(logits) * reward)

    probability = jax.nn.softmax(logits)
    total = jnp.zeros(3)
    for pair in itertools.product(range(3), repeat=2):
        actions = jnp.array(pair)
        returns = reward[actions].reshape(1, 2, 1)
        advantage = (returns - baseline(returns)).reshape(2, 1)

        def loss(logits, actions=actions, advantage=advantage):
            return score_function(jax.nn.log_softmax(logits)[actions][:, None], advantage, jnp.ones((2, 1), bool))

        total -= jnp.prod(probability[actions]) * jax.grad(loss)(logits)
    np.testing.assert_allclose(total, jax.grad(expected_reward)(logits), atol=1e-6)


def test_score_function_is_the_loop_of_the_formula():
    rng = np.random.default_rng(0)
    logp, advantage = rng.normal(size=(2, 4, T)).astype(np.float32)
    mask = rng.random((4, T)) < 0.6
    expected = -np.mean([sum(advantage[b, t] * logp[b, t] for t in range(T) if mask[b, t]) for b in range(4)])
    actual = score_function(jnp.array(logp), jnp.array(advantage), jnp.array(mask))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_no_gradient_flows_through_the_advantage():
    logp, mask = jnp.full((2, T), -1.0), jnp.ones((2, T), bool)
    assert (jax.grad(score_function, argnums=1)(logp, jnp.ones((2, T)), mask) == 0).all()
    assert (jax.grad(score_function, argnums=0)(logp, jnp.ones((2, T)), mask) == -0.5).all()  # −1 over two sequences


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nothing_under_the_padding_leaks(poison):
    mask = jnp.array([[True, True, False], [True, False, False]])
    clean = jnp.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    dirty = jnp.where(mask, clean, poison)
    np.testing.assert_array_equal(masked_sum(dirty, mask), masked_sum(clean, mask))
    gradient = jax.grad(lambda x: masked_sum(3 * x, mask).sum())(dirty)
    np.testing.assert_array_equal(gradient, jnp.where(mask, 3.0, 0.0))
    np.testing.assert_array_equal(
        jax.grad(lambda x: score_function(x, dirty, mask))(dirty), jax.grad(lambda x: score_function(x, clean, mask))(clean)
    )


def test_mean_and_error_are_those_of_the_prompts():
    values = np.random.default_rng(0).normal(size=(6, G)).astype(np.float32)
    mean, se = mean_with_se(jnp.array(values.ravel()), jnp.ones(6 * G), jnp.eye(6, dtype=bool))
    by_prompt = values.mean(axis=1)
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-5)
    np.testing.assert_allclose(se, by_prompt.std(ddof=1) / np.sqrt(6), rtol=1e-5)


def test_mean_and_error_of_a_ratio_are_the_loop_of_the_formula():
    """Delta method: the residuals s − mean·n of each prompt, over √prompts and the mean weight."""
    rng = np.random.default_rng(0)
    sums, lengths = rng.normal(size=(6, G)).astype(np.float32), rng.integers(1, 9, (6, G)).astype(np.float32)
    ratio = sum(sums.ravel()) / sum(lengths.ravel())
    squares = [sum(s - ratio * n for s, n in zip(*prompt, strict=True)) ** 2 for prompt in zip(sums, lengths, strict=True)]
    expected = np.sqrt(sum(squares) / (6 - 1) / 6) / (sum(lengths.ravel()) / 6)
    mean, se = mean_with_se(jnp.array(sums.ravel()), jnp.array(lengths.ravel()), jnp.eye(6, dtype=bool))
    np.testing.assert_allclose(mean, ratio, rtol=1e-5)
    np.testing.assert_allclose(se, expected, rtol=1e-5)


def test_the_error_of_a_ratio_is_that_of_repeated_experiments():
    """Nats per token: sums over lengths, samples of a prompt correlated. The delta method against 4,000 repetitions."""
    rng = np.random.default_rng(0)
    repetitions, prompts = 4000, 40

    def draw():
        length = rng.integers(1, 10, (prompts, G)) + rng.integers(0, 10, (prompts, 1))
        return (length * (0.3 + rng.normal(0, 0.2, (prompts, 1))) + rng.normal(0, 0.5, (prompts, G))), length

    ratios = [s.sum() / n.sum() for s, n in (draw() for _ in range(repetitions))]
    draws = [draw() for _ in range(50)]
    clustered, naive = (
        np.mean([mean_with_se(jnp.array(s.ravel(), jnp.float32), jnp.array(n.ravel(), jnp.float32), same)[1] for s, n in draws])
        for same in (jnp.eye(prompts, dtype=bool), jnp.eye(prompts * G, dtype=bool))
    )
    assert clustered == pytest.approx(np.std(ratios), rel=0.08)
    assert naive < 0.8 * np.std(ratios)  # counting samples as independent would flatter us


def test_one_prompt_has_no_standard_error():
    for same in (jnp.ones((1, 1), bool), jnp.ones((2, 2), bool)):
        mean, se = mean_with_se(jnp.array([1.0, 2.0]), jnp.ones(2), same)
        assert mean == 1.5
        assert np.isnan(se)


def test_rows_with_the_same_prompt_are_one_cluster():
    """Each of three prompts four times over: the error is that of three, not of twelve."""
    rng = np.random.default_rng(0)
    prompts = np.array([[0, 5, 6], [7, 5, 6], [7, 6, 5]])
    order = rng.permutation(np.repeat(np.arange(3), 4))
    mask = np.array([[False, True, True], [True] * 3, [True] * 3])
    tokens = np.where(mask, prompts, rng.integers(9, size=(3, 3)))[order]
    same = same_prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask[order]))
    np.testing.assert_array_equal(same, order[:, None] == order[None])
    assert float(distinct(same)) == pytest.approx(3)
    values = rng.normal(size=3)[order] + 0.1 * rng.normal(size=12)
    mean, se = mean_with_se(jnp.asarray(values, jnp.float32), jnp.ones(12), same)
    of_each = [values[order == k].mean() for k in range(3)]
    assert float(mean) == pytest.approx(np.mean(of_each), rel=1e-5)
    assert float(se) == pytest.approx(np.std(of_each, ddof=1) / np.sqrt(3), rel=1e-4)


def test_reward_scales_are_standard_deviations_and_never_zero():
    reward = np.random.default_rng(0).normal(size=(N, G)).astype(np.float32)
    reward[1] = 2.0  # samples that do not differ
    assert REWARD_SCALES["none"](jnp.array(reward)) == 1.0
    np.testing.assert_allclose(REWARD_SCALES["batch_std"](jnp.array(reward)), reward.std(ddof=1), rtol=1e-5)
    expected = [max(row.std(ddof=1), SMALLEST) for row in reward]
    np.testing.assert_allclose(REWARD_SCALES["prompt_std"](jnp.array(reward))[:, 0], expected, rtol=1e-5)


def test_the_config_knows_every_row_of_the_tables():
    kl, whole = typing.get_type_hints(KlConfig), typing.get_type_hints(Config)
    assert typing.get_args(kl["penalty"]) == tuple(PENALTIES)
    assert typing.get_args(whole["algorithm"]) == tuple(ALGORITHMS)
    assert typing.get_args(whole["reward_scale"]) == tuple(REWARD_SCALES)
    divergences = [typing.get_type_hints(member)["kind"] for member in members(kl["divergence"])]
    assert {name for kind in divergences for name in typing.get_args(kind)} == set(DIVERGENCES)
