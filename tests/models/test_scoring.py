"""Scoring in time chunks against the plain formula on whole logits."""

from dataclasses import fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from kljax.kl import divergences
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.scoring import score, token_logp
from kljax.types import Rollout, Scores

VOCAB, PROMPT, LENGTH, BATCH = 13, 4, 7, 5


@pytest.fixture
def rollout():
    """Left padding of every length, completions of several lengths, garbage under the padding."""
    rng = np.random.default_rng(0)
    prompt_mask = np.arange(PROMPT) >= np.array([0, 1, 2, 3, 0])[:, None]
    mask = np.arange(LENGTH) < np.array([7, 1, 4, 6, 3])[:, None]
    tokens = rng.integers(0, VOCAB, (BATCH, PROMPT + LENGTH))
    return Rollout(jnp.array(tokens), jnp.array(prompt_mask), jnp.array(mask), jnp.zeros((BATCH, LENGTH)))


def plain_logits(model, rollout):
    mask = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    hidden, _ = model(rollout.tokens, positions_of(mask), causal_mask(mask))
    return model.logits(hidden)[:, PROMPT - 1 : -1]


def plain_score(policy, reference, rollout, temperature):
    logits, ref_logits = plain_logits(policy, rollout) / temperature, plain_logits(reference, rollout) / temperature
    chosen = rollout.completion[..., None]
    logp, ref_logp = (jnp.take_along_axis(jax.nn.log_softmax(x), chosen, -1)[..., 0] for x in (logits, ref_logits))
    return Scores(
        logp=logp,
        ref_logp=ref_logp,
        reverse_kl=divergences.reverse_kl(logits, ref_logits),
        forward_kl=divergences.forward_kl(logits, ref_logits),
        divergence=divergences.jeffreys(logits, ref_logits),
        entropy=divergences.entropy(logits),
    )


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_chunks_give_the_values_of_whole_logits(make_decoder, family, rollout, chunk, temperature):
    policy, reference = make_decoder(family, 0, logit_chunk=chunk), make_decoder(family, 1)
    scores = jax.jit(lambda r: score(policy, reference, r, 1, temperature, divergences.jeffreys))(rollout)
    whole = jax.jit(lambda r: plain_score(policy, reference, r, temperature))(rollout)
    for field in fields(Scores):
        actual, expected = (jnp.where(rollout.mask, getattr(s, field.name), 0.0) for s in (scores, whole))
        np.testing.assert_allclose(actual, expected, atol=3e-5, err_msg=field.name)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_blocks_of_the_vocabulary_give_the_scores_and_gradients_of_all_of_it(make_decoder, family, rollout, temperature):
    reference = make_decoder(family, 1)

    def total(model):
        scores = score(model, reference, rollout, 1, temperature)
        shown = jax.tree.map(lambda x: jnp.where(rollout.mask, x, 0.0), scores)
        return shown.reverse_kl.sum() + shown.divergence.sum() + shown.logp.sum() - shown.entropy.sum(), shown

    def found(**changes):
        graphdef, params = nnx.split(make_decoder(family, 0, **changes))
        compute = jax.jit(jax.grad(lambda p: total(nnx.merge(graphdef, p)), has_aux=True))
        return compute(nnx.to_pure_dict(params))

    for a, b in zip(jax.tree.leaves(found(vocab_chunk=5, logit_chunk=2)), jax.tree.leaves(found()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_chunks_give_the_gradient_of_whole_logits(make_decoder, family, rollout, role):
    """Of all quantities at once, each real token of each weighed at random; the last chunk is not full."""
    models = {"policy": make_decoder(family), "reference": make_decoder(family, 1)}
    graphdef, params = nnx.split(models[role])
    weights = jnp.array(np.random.default_rng(1).normal(size=(len(fields(Scores)), BATCH, LENGTH)), jnp.float32) * rollout.mask

    def total(scoring, params):
        scores = scoring(*(models | {role: nnx.merge(graphdef, params)}).values(), rollout)
        return sum(jnp.vdot(w, getattr(scores, f.name)) for w, f in zip(weights, fields(Scores), strict=True))

    pure = nnx.to_pure_dict(params)
    chunked = partial(score, samples=1, temperature=0.7, divergence=divergences.jeffreys)
    plain = partial(plain_score, temperature=0.7)
    ours, theirs = (jax.jit(jax.grad(partial(total, scoring)))(pure) for scoring in (chunked, plain))
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs))
    assert scale > 0.1
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_what_lies_under_the_padding_does_not_matter(make_decoder, family, rollout):
    policy, reference = make_decoder(family, 0), make_decoder(family, 1)
    real = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    other = Rollout(jnp.where(real, rollout.tokens, 7), rollout.prompt_mask, rollout.mask, rollout.behaviour_logp)
    for a, b in zip(
        jax.tree.leaves(score(policy, reference, rollout, 1, 1.0)),
        jax.tree.leaves(score(policy, reference, other, 1, 1.0)),
        strict=True,
    ):
        np.testing.assert_allclose(jnp.where(rollout.mask, a, 0.0), jnp.where(rollout.mask, b, 0.0), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_kl_to_oneself_is_zero(make_decoder, family, rollout, temperature):
    model = make_decoder(family)
    scores = jax.jit(lambda r: score(model, model, r, 1, temperature))(rollout)
    for kl in (scores.reverse_kl, scores.forward_kl):
        assert float(jnp.abs(jnp.where(rollout.mask, kl, 0.0)).max()) < 1e-6


def product_shapes(jaxpr):
    """Shapes of what matrix products give, looking into loops and calls."""
    shapes = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return shapes + [shape for e in jaxpr.eqns for inner in jaxprs_in_params(e.params) for shape in product_shapes(inner)]


def largest_array(jaxpr):
    """Elements of the largest intermediate array, looking into loops and calls."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [int(np.prod(out.aval.shape)) for out in equation.outvars if hasattr(out.aval, "shape")]
        for inner in jaxprs_in_params(equation.params):
            sizes.append(largest_array(inner))
    return max(sizes)


@pytest.mark.parametrize(("chunk", "whole"), [(2, False), (64, True)])
def test_all_logits_never_exist_at_once(make_decoder, chunk, whole):
    """Not in the forward pass and not in the backward pass; with one chunk for all they do, so the test can see them."""
    batch, length, vocab = 4, 64, 512
    config = make_decoder("gpt2", logit_chunk=chunk, context=80, layers=1).config
    graphdef, params = nnx.split(Decoder(config, vocab, rngs=nnx.Rngs(0)))
    ones = jnp.ones((batch, length), bool)
    tokens = jnp.zeros((batch, PROMPT + length), jnp.int32)
    rollout = Rollout(tokens, jnp.ones((batch, PROMPT), bool), ones, jnp.zeros((batch, length)))

    def loss(p):
        return score(nnx.merge(graphdef, p), nnx.merge(graphdef, params), rollout, 1, 1.0).reverse_kl.sum()

    largest = largest_array(jax.make_jaxpr(jax.value_and_grad(loss))(nnx.to_pure_dict(params)).jaxpr)
    assert (largest >= batch * length * vocab) == whole


@pytest.mark.parametrize("padding", ["right", "left"])
def test_token_logp_is_that_of_whole_logits(make_decoder, family, padding):
    model = make_decoder(family)
    tokens = jnp.array(np.random.default_rng(0).integers(0, VOCAB, (3, 10)))
    mask = jnp.arange(10)[None] < jnp.array([[10], [4], [7]])
    mask = jnp.flip(mask, 1) if padding == "left" else mask
    hidden, _ = model(tokens, positions_of(mask), causal_mask(mask))
    expected = jnp.take_along_axis(jax.nn.log_softmax(model.logits(hidden))[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(token_logp(model, tokens, mask), expected, atol=1e-5)


def test_token_logp_drops_out_only_with_a_key(make_decoder):
    model = make_decoder()
    tokens = jnp.array(np.random.default_rng(0).integers(0, VOCAB, (2, 8)))
    plain, again, one, other = (
        token_logp(model, tokens, jnp.ones((2, 8), bool), dropout_key=None if seed is None else jax.random.key(seed))
        for seed in (None, None, 1, 2)
    )
    np.testing.assert_array_equal(plain, again)
    assert (plain != one).any()
    assert (one != other).any()


def groups(rollout):
    """Each prompt of the rollout with three completions of its own."""
    rng = np.random.default_rng(3)

    def repeated(x):
        return jnp.repeat(x, 3, axis=0)

    completion = jnp.array(rng.integers(0, VOCAB, (3 * BATCH, LENGTH)))
    mask = jnp.arange(LENGTH) < jnp.array(rng.integers(1, LENGTH + 1, 3 * BATCH))[:, None]
    tokens = jnp.concatenate([repeated(rollout.tokens[:, :PROMPT]), completion], axis=1)
    return Rollout(tokens, repeated(rollout.prompt_mask), mask, jnp.zeros(mask.shape))


def test_a_prompt_read_once_for_its_samples_gives_what_reading_it_for_each_gives(make_decoder, family, rollout):
    """Values, and the gradient: what all samples of a prompt ask of its states is summed."""
    grouped, reference = groups(rollout), make_decoder(family, 1)
    graphdef, params = nnx.split(make_decoder(family))
    weights = jnp.array(np.random.default_rng(1).normal(size=grouped.mask.shape), jnp.float32)

    @partial(jax.jit, static_argnums=1)
    def total(params, samples):
        scores = score(nnx.merge(graphdef, params), reference, grouped, samples, 1.0)
        return jnp.where(grouped.mask, weights * (scores.logp + scores.reverse_kl), 0.0).sum()

    pure = nnx.to_pure_dict(params)
    once, each = (jax.value_and_grad(total)(pure, samples) for samples in (3, 1))
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(each), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_no_product_reads_a_prompt_twice_or_a_last_token(make_decoder, rollout):
    """In the jaxpr, prompts come as N rows and completions as B rows of T − 1."""
    model, grouped = make_decoder(), groups(rollout)
    jaxpr = jax.make_jaxpr(lambda: score(model, model, grouped, 3, 1.0))().jaxpr
    width = model.config.d_mlp  # of products that no other part of the model has
    assert {shape[:2] for shape in product_shapes(jaxpr) if shape[-1] == width} == {(BATCH, PROMPT), (3 * BATCH, LENGTH - 1)}


def test_completions_of_one_token_are_scored_from_their_prompts_alone(make_decoder, family, rollout):
    model, reference = make_decoder(family), make_decoder(family, 1)
    short = Rollout(rollout.tokens[:, : PROMPT + 1], rollout.prompt_mask, rollout.mask[:, :1], rollout.behaviour_logp[:, :1])
    scores, expected = (score(model, reference, r, 1, 1.0) for r in (short, rollout))
    np.testing.assert_allclose(scores.reverse_kl, expected.reverse_kl[:, :1], atol=1e-6)
