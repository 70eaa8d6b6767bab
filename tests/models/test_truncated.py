"""KLs under top-k and top-p against every completion listed, in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.kl import divergences
from kljax.models.decoder import causal_mask, positions_of
from kljax.models.sampling import Sampler, sample_jit
from kljax.models.scoring import score
from kljax.models.truncated import reverse_kl_of
from kljax.types import Prompts

VOCAB, EOS, LENGTH, TEMPERATURE = 13, 2, 3, 3.0
PROMPT = np.array([[1, 5, 7]])


def next_tokens(model):
    """By prefix of a completion, the whole distribution after it at the temperature, float64."""
    found = {}
    for length in range(LENGTH):
        prefixes = list(itertools.product(range(VOCAB), repeat=length))
        tokens = jnp.array([[*PROMPT[0], *prefix] for prefix in prefixes], jnp.int32)
        mask = jnp.ones(tokens.shape, bool)
        hidden, _ = model(tokens, positions_of(mask), causal_mask(mask))
        weights = np.exp(np.asarray(model.logits(hidden)[:, -1], np.float64) / TEMPERATURE)
        found |= dict(zip(prefixes, weights / weights.sum(axis=1, keepdims=True), strict=True))
    return found


def cut(p, top_k, top_p):
    """p without all but the likeliest, by a loop; renormalised."""
    order = np.argsort(-p)
    kept = order[:top_k] if top_k else order
    within, mass, chosen = p[kept] / p[kept].sum(), 0.0, []
    for token, share in zip(kept, within, strict=True):
        if mass < top_p:
            chosen.append(token)
        mass += share
    cut = np.zeros_like(p)
    cut[chosen] = p[chosen] / p[chosen].sum()
    return cut


def sequence_kl(policy, reference, top_k, top_p):
    """Σ P′(y) log P′(y)/Q(y) over whole completions, P′ the product of cut distributions."""
    ours = {prefix: cut(p, top_k, top_p) for prefix, p in next_tokens(policy).items()}
    theirs = next_tokens(reference)
    total, mass = 0.0, 0.0
    for tokens in itertools.product(range(VOCAB), repeat=LENGTH):
        end = tokens.index(EOS) + 1 if EOS in tokens else LENGTH
        if any(tokens[end:]):
            continue  # of what follows the end one spelling
        p, q = (math.prod(each[tokens[:i]][tokens[i]] for i in range(end)) for each in (ours, theirs))
        if p:
            total, mass = total + p * math.log(p / q), mass + p
    assert mass == pytest.approx(1.0, abs=1e-9)
    return total


@pytest.mark.parametrize("top_k, top_p", [(3, 1.0), (0, 0.5), (4, 0.7)])
def test_states_that_are_visited_sum_to_the_kl_of_sequences(make_decoder, top_k, top_p):
    policy, reference = make_decoder("gpt2", 0), make_decoder("gpt2", 1)
    graphdef, params = nnx.split(policy)
    sampler = Sampler(
        samples=4096, max_new_tokens=LENGTH, temperature=TEMPERATURE, top_k=top_k, top_p=top_p, eos_ids=(EOS,), pad_id=0
    )
    prompts = Prompts(jnp.array(PROMPT, jnp.int32), jnp.ones((1, 3), bool))
    rollout = sample_jit(graphdef, nnx.to_pure_dict(params), prompts, jax.random.key(0), sampler)
    scores = jax.jit(lambda r: score(policy, reference, r, 4096, TEMPERATURE, reverse_kl_of(top_k, top_p)))(rollout)
    each, whole = (
        np.where(rollout.mask, np.asarray(kl, np.float64), 0.0).sum(axis=1) for kl in (scores.divergence, scores.reverse_kl)
    )
    expected, error = sequence_kl(policy, reference, top_k, top_p), each.std() / 64
    assert each.mean() == pytest.approx(expected, abs=4 * error)
    assert abs(whole.mean() - expected) > 8 * error  # what is wrong: whole distributions in the states of the cut policy


def test_each_state_is_that_of_the_cut_distribution(make_decoder):
    rng = np.random.default_rng(0)
    logits, others = rng.normal(size=(2, 5, 4, VOCAB)).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) for x in (logits, others))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    for top_k, top_p in ((1, 1.0), (3, 1.0), (0, 0.4), (5, 0.6)):
        kept = np.apply_along_axis(cut, -1, p, top_k, top_p)
        expected = np.sum(np.where(kept > 0, kept * (np.log(np.where(kept > 0, kept, 1.0)) - np.log(q)), 0.0), axis=-1)
        np.testing.assert_allclose(reverse_kl_of(top_k, top_p)(jnp.array(logits), jnp.array(others)), expected, rtol=2e-5)


def test_without_a_cut_it_is_the_reverse_kl():
    assert reverse_kl_of(0, 1.0) is divergences.reverse_kl
