"""The RLHF step: the same on any mesh, in one program or in two, and downhill on what it says it minimises."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kljax.devices.microbatches import accumulate
from kljax.kl.sequences import importance_weights, on_policy
from kljax.models.layers import stack
from kljax.models.scoring import score
from kljax.rewards.device import length
from kljax.runs.setup import prepare
from kljax.training.step import compile_halves, compile_step, loss, report, roll_out, scaled, score_rollout
from kljax.training.trainer import build_trainer

MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "2 x 2 x 2": (2, 2, 2)}
STEPS = 5
RELATIVE = 1e-5  # float32 sums in another order


def trainer_on(tiny, mesh, *overrides, ends=None):
    data, fsdp, tensor = mesh
    axes = [f"mesh.data={data}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}"]
    # Adam divides a gradient by its own size: where that is rounding noise, only eps keeps the noise small.
    setup = prepare(tiny("optimizer.eps=1e-4", "rollout.prompts=16", "pretrain.batch=16", *axes, *overrides))
    return build_trainer(setup if ends is None else replace(setup, generation=replace(setup.generation, ends=ends)))


def start(trainer, scale=1.0):
    """A state, and a reference that differs from it: at KL = 0 a wrong sign would not show. Larger scales differ more."""
    params, reference = (jax.tree.map(lambda p: scale * p, trainer.setup.architecture.init(i)) for i in range(2))
    return trainer.initial_state(params, reference), trainer.freeze(params, reference)


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
    state, frozen = start(trainer)
    parts = trainer.parts

    @jax.jit
    def compute(state, frozen, prompts):
        rollout, terms, _ = roll_out(parts, state, frozen, prompts)
        reward = scaled(parts, parts.reward.total(terms))

        def objective(params):
            scores = score_rollout(parts, params, frozen, None, rollout)
            return loss(parts, scores, rollout.mask, reward, jnp.float32(0.5), on_policy(rollout.mask))[0]

        return jax.value_and_grad(objective)(state.params)

    return jax.device_get(compute(state, frozen, trainer.batch(0).prompts))


def scores_of(trainer, params, frozen, rollout):
    """By a program that all trainers share that score alike: what else is different in them does not show in it."""
    arch, sampler = trainer.parts.adaptation.architecture, trainer.parts.sampler
    return _scores_of(arch.graphdef, sampler, params, frozen.reference, rollout)


@partial(jax.jit, static_argnums=(0, 1))
def _scores_of(graphdef, sampler, params, reference, rollout):
    models = nnx.merge(graphdef, params), nnx.merge(graphdef, reference)
    return score(*models, rollout, sampler.samples, sampler.scoring_temperature)


def run_steps(trainer, steps=STEPS, scale=1.0):
    state, frozen = start(trainer, scale)
    logged = []
    for i in range(steps):
        state, metrics, _ = trainer.take_step(state, frozen, trainer.batch(i))
        logged.append(jax.device_get(metrics))
    return jax.device_get(state.params), logged


def test_every_mesh_gives_the_same_loss_and_gradients(tiny):
    value, gradient = value_and_gradient(trainer_on(tiny, (1, 1, 1)))
    for mesh in MESHES.values():
        its_value, its_gradient = value_and_gradient(trainer_on(tiny, mesh))
        np.testing.assert_allclose(its_value, value, rtol=RELATIVE)
        assert_close(its_gradient, gradient)


@pytest.mark.parametrize(("family", "mesh"), [("gpt2", "fsdp 8"), ("llama", "2 x 2 x 2")])
def test_a_mesh_gives_the_same_parameters_after_five_steps(tiny, family, mesh):
    params, logged = run_steps(trainer_on(tiny, (1, 1, 1), f"model={family}"))
    assert logged[-1]["kl/reverse_exact_seq"] > 1e-4  # policy and reference do differ
    its_params, its_logged = run_steps(trainer_on(tiny, MESHES[mesh], f"model={family}"))
    assert_close(its_params, params)
    np.testing.assert_allclose(its_logged[-1]["reward/mean"], logged[-1]["reward/mean"], rtol=RELATIVE)


@pytest.mark.parametrize(
    ("mesh", "overrides"),
    [((1, 1, 1), ["reward_scale=batch_std"]), ((1, 1, 1), ["rollout.updates=2", "kl.penalty=k1_reward"]), ((2, 2, 2), [])],
    ids=["scaled by the whole batch", "off-policy", "on a mesh"],
)
def test_microbatches_give_the_steps_of_the_whole_batch(tiny, mesh, overrides):
    """Parameters, and every metric: KLs, lengths and rewards come back in the order of the rollout."""
    whole, parts = (trainer_on(tiny, mesh, *overrides, f"rollout.microbatches={count}") for count in (1, 4))
    params, logged = run_steps(whole, steps=2)
    its_params, its_logged = run_steps(parts, steps=2)
    assert_close(its_params, params)
    for name, value in logged[-1].items():
        np.testing.assert_allclose(its_logged[-1][name], value, rtol=20 * RELATIVE, atol=1e-6, err_msg=name)


IN_PARTS = ["rollout.updates=2", "rollout.microbatches=2"]


@pytest.mark.parametrize(
    ("mesh", "overrides"),
    [
        ((1, 1, 1), IN_PARTS),
        ((1, 1, 1), ["adapter=lora"]),
        ((8, 1, 1), []),
        ((2, 2, 2), ["model=llama"]),
    ],
    ids=["off-policy and in parts", "lora", "data 8", "2 x 2 x 2"],
)
def test_activations_of_sampling_give_the_steps_of_a_second_forward_pass(tiny, mesh, overrides):
    plain, kept = (trainer_on(tiny, mesh, *overrides, f"rollout.keep_activations={keep}") for keep in ("false", "true"))
    params, logged = run_steps(plain, steps=2)
    its_params, its_logged = run_steps(kept, steps=2)
    assert logged[-1]["kl/reverse_exact_seq"] > 1e-4
    assert_close(its_params, params)
    for name, value in logged[-1].items():
        np.testing.assert_allclose(its_logged[-1][name], value, rtol=20 * RELATIVE, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("mesh", "overrides"),
    [
        (
            (1, 1, 1),
            ["rollout.updates=2", "rollout.microbatches=2", "rollout.keep_activations=true", "reference/refresh=average"],
        ),
        ((2, 2, 2), ["adapter=lora", "model=llama"]),
    ],
    ids=["off-policy, in parts, with what sampling computed", "lora on 2 x 2 x 2"],
)
def test_layers_one_by_one_make_the_steps_of_a_loop(tiny, mesh, overrides):
    looped, one_by_one = (
        trainer_on(tiny, mesh, "model.layers=3", *overrides, f"run.unroll_layers={each}") for each in ("false", "true")
    )
    params, logged = run_steps(looped, steps=5)
    its_params, its_logged = run_steps(one_by_one, steps=5)
    assert logged[-1]["kl/reverse_exact_seq"] > 1e-4
    assert_close(stack(its_params), params)
    for name, value in logged[-1].items():
        np.testing.assert_allclose(its_logged[-1][name], value, rtol=20 * RELATIVE, atol=2e-6, err_msg=name)


def test_a_part_of_the_batch_lies_on_every_device_and_keeps_a_prompt_together():
    batch, samples = jnp.arange(16.0), 2
    seen, beside = accumulate(lambda part: (part, part), batch, 4, samples)
    np.testing.assert_array_equal(seen, batch.reshape(2, 4, samples).mean(axis=1).ravel())
    np.testing.assert_array_equal(beside, batch)


def test_what_there_is_of_a_prompt_goes_with_its_samples():
    samples, of_prompts = 2, jnp.arange(8.0)
    apart, _ = accumulate(
        lambda part: (part[0][::samples] - part[1], part[0]), (jnp.repeat(of_prompts, samples), of_prompts), 4, samples
    )
    np.testing.assert_array_equal(apart, 0.0)


def test_a_reference_in_the_hosts_memory_is_the_same_reference(tiny):
    on_device, on_host = (trainer_on(tiny, (2, 1, 1), f"reference.memory={place}") for place in ("device", "host"))
    _, frozen = start(on_host)
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(frozen.reference)} == {"pinned_host"}
    params, logged = run_steps(on_device, steps=2)
    its_params, its_logged = run_steps(on_host, steps=2)
    assert logged[-1]["kl/reverse_exact_seq"] > 1e-4
    np.testing.assert_allclose(its_logged[-1]["kl/reverse_exact_seq"], logged[-1]["kl/reverse_exact_seq"], rtol=RELATIVE)
    assert_close(its_params, params)


def test_parameters_lie_where_their_logical_axes_say(tiny):
    trainer = trainer_on(tiny, (2, 2, 2))
    state, _ = start(trainer)
    embedding = state.params["embed"]["embedding"]
    vocab, width = embedding.shape
    assert embedding.sharding.shard_shape(embedding.shape) == (vocab // 2, width // 2)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == embedding.shape]
    assert len(moments) == 2
    assert all(moment.sharding == embedding.sharding for moment in moments)


@pytest.mark.parametrize("keep", ["false", "true"])
def test_two_halves_are_the_one_program(tiny, keep):
    trainer = trainer_on(tiny, (1, 1, 1), f"rollout.keep_activations={keep}")
    state, frozen = start(trainer)
    prompts = trainer.batch(0).prompts
    whole = trainer.take_step(jax.tree.map(jnp.copy, state), frozen, trainer.batch(0))
    rollout_half, update_half = compile_halves(trainer.parts)
    rollout, terms, known = rollout_half(state, frozen, prompts)
    assert (known is not None) == (keep == "true")
    halves = update_half(state, frozen, rollout, terms, known)
    np.testing.assert_array_equal(halves[2].rollout.tokens, whole[2].rollout.tokens)
    assert_close(halves[0].params, whole[0].params)


def test_the_noise_of_a_step_follows_from_key_and_step(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer)
    prompts = trainer.batch(0).prompts
    draw = jax.jit(lambda state: roll_out(trainer.parts, state, frozen, prompts)[0].tokens)
    np.testing.assert_array_equal(draw(state), draw(state))
    assert (draw(state) != draw(replace(state, step=state.step + 1))).any()
    assert (draw(state) != draw(replace(state, key=jax.random.key(99)))).any()


@pytest.mark.parametrize("penalty", ["exact", "k3_loss"])
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


@pytest.mark.parametrize("ends", [None, (2, 5, 9)])
def test_metrics_are_those_of_a_python_loop(tiny, ends):
    """Which ends each completion at the first of its end tokens, also where several tokens are such."""
    trainer = trainer_on(tiny, (1, 1, 1), ends=ends)
    state, frozen = start(trainer)
    before = jax.tree.map(jnp.copy, state)
    _, metrics, outcome = trainer.take_step(state, frozen, trainer.batch(0))
    scores = jax.device_get(scores_of(trainer, before.params, frozen, outcome.rollout))
    tokens, ending = np.asarray(outcome.rollout.completion), ends or [trainer.setup.tokenizer.eos_token_id]
    lengths = [next((t + 1 for t, token in enumerate(row) if token in ending), len(row)) for row in tokens.tolist()]
    mask = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(outcome.rollout.mask, mask)
    if ends is not None:
        assert {row[n - 1] for row, n in zip(tokens.tolist(), lengths, strict=True)} > set(ends)
    rows = [(scores.reverse_kl[i][m], (scores.logp - scores.ref_logp)[i][m], m.sum()) for i, m in enumerate(mask)]
    expected = {
        "kl/reverse_exact_seq": np.mean([exact.sum() for exact, _, _ in rows]),
        "kl/reverse_exact_tok": sum(exact.sum() for exact, _, _ in rows) / mask.sum(),
        "kl/reverse_k1_seq": np.mean([k1.sum() for _, k1, _ in rows]),
        "rollout/length": np.mean([n for _, _, n in rows]),
        "reward/mean": outcome.reward.mean(),
        "objective/mean": outcome.reward.mean() - 0.5 * np.mean([exact.sum() for exact, _, _ in rows]),
        "rollout/eos_fraction": np.mean([row[n - 1] in ending for row, n in zip(tokens.tolist(), lengths, strict=True)]),
    }
    prompts = {tuple(row) for row in np.asarray(outcome.rollout.tokens)[:, : -tokens.shape[1]].tolist()}
    expected |= {
        "reward/std": np.std(np.asarray(outcome.reward), ddof=1),
        "rollout/sequences": len(tokens),
        "rollout/distinct_prompts": len(prompts),
        "policy/learning_rate": trainer.setup.config.optimizer.learning_rate,
        "policy/penalty_loss": 0.5 * np.mean([exact.sum() for exact, _, _ in rows]),
        "policy/loss": loss_of_a_loop(scores, mask, np.asarray(outcome.reward), beta=0.5),
    }
    assert float(metrics["kl/beta"]) == 0.5
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def loss_of_a_loop(scores, mask, reward, beta):
    """RLOO with the exact penalty, two samples a prompt: own-state KL in the loss, that of later states in the return."""
    kl, logp = np.where(mask, scores.reverse_kl, 0.0), np.where(mask, scores.logp, 0.0)
    returns = [[reward[b] - beta * kl[b, t + 1 :].sum() for t in range(mask.shape[1])] for b in range(len(mask))]
    surrogate = [sum((returns[b][t] - returns[b ^ 1][t]) * logp[b, t] for t in range(mask.shape[1])) for b in range(len(mask))]
    return np.mean(beta * kl.sum(axis=1) - surrogate)


def test_the_reference_is_an_argument_not_a_constant(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer)
    text = compile_step(trainer.parts).lower(state, frozen, trainer.batch(0).prompts).as_text()
    rows, width = frozen.reference["embed"]["embedding"].shape
    constants = [line for line in text.splitlines() if "stablehlo.constant" in line and f"tensor<{rows}x{width}xf32>" in line]
    assert not [line for line in constants if "dense<0.0" not in line and "dense<1.0" not in line]


def test_after_the_first_step_nothing_compiles_and_nothing_moves_between_host_and_device(tiny):
    """What a step is given lies on the device, and what it makes stays there until someone asks."""
    trainer = trainer_on(tiny, (1, 1, 1))
    step = compile_step(trainer.parts)
    state, frozen = start(trainer)
    batches = [trainer.batch(i).prompts for i in range(3)]
    state, _, _ = step(state, frozen, batches[0])
    with jax.transfer_guard("disallow"):
        for prompts in batches[1:]:
            state, _, _ = step(state, frozen, prompts)
        jax.block_until_ready(state)
        assert step._cache_size() == 1
        with pytest.raises(Exception, match="isallowed"):  # the guard sees a transfer when there is one
            step(state, frozen, jax.tree.map(np.asarray, batches[0]))


def test_length_reward_counts_what_the_metrics_count(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer)
    _, metrics, outcome = trainer.take_step(state, frozen, trainer.batch(0))
    np.testing.assert_allclose(length(trainer.setup.tokenizer)(outcome.rollout).mean(), metrics["rollout/length"])


def test_all_estimates_are_of_the_same_samples_and_of_a_loop(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer, scale=2.0)
    before = jax.tree.map(jnp.copy, state)
    _, metrics, outcome = trainer.take_step(state, frozen, trainer.batch(0))
    scores, mask = jax.device_get((scores_of(trainer, before.params, frozen, outcome.rollout), outcome.rollout.mask))
    u = scores.logp - scores.ref_logp
    for name, estimate in {"k1": u, "k2": u**2 / 2, "k3": np.expm1(-u) + u, "exact": scores.reverse_kl}.items():
        sums = np.array([row[m].sum() for row, m in zip(estimate, mask, strict=True)])
        by_prompt = sums.reshape(-1, trainer.parts.sampler.samples).mean(axis=1)
        np.testing.assert_allclose(metrics[f"kl/reverse_{name}_seq"], sums.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics[f"kl/reverse_{name}_tok"], sums.sum() / mask.sum(), rtol=1e-4)
        se = by_prompt.std(ddof=1) / np.sqrt(len(by_prompt))
        np.testing.assert_allclose(metrics[f"kl/reverse_{name}_seq_se"], se, rtol=1e-4)
    positions = [scores.reverse_kl[:, t][mask[:, t]].mean() for t in range(mask.shape[1]) if mask[:, t].any()]
    np.testing.assert_allclose(metrics["kl/reverse_exact_by_position"][: len(positions)], positions, rtol=1e-4)


def test_a_scaled_reward_is_trained_as_with_the_effective_beta(tiny):
    """The gradient of r/σ − beta·KL is that of r − (beta·σ)·KL, over σ."""
    trainer = trainer_on(tiny, (1, 1, 1), "reward_scale=prompt_std")
    plain = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer)
    rollout, *_ = jax.jit(lambda s, f, p: roll_out(trainer.parts, s, f, p))(state, frozen, trainer.batch(0).prompts)
    reward = jnp.tile(jnp.array([1.0, 3.0]), rollout.mask.shape[0] // 2)  # every prompt alike, so that one σ is every prompt's
    sigma = np.sqrt(2.0)

    def gradient(parts, beta):
        def objective(params):
            scores = score_rollout(parts, params, frozen, None, rollout)
            return loss(parts, scores, rollout.mask, scaled(parts, reward), jnp.float32(beta), on_policy(rollout.mask))[0]

        return jax.device_get(jax.jit(jax.grad(objective))(state.params))

    divided, effective = gradient(trainer.parts, 0.5), gradient(plain.parts, 0.5 * sigma)
    assert_close(jax.tree.map(lambda g: g * sigma, divided), effective)
    scores = scores_of(trainer, state.params, frozen, rollout)
    metrics = report(trainer.parts, scores, rollout, reward, jnp.float32(0.5))
    np.testing.assert_allclose(metrics["kl/beta_effective"], 0.5 * sigma, rtol=1e-5)


def test_unscaled_rewards_have_no_effective_beta(tiny):
    trainer = trainer_on(tiny, (1, 1, 1))
    state, frozen = start(trainer)
    assert "kl/beta_effective" not in trainer.take_step(state, frozen, trainer.batch(0))[1]


def test_a_second_update_is_a_step_with_the_importance_weights_of_the_first(tiny):
    """Two updates of one rollout against the same two made by hand."""
    large_steps = ["optimizer.learning_rate=0.01", "optimizer.warmup_steps=0"]
    twice = trainer_on(tiny, (1, 1, 1), "rollout.updates=2", *large_steps)
    state, frozen = start(twice)
    parts, optimizer = twice.parts, twice.parts.optimizer

    def gradient(params, old_logp, rollout, reward):
        def objective(params):
            scores = score_rollout(parts, params, frozen, None, rollout)
            weights = importance_weights(scores.logp, old_logp, rollout.mask)
            return loss(parts, scores, rollout.mask, reward, jnp.float32(0.5), weights)[0]

        return jax.grad(objective)(params)

    @jax.jit
    def by_hand(state, prompts):
        rollout, terms, _ = roll_out(parts, state, frozen, prompts)
        reward = scaled(parts, parts.reward.total(terms))
        old_logp = score_rollout(parts, state.params, frozen, None, rollout).logp
        params, opt_state = state.params, state.opt_state
        for _ in range(2):
            changes, opt_state = optimizer.update(gradient(params, old_logp, rollout, reward), opt_state, params)
            params = optax.apply_updates(params, changes)
        return params

    expected = jax.device_get(by_hand(state, twice.batch(0).prompts))
    params, metrics, _ = twice.take_step(state, frozen, twice.batch(0))
    assert_close(jax.device_get(params.params), expected)
    assert 0 < metrics["policy/effective_sample_fraction"] < 1  # the policy has moved between the two


def test_another_divergence_is_trained_on_and_reported_by_its_name(tiny):
    trainer = trainer_on(tiny, (1, 1, 1), "kl/divergence=jensen_shannon", "kl.beta=100", "optimizer.learning_rate=0.003")
    _, logged = run_steps(trainer, steps=20, scale=2.0)
    name = "kl/jensen_shannon_exact_seq"
    assert logged[-1][name] < 0.9 * logged[0][name]
    for line in logged[::10]:  # and J has it, not the reverse KL
        np.testing.assert_allclose(line["objective/mean"], line["reward/mean"] - 100 * line[name], rtol=1e-5)
