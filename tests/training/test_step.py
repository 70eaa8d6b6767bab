"""The RLHF step: the same on any mesh, in one program or in two, and downhill on what it says it minimises."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kljax.rewards.device import length
from kljax.training.loop import build_trainer
from kljax.training.state import initial_state
from kljax.training.step import compile_halves, compile_step, loss, roll_out, score_rollout
from kljax.training.task import prepare

MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "2 x 2 x 2": (2, 2, 2)}
STEPS = 5
RELATIVE = 1e-5  # float32 sums in another order


def trainer_on(tiny, mesh, *overrides):
    data, fsdp, tensor = mesh
    axes = [f"mesh.data={data}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}"]
    # Adam divides a gradient by its own size: where that is rounding noise, only eps keeps the noise small.
    return build_trainer(prepare(tiny("optimizer.eps=1e-4", "rollout.prompts=16", "pretrain.batch=16", *axes, *overrides)))


def start(trainer, scale=1.0):
    """A state, and a reference that differs from it: at KL = 0 a wrong sign would not show. Larger scales differ more."""
    task, parts = trainer.task, trainer.parts
    params, reference = (jax.tree.map(lambda p: scale * p, task.architecture.init(task.config.model, i)) for i in range(2))
    return initial_state(params, parts.optimizer, parts.controller, task.config.seed, parts.shardings), reference


def assert_close(actual, expected):
    """Each array within RELATIVE of the other's norm.

    Some gradients are zero but for rounding (a key's bias: softmax does not see it), so that their own norm is no measure:
    an array that is 100 times smaller than the whole tree is measured by the tree.
    """
    smallest = 0.01 * float(optax.tree.norm(expected))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), smallest)
        assert error < RELATIVE, f"{jax.tree_util.keystr(path)}: relative error {error:.2e}"


def value_and_gradient(trainer):
    state, reference = start(trainer)
    parts = trainer.parts

    @jax.jit
    def compute(state, reference, prompts):
        rollout, reward = roll_out(parts, state, prompts)

        def objective(params):
            scores = score_rollout(parts, params, reference, rollout)
            return loss(parts, scores, rollout.mask, reward, jnp.float32(0.5))

        return jax.value_and_grad(objective)(state.params)

    return jax.device_get(compute(state, reference, trainer.batch(0).prompts))


def run_steps(trainer, steps=STEPS, scale=1.0):
    state, reference = start(trainer, scale)
    logged = []
    for i in range(steps):
        state, metrics, _ = trainer.take_step(state, reference, trainer.batch(i))
        logged.append(jax.device_get(metrics))
    return jax.device_get(state.params), logged


@pytest.mark.parametrize(("family", "meshes"), [("gpt2", list(MESHES)), ("llama", ["2 x 2 x 2"])])
def test_every_mesh_gives_the_same_loss_gradients_and_parameters(tiny, family, meshes):
    single = trainer_on(tiny, (1, 1, 1), f"model={family}")
    value, gradient = value_and_gradient(single)
    params, logged = run_steps(single)
    assert logged[-1]["kl/reverse_exact_seq"] > 1e-4  # policy and reference do differ
    for mesh in meshes:
        sharded = trainer_on(tiny, MESHES[mesh], f"model={family}")
        its_value, its_gradient = value_and_gradient(sharded)
        np.testing.assert_allclose(its_value, value, rtol=RELATIVE)
        assert_close(its_gradient, gradient)
        its_params, its_logged = run_steps(sharded)
        assert_close(its_params, params)
        np.testing.assert_allclose(its_logged[-1]["reward/mean"], logged[-1]["reward/mean"], rtol=RELATIVE)


def test_parameters_lie_where_their_logical_axes_say(tiny):
    trainer = trainer_on(tiny, (2, 2, 2))
    state, _ = start(trainer)
    embedding = state.params["embed"]["embedding"]
    vocab, width = embedding.shape
    assert embedding.sharding.shard_shape(embedding.shape) == (vocab // 2, width // 2)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == embedding.shape]
    assert len(moments) == 2
    assert all(moment.sharding == embedding.sharding for moment in moments)


def test_two_halves_are_the_one_program(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, reference = start(trainer)
    prompts = trainer.batch(0).prompts
    whole = compile_step(trainer.parts)(jax.tree.map(jnp.copy, state), reference, prompts)
    rollout_half, update_half = compile_halves(trainer.parts)
    rollout, reward = rollout_half(state, prompts)
    halves = update_half(state, reference, rollout, reward)
    np.testing.assert_array_equal(halves[2].rollout.tokens, whole[2].rollout.tokens)
    assert_close(halves[0].params, whole[0].params)


def test_the_noise_of_a_step_follows_from_key_and_step(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, _ = start(trainer)
    prompts = trainer.batch(0).prompts
    draw = jax.jit(lambda state: roll_out(trainer.parts, state, prompts)[0].tokens)
    np.testing.assert_array_equal(draw(state), draw(state))
    assert (draw(state) != draw(replace(state, step=state.step + 1))).any()
    assert (draw(state) != draw(replace(state, key=jax.random.key(99)))).any()


@pytest.mark.parametrize("penalty", ["exact", "k1_reward", "k2_loss", "k3_loss"])
def test_a_large_beta_pulls_the_policy_to_the_reference(tiny, penalty):
    trainer = trainer_on(tiny, (1, 1, 1), "kl.beta=100", f"kl.penalty={penalty}", "optimizer.learning_rate=0.003")
    _, logged = run_steps(trainer, steps=30, scale=2.0)
    assert logged[-1]["kl/reverse_exact_tok"] < 0.75 * logged[0]["kl/reverse_exact_tok"]


@pytest.mark.parametrize("algorithm", ["rloo", "reinforce"])
def test_without_a_penalty_the_reward_rises(tiny, algorithm):
    overrides = [
        "kl.beta=0",
        f"algorithm={algorithm}",
        "optimizer.learning_rate=0.01",
        "reward=[length]",
        "reward.length.weight=-1",
    ]
    trainer = trainer_on(tiny, (1, 1, 1), *overrides)
    _, logged = run_steps(trainer, steps=30)
    assert logged[-1]["reward/mean"] > logged[0]["reward/mean"] + 3 * logged[0]["reward/mean_se"]


def test_metrics_are_those_of_a_python_loop(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, reference = start(trainer)
    scores_of = jax.jit(lambda s, r, rollout: score_rollout(trainer.parts, s.params, r, rollout))
    before = jax.tree.map(jnp.copy, state)
    _, metrics, outcome = trainer.take_step(state, reference, trainer.batch(0))
    scores, mask = jax.device_get((scores_of(before, reference, outcome.rollout), outcome.rollout.mask))
    rows = [(scores.reverse_kl[i][m], (scores.logp - scores.ref_logp)[i][m], m.sum()) for i, m in enumerate(mask)]
    expected = {
        "kl/reverse_exact_seq": np.mean([exact.sum() for exact, _, _ in rows]),
        "kl/reverse_exact_tok": sum(exact.sum() for exact, _, _ in rows) / mask.sum(),
        "kl/reverse_k1_seq": np.mean([k1.sum() for _, k1, _ in rows]),
        "rollout/length": np.mean([n for _, _, n in rows]),
        "reward/mean": outcome.reward.mean(),
        "objective/mean": outcome.reward.mean() - 0.5 * np.mean([exact.sum() for exact, _, _ in rows]),
        "rollout/eos_fraction": np.mean(
            [trainer.parts.sampler.eos_id in row[m] for row, m in zip(outcome.rollout.completion, mask, strict=True)]
        ),
    }
    assert float(metrics["kl/beta"]) == 0.5
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_the_reference_is_an_argument_not_a_constant(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, reference = start(trainer)
    text = compile_step(trainer.parts).lower(state, reference, trainer.batch(0).prompts).as_text()
    rows, width = reference["embed"]["embedding"].shape
    constants = [line for line in text.splitlines() if "stablehlo.constant" in line and f"tensor<{rows}x{width}xf32>" in line]
    assert not [line for line in constants if "dense<0.0" not in line and "dense<1.0" not in line]


def test_nothing_compiles_after_the_first_step(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    step = compile_step(trainer.parts)
    state, reference = start(trainer)
    for i in range(3):
        state, _, _ = step(state, reference, trainer.batch(i).prompts)
    assert step._cache_size() == 1


def test_length_reward_counts_what_the_metrics_count(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, reference = start(trainer)
    _, metrics, outcome = trainer.take_step(state, reference, trainer.batch(0))
    np.testing.assert_allclose(length(trainer.task.tokenizer)(outcome.rollout).mean(), metrics["rollout/length"])
