"""The forward pass that sampling made, in place of one for the gradient: the same numbers by fewer products."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks.work import body_size
from kljax.config import LoraAdapter
from kljax.models.layers import unroll
from kljax.models.lora import add_adapters
from kljax.models.ops.recall import recall
from kljax.models.sampling import Sampler, sample, sample_with_activations
from kljax.models.scoring import score
from kljax.types import Prompts

VOCAB, WIDTH, SAMPLES, EOS, PAD = 13, 5, 3, 2, 0
SAMPLER = Sampler(samples=SAMPLES, max_new_tokens=9, temperature=0.8, top_k=0, top_p=1.0, eos_ids=(EOS,), pad_id=PAD)
ADAPTER = LoraAdapter(kind="lora", rank=3, alpha=6.0, targets=["q", "v", "gate", "down"])
FAMILIES = {"gpt2": {}, "llama": {}, "qwen3": {"qk_norm": True}, "olmo2": {}, "smollm3": {}}


def decoder(make_decoder, name):
    """One of FAMILIES, or a Llama with adapters that do something."""
    if name != "lora":
        return make_decoder("llama" if name == "qwen3" else name, **FAMILIES[name])
    model = add_adapters(make_decoder("llama"), ADAPTER, rngs=nnx.Rngs(0))
    noise = nnx.Rngs(1)
    # Enough to matter; with noise of 1, rounding shows in the fifth decimal place of the scores on some CPUs.
    adapters = nnx.state(model, nnx.LoRAParam)
    nnx.update(model, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(noise(), p.shape), adapters))
    return model


@pytest.fixture
def prompts():
    """One of each left padding."""
    rng = np.random.default_rng(0)
    mask = np.arange(WIDTH) >= np.arange(WIDTH)[:, None]
    return Prompts(jnp.array(rng.integers(3, VOCAB, (WIDTH, WIDTH))), jnp.array(mask))


def rolled_out(model, prompts, sampler, seed=0):
    graphdef, params = nnx.split(model)
    return roll_out(graphdef, sampler, nnx.to_pure_dict(params), prompts, jax.random.key(seed))


@partial(jax.jit, static_argnums=(0, 1))
def roll_out(graphdef, sampler, params, prompts, key):
    return sample_with_activations(nnx.merge(graphdef, params), prompts, key, sampler)


def gradient_program(model, reference, rollout):
    """(parameters, what is known) → gradient of a sum in which every score has a weight of its own, and the scores."""
    graphdef, _ = nnx.split(model)
    weights = jax.random.normal(jax.random.key(1), (6, *rollout.mask.shape))

    def total(params, known):
        scores = score(nnx.merge(graphdef, params), reference, rollout, SAMPLES, 0.8, known=known)
        shown = jax.tree.map(lambda x: jnp.where(rollout.mask, x, 0.0), scores)
        return sum(jnp.vdot(w, x) for w, x in zip(weights, jax.tree.leaves(shown), strict=True)), shown

    return jax.jit(jax.grad(total, has_aux=True))


def assert_known_changes_nothing(model, reference, rollout, known):
    program, params = gradient_program(model, reference, rollout), nnx.to_pure_dict(nnx.state(model))
    gradient, scores = program(params, known)
    expected_gradient, expected_scores = program(params, None)
    for a, b in zip(jax.tree.leaves(scores), jax.tree.leaves(expected_scores), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    largest = max(float(jnp.abs(b).max()) for b in jax.tree.leaves(expected_gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)


def test_the_value_is_the_known_and_the_gradient_goes_on_to_what_would_have_computed_it():
    value, gradient = jax.value_and_grad(lambda x, known: jnp.sum(recall(x**2, known) ** 3), argnums=(0, 1))(3.0, 2.0)
    np.testing.assert_allclose(value, 2.0**3)
    np.testing.assert_allclose(gradient, (3 * 2.0**2 * 2 * 3.0, 0.0))
    assert recall(1.0, None) == 1.0


@pytest.mark.parametrize("name", [*FAMILIES, "lora"])
def test_scores_and_gradients_are_those_of_a_forward_pass(make_decoder, prompts, name):
    model = decoder(make_decoder, name)
    rollout, known = rolled_out(model, prompts, SAMPLER)
    lengths = rollout.mask.sum(axis=1)
    assert lengths.min() < lengths.max()
    assert_known_changes_nothing(model, make_decoder("llama", 1), rollout, known)


@pytest.mark.parametrize("length", [1, 2])
def test_so_they_are_for_the_shortest_completions(make_decoder, family, prompts, length):
    model = make_decoder(family)
    rollout, known = rolled_out(model, prompts, replace(SAMPLER, max_new_tokens=length))
    assert_known_changes_nothing(model, make_decoder(family, 1), rollout, known)


def test_so_they_are_where_every_row_ends_before_the_last_token(make_decoder, family, prompts):
    model, one = make_decoder(family), jax.tree.map(lambda x: x[:1], prompts)
    rollout, known = next(
        (rollout, known)
        for seed in range(100)
        for rollout, known in [rolled_out(model, one, SAMPLER, seed)]
        if not rollout.mask[:, 4].any()
    )
    np.testing.assert_array_equal(known.completions.out[:, :, 5:], 0.0)
    assert_known_changes_nothing(model, make_decoder(family, 1), rollout, known)


def test_samples_are_those_of_sampling_that_keeps_nothing(make_decoder, family, prompts):
    model, key = make_decoder(family), jax.random.key(0)
    rollout, _ = rolled_out(model, prompts, SAMPLER)
    plain = jax.jit(lambda: sample(model, prompts, key, SAMPLER))()
    np.testing.assert_array_equal(rollout.tokens, plain.tokens)
    np.testing.assert_allclose(rollout.behaviour_logp, plain.behaviour_logp, atol=1e-5)


def test_the_compiled_gradient_makes_none_of_the_products_again(make_decoder, family, prompts):
    """Three products for one without, two with: the difference is one forward pass through the layers, prompts included.

    Unrolled, as XLA counts what is in a loop once.
    """
    graphdef, params = nnx.split(make_decoder(family))
    params = unroll(nnx.to_pure_dict(params), 2)
    model = nnx.merge(graphdef, params)
    rollout, known = rolled_out(model, prompts, SAMPLER)
    program = gradient_program(model, make_decoder(family, 1), rollout)
    flops = [program.lower(params, each).compile().cost_analysis()["flops"] for each in (None, known)]
    tokens = WIDTH * (WIDTH + SAMPLES * (SAMPLER.max_new_tokens - 1))
    assert flops[0] - flops[1] > 2 * tokens * body_size(model.config)
