"""Sampling: cached against uncached, drawn against stated probabilities, ended where it should end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.extend.core import jaxprs_in_params
from scipy.stats import chisquare

from kljax.models.decoder import causal_mask, positions_of
from kljax.models.sampling import Sampler, draw, sample, sample_jit, truncate
from kljax.models.scoring import score
from kljax.types import Prompts

VOCAB, WIDTH, EOS, PAD = 13, 5, 2, 0
PLAIN = {"samples": 2, "max_new_tokens": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_ids": (EOS,), "pad_id": PAD}


@pytest.fixture
def prompts():
    """One of each left padding."""
    rng = np.random.default_rng(0)
    mask = np.arange(WIDTH) >= np.arange(WIDTH)[:, None]
    return Prompts(jnp.array(rng.integers(3, VOCAB, (WIDTH, WIDTH))), jnp.array(mask))


def sampled(model, prompts, seed=0, **changes):
    graphdef, params = nnx.split(model)
    return sample_jit(graphdef, nnx.to_pure_dict(params), prompts, jax.random.key(seed), Sampler(**PLAIN | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 1.5, "samples": 1}],
)
def test_cached_decoding_is_uncached_scoring(make_decoder, family, prompts, changes):
    model = make_decoder(family)
    rollout = sampled(model, prompts, **changes)
    temperature = Sampler(**PLAIN | changes).scoring_temperature
    scores = jax.jit(lambda r: score(model, model, r, 1, temperature))(rollout)
    np.testing.assert_allclose(jnp.where(rollout.mask, scores.logp, 0.0), rollout.behaviour_logp, atol=1e-5)


def test_a_cache_in_bfloat16_samples_almost_what_is_scored(make_decoder, family, prompts):
    """Off by what eight bits of keys and values make, and off at all: the cache is what it is asked to be."""
    model = make_decoder(family)
    rollout = sampled(model, prompts, cache_dtype="bfloat16")
    scores = jax.jit(lambda r: score(model, model, r, 1, 1.0))(rollout)
    gap = float(jnp.max(jnp.abs(jnp.where(rollout.mask, scores.logp, 0.0) - rollout.behaviour_logp)))
    assert 1e-6 < gap < 0.05


def test_greedy_is_an_argmax_loop_without_a_cache(make_decoder, family, prompts):
    model = make_decoder(family)
    rollout = sampled(model, prompts, samples=1, temperature=0.0)
    for i in range(WIDTH):
        text, completion = list(np.asarray(prompts.tokens[i][prompts.mask[i]])), []
        while len(completion) < PLAIN["max_new_tokens"] and EOS not in completion:
            completion.append(int(np.argmax(uncached_logits(model, [text + completion])[0])))
        assert list(np.asarray(rollout.completion[i][rollout.mask[i]])) == completion


def uncached_logits(model, texts, width=WIDTH + PLAIN["max_new_tokens"]):
    """Next-token logits after each text: padded on the right to one width, so that they compile once."""
    graphdef, params = nnx.split(model)
    tokens = jnp.array([[*text, *[PAD] * (width - len(text))] for text in texts])
    last = jnp.array([len(text) - 1 for text in texts])
    return np.asarray(logits_at(graphdef, nnx.to_pure_dict(params), tokens, last))


@partial(jax.jit, static_argnames="graphdef")
def logits_at(graphdef, params, tokens, last):
    model, real = nnx.merge(graphdef, params), jnp.arange(tokens.shape[1]) <= last[:, None]
    hidden, _ = model(tokens, positions_of(real), causal_mask(real))
    return model.logits(hidden[jnp.arange(len(tokens)), last])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 0.8, "top_k": 4},
        {"temperature": 1.3, "top_p": 0.7},
        {"eos_ids": (EOS, 7, 11)},
        {"eos_ids": ()},
    ],
)
def test_pairs_of_tokens_are_drawn_with_their_joint_probabilities(make_decoder, family, changes):
    """The whole sampler against enumeration: steps drawn from one another's noise would pass a test of each step alone."""
    model, text, rows = make_decoder(family), [5, 9, 3], 20_000
    prompt = Prompts(jnp.array([text]), jnp.ones((1, 3), bool))
    rollout = sampled(model, prompt, samples=rows, max_new_tokens=2, **changes)
    sampler = Sampler(**PLAIN | changes)
    first = probabilities_by_hand(uncached_logits(model, [text])[0], sampler)
    after = uncached_logits(model, [[*text, token] for token in range(VOCAB)])
    joint = first[:, None] * np.array([probabilities_by_hand(row, sampler) for row in after])
    for end in sampler.eos_ids:
        joint[end] = np.where(np.arange(VOCAB) == PAD, first[end], 0.0)  # nothing follows the end of a sequence
    counts = np.bincount(np.asarray(rollout.completion) @ [VOCAB, 1], minlength=VOCAB**2)
    assert_drawn_from(joint.ravel(), counts)


def probabilities_by_hand(logits, sampler):
    logits = np.asarray(logits, np.float64) / sampler.temperature
    kept = np.isin(np.arange(VOCAB), list(kept_by_hand(logits, sampler.top_k, sampler.top_p)))
    weights = np.where(kept, np.exp(logits - logits.max()), 0.0)
    return weights / weights.sum()


def assert_drawn_from(probability, counts, rare=5):
    """Chi-squared, with the cells expected fewer than `rare` times taken together; the impossible never happens."""
    assert (counts[probability == 0] == 0).all()
    expected = counts.sum() * probability / probability.sum()
    often = expected >= rare
    observed = [*counts[often], counts[~often].sum()]
    expected = [*expected[often], expected[~often].sum()]
    if expected[-1] < rare:  # too few even together: with the last cell
        observed[-2:], expected[-2:] = [sum(observed[-2:])], [sum(expected[-2:])]
    assert len(observed) > 2
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("ends", [(EOS,), (EOS, 7), (0, 3, 12)])
def test_a_completion_ends_with_the_first_of_its_end_tokens(make_decoder, family, prompts, ends):
    """Also where padding is one of them."""
    rollout = sampled(make_decoder(family), prompts, samples=40, eos_ids=ends)
    ended = set()
    for tokens, mask in zip(np.asarray(rollout.completion), np.asarray(rollout.mask), strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert not set(ends) & set(tokens[: length - 1].tolist())
        assert tokens[length - 1] in ends or length == len(tokens)
        assert (tokens[length:] == PAD).all()
        ended.add(int(tokens[length - 1]))
    assert ended > set(ends)


def test_padding_may_be_the_end_token(make_decoder, prompts):
    """As in GPT-2: the mask, not the token, says where a completion ends."""
    model = make_decoder()
    one, other = sampled(model, prompts, samples=8), sampled(model, prompts, samples=8, pad_id=EOS)
    np.testing.assert_array_equal(other.mask, one.mask)
    np.testing.assert_array_equal(other.completion, jnp.where(one.mask, one.completion, EOS))


def test_the_loop_ends_with_the_last_row(make_decoder, prompts, monkeypatch):
    """Counted on the host: as many decode steps as the longest completion has tokens."""
    model, calls = make_decoder("gpt2"), []
    monkeypatch.setattr("kljax.models.sampling.draw", counting(draw, calls))
    rollout = sample(model, prompts, jax.random.key(3), Sampler(**PLAIN | {"max_new_tokens": 19, "temperature": 0.5}))
    jax.effects_barrier()
    assert len(calls) == int(rollout.mask.sum(axis=1).max())


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_cache_that_grows_gives_the_samples_of_one_that_is_whole(make_decoder, prompts, monkeypatch, length):
    """In as many stages as there are tokens to cache, and in more."""
    model, rollouts = make_decoder("llama"), []
    for stages in (1, 2, length, 20):
        monkeypatch.setattr("kljax.models.sampling.STAGES", stages)
        sampler = Sampler(**PLAIN | {"max_new_tokens": length, "eos_ids": ()})
        rollouts.append(jax.jit(lambda key, sampler=sampler: sample(model, prompts, key, sampler))(jax.random.key(0)))
    for rollout in rollouts[1:]:
        np.testing.assert_array_equal(rollout.tokens, rollouts[0].tokens)
        np.testing.assert_allclose(rollout.behaviour_logp, rollouts[0].behaviour_logp, rtol=1e-6, atol=1e-6)


def test_attention_reads_the_slots_of_its_stage_alone(make_decoder, prompts):
    """Half of the room for the first half of the tokens: [B, kv_heads, heads/kv_heads, slots] are the scores of a step."""
    sampler, model = Sampler(**PLAIN | {"max_new_tokens": 9}), make_decoder("llama")
    shapes = product_shapes(jax.make_jaxpr(lambda: sample(model, prompts, jax.random.key(0), sampler))().jaxpr)
    config = model.config
    heads = config.kv_heads, config.heads // config.kv_heads
    found = {shape[-1] for shape in shapes if len(shape) == 4 and shape[1:3] == heads}
    assert found == {WIDTH + 4, WIDTH + 8, config.head_dim}


def counting(function, calls):
    def counted(*arguments):
        jax.debug.callback(lambda: calls.append(1))
        return function(*arguments)

    return counted


def test_samples_of_a_prompt_are_adjacent_and_differ(make_decoder, family, prompts):
    rollout = sampled(make_decoder(family), prompts, samples=3)
    tokens = np.asarray(rollout.tokens).reshape(WIDTH, 3, -1)
    np.testing.assert_array_equal(tokens[:, :, :WIDTH], np.repeat(np.asarray(prompts.tokens)[:, None], 3, axis=1))
    assert all(len({tuple(sample) for sample in group}) > 1 for group in tokens)


def test_the_same_key_gives_the_same_samples_and_another_key_others(make_decoder, prompts):
    model = make_decoder()
    np.testing.assert_array_equal(sampled(model, prompts, seed=1).tokens, sampled(model, prompts, seed=1).tokens)
    assert (sampled(model, prompts, seed=1).tokens != sampled(model, prompts, seed=2).tokens).any()


def product_shapes(jaxpr):
    """Shapes of what matrix products give, looking into loops and calls."""
    shapes = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return shapes + [shape for e in jaxpr.eqns for inner in jaxprs_in_params(e.params) for shape in product_shapes(inner)]


def test_a_prompt_is_prefilled_once_for_all_its_samples(make_decoder, prompts):
    """The widest product over prompt positions has one row a distinct prompt, not one a sample."""
    model, samples = make_decoder(), 16
    sampler = Sampler(**PLAIN | {"samples": samples})
    shapes = product_shapes(jax.make_jaxpr(lambda: sample(model, prompts, jax.random.key(0), sampler))().jaxpr)
    assert any(shape[0] == WIDTH for shape in shapes)
    assert not any(shape[0] == WIDTH * samples and WIDTH in shape[1:2] for shape in shapes)


def test_tokens_are_drawn_with_their_probabilities():
    logits = jnp.array(np.random.default_rng(0).normal(size=VOCAB), jnp.float32)
    rows = 20_000
    uniform = jax.random.uniform(jax.random.key(0), (rows,))
    tokens, _ = draw(jnp.broadcast_to(logits, (rows, VOCAB)), uniform, Sampler(**PLAIN))
    counts = np.bincount(np.asarray(tokens), minlength=VOCAB)
    assert_drawn_from(np.asarray(jax.nn.softmax(logits), np.float64), counts)


def test_a_token_has_as_much_of_the_unit_interval_as_it_is_likely():
    """Numbers at equal distances: of a token's share, at most one is lost or won at either end."""
    logits = jnp.array(np.random.default_rng(1).normal(size=VOCAB), jnp.float32)
    rows = 1_000
    tokens, _ = draw(jnp.broadcast_to(logits, (rows, VOCAB)), (jnp.arange(rows) + 0.5) / rows, Sampler(**PLAIN))
    counts = np.bincount(np.asarray(tokens), minlength=VOCAB)
    np.testing.assert_allclose(counts, rows * jax.nn.softmax(logits), atol=1.001)


def test_an_impossible_token_is_never_drawn():
    logits = jnp.full((50_000, 4), -jnp.inf).at[:, 2].set(0.0)
    uniforms = jax.random.uniform(jax.random.key(0), (2, 50_000))
    assert (draw(logits, uniforms[0], Sampler(**PLAIN))[0] == 2).all()
    first_impossible = jnp.tile(jnp.array([-jnp.inf, 0.0, 0.0, -jnp.inf]), (50_000, 1))
    assert set(np.asarray(draw(first_impossible, uniforms[1], Sampler(**PLAIN))[0])) == {1, 2}


def kept_by_hand(logits, top_k, top_p):
    """The tokens that top-k, then top-p leave; distinct logits."""
    order = np.argsort(-logits)
    if top_k:
        order = order[:top_k]
    probability = np.exp(logits[order] - logits[order].max())
    probability /= probability.sum()
    before = np.cumsum(probability) - probability
    return set(order[: max(int((before < top_p - 1e-6).sum()), 1)].tolist())


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, 9, elements=st.floats(-4, 4, width=32, allow_subnormal=False), unique=True),
    st.integers(0, 9),
    st.floats(0.05, 0.95),
)
def test_truncation_keeps_what_it_says(logits, top_k, top_p):
    kept = np.isfinite(np.asarray(truncate(jnp.array(logits)[None], top_k, top_p))[0])
    close = kept_by_hand(logits, top_k, top_p + 2e-6), kept_by_hand(logits, top_k, top_p - 2e-6)
    assert close[1] <= set(np.flatnonzero(kept).tolist()) <= close[0]


def test_truncation_keeps_ties_and_always_the_likeliest():
    tied = jnp.array([[1.0, 1.0, 0.0, -1.0]])
    np.testing.assert_array_equal(jnp.isfinite(truncate(tied, 1, 1.0)), [[True, True, False, False]])
    np.testing.assert_array_equal(jnp.isfinite(truncate(jnp.array([[0.0, 3.0, 1.0]]), 0, 1e-6)), [[False, True, False]])


def test_top_k_of_one_is_greedy(make_decoder, prompts):
    model = make_decoder()
    one, greedy = sampled(model, prompts, top_k=1), sampled(model, prompts, temperature=0.0)
    np.testing.assert_array_equal(one.tokens, greedy.tokens)
