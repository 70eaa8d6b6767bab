"""What the config's section `kl` asks for, and what it is refused for."""

import jax.numpy as jnp
import numpy as np
import pytest

from kljax.errors import UserError
from kljax.kl import divergences
from kljax.runs.regularisation import make_controller, make_divergence

LOGITS, REF_LOGITS = jnp.array([1.0, -0.5, 0.3]), jnp.array([0.0, 0.4, -1.0])


@pytest.mark.parametrize(
    ("kind", "overrides", "expected"),
    [
        ("reverse_kl", [], divergences.reverse_kl),
        ("forward_kl", [], divergences.forward_kl),
        ("total_variation", [], divergences.total_variation),
        ("renyi", ["kl.divergence.alpha=2.0"], lambda p, q: divergences.renyi(p, q, 2.0)),
        ("alpha_divergence", ["kl.divergence.alpha=-1.0"], lambda p, q: divergences.alpha_divergence(p, q, -1.0)),
        ("jensen_shannon", ["kl.divergence.mix=0.2"], lambda p, q: divergences.jensen_shannon(p, q, 0.2)),
    ],
)
def test_the_divergence_is_the_one_named_with_its_parameters(tiny, kind, overrides, expected):
    chosen = make_divergence(tiny(f"kl/divergence={kind}", *overrides).kl)
    np.testing.assert_array_equal(chosen(LOGITS, REF_LOGITS), expected(LOGITS, REF_LOGITS))


@pytest.mark.parametrize("kind", divergences.DIVERGENCES)
def test_every_divergence_of_the_table_can_be_chosen(tiny, kind):
    assert make_divergence(tiny(f"kl/divergence={kind}").kl)(LOGITS, REF_LOGITS) > 0


def test_a_sampled_penalty_takes_no_other_divergence(tiny):
    with pytest.raises(UserError, match=r"model.vocab_chunk: got 8 with kl.divergence=forward_kl, .*; expected null"):
        tiny("kl/divergence=forward_kl", "model.vocab_chunk=8")
    with pytest.raises(UserError, match=r"kl.divergence: got forward_kl with kl.penalty=k1_reward.*one of exact, exact_token"):
        make_divergence(tiny("kl/divergence=forward_kl", "kl.penalty=k1_reward").kl)


def betas(config, kls):
    controller = make_controller(config)
    state = controller.init()
    trace = [float(state.beta)]
    for kl in kls:
        state = controller.update(state, jnp.float32(kl))
        trace.append(float(state.beta))
    return trace


def test_a_fixed_beta_is_the_configs(tiny):
    assert betas(tiny("kl.beta=0.25"), [1.0, 9.0]) == [0.25] * 3


def test_a_schedule_multiplies_beta(tiny):
    arguments = "kl.controller.arguments={init_value: 1.0, end_value: 0.0, transition_steps: 4}"
    assert betas(tiny("kl.beta=2", "kl/controller=scheduled", arguments), [0.0] * 4) == [2.0, 1.5, 1.0, 0.5, 0.0]


def test_the_adaptive_controller_counts_the_sequences_of_a_step(tiny):
    config = tiny("kl.beta=1", "kl/controller=adaptive", "kl.controller.target=2.0", "kl.controller.horizon=160.0")
    sequences = config.rollout.prompts * config.rollout.samples
    assert betas(config, [100.0])[1] == pytest.approx(1 + 0.2 * sequences / 160.0)


def test_the_target_controller_raises_beta_above_its_budget_and_lowers_it_below(tiny):
    start, above, below = betas(tiny("kl/controller=target", "kl.controller.budget=3.0"), [6.0, 1.0])
    assert above > start > below


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["kl/controller=scheduled", "kl.controller.schedule=linear_schedul"], "Did you mean 'linear_schedule'?"),
        (["kl/controller=scheduled", "+kl.controller.arguments.start=1"], "kl.controller.arguments: linear_schedule"),
        (
            ["kl/controller=scheduled", "kl.controller.arguments.init_value=-1.0"],
            "the schedule is -1 at step 0, expected numbers >= 0",
        ),
        (
            ["kl/controller=scheduled", "kl.controller.arguments={init_value: 1.0, end_value: -1.0, transition_steps: 6}"],
            "the schedule is -0.333333 at step 4, expected numbers >= 0",
        ),
        (["kl/controller=adaptive", "kl.beta=0"], "kl.beta: got 0 with kl.controller=adaptive"),
        (["kl/controller=target", "kl.beta=0"], "kl.beta: got 0 with kl.controller=target"),
        (["kl/controller=target", "kl.beta=1000"], "expected a number between kl.controller.minimum=0.01"),
    ],
)
def test_a_controller_that_cannot_work_is_refused(tiny, overrides, sentence):
    with pytest.raises(UserError) as raised:
        make_controller(tiny(*overrides))
    assert sentence in str(raised.value)
