"""Rewards in JAX against loops over words."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kljax.config import WordTokenizer
from kljax.data import grammar, tokenizers
from kljax.errors import UserError
from kljax.rewards.device import even_tokens, length, pairs, repetition, sentiment
from kljax.types import Rollout

PROMPT, COMPLETION = 4, 6
FELT = sorted(grammar.VALENCE.keys() | grammar.MODIFIER.keys())
texts = st.lists(st.sampled_from([*FELT, "the", "."]), max_size=COMPLETION)
prompts = st.lists(st.sampled_from([*FELT, "the"]), max_size=PROMPT - 1)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.build(WordTokenizer(kind="words"), grammar.sample_sentences(2000, seed=0))


def rollout(tokenizer, prompts, completions, seed=0):
    """Padding on both sides is drawn from the whole vocabulary: rewards have to look at the masks."""
    ids = tokenizer.get_vocab()
    rows = len(prompts)
    tokens = np.random.default_rng(seed).integers(0, len(tokenizer), (rows, PROMPT + COMPLETION), np.int32)
    prompt_mask, mask = np.zeros((rows, PROMPT), bool), np.zeros((rows, COMPLETION), bool)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        before = [tokenizer.bos_token_id, *(ids[word] for word in prompt)]
        tokens[i, PROMPT - len(before) : PROMPT], prompt_mask[i, PROMPT - len(before) :] = before, True
        tokens[i, PROMPT : PROMPT + len(completion)] = [ids[word] for word in completion]
        mask[i, : len(completion)] = True
    return Rollout(jnp.asarray(tokens), jnp.asarray(prompt_mask), jnp.asarray(mask), jnp.zeros(mask.shape))


def slow_sentiment(prompt, completion):
    total, before = 0.0, prompt[-1] if prompt else "<bos>"
    for word in completion:
        total += grammar.VALENCE.get(word, 0.0) * grammar.MODIFIER.get(before, 1.0)
        before = word
    return total


def slow_repetition(completion):
    bigrams = list(pairwise(completion))
    repeated = sum(bigram in bigrams[:i] for i, bigram in enumerate(bigrams))
    return repeated / len(bigrams) if bigrams else 0.0


@given(prompts=st.tuples(prompts, prompts), completions=st.tuples(texts, texts), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_sentiment_equals_a_loop_over_words(tokenizer, prompts, completions, seed):
    actual = sentiment(tokenizer)(rollout(tokenizer, prompts, completions, seed))
    np.testing.assert_allclose(actual, [slow_sentiment(*texts) for texts in zip(prompts, completions, strict=True)], atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("the plot is", "good .", grammar.VALENCE["good"]),
        ("the plot is", "not good .", -grammar.VALENCE["good"]),
        ("plot is not", "good .", -grammar.VALENCE["good"]),  # the modifier is the prompt's last word
        ("is very good", "not bad .", -grammar.VALENCE["bad"]),  # the prompt's own sentiment does not count
        ("the plot is", "very", 0.0),
        ("", "awful .", grammar.VALENCE["awful"]),
    ],
)
def test_sentiment_of_known_phrases(tokenizer, prompt, completion, expected):
    actual = sentiment(tokenizer)(rollout(tokenizer, [prompt.split()], [completion.split()]))
    np.testing.assert_allclose(actual, [expected], rtol=1e-6)


def test_sentiment_refuses_a_tokenizer_without_the_words(tokenizer):
    other = tokenizers.build(WordTokenizer(kind="words"), ["some other words"])
    with pytest.raises(UserError, match=r"^the tokenizer has no token for .* \('admired', …\).*reward=vader"):
        sentiment(other)


@given(completions=st.tuples(texts, texts, texts))
@settings(deadline=None)
def test_length_is_the_number_of_words(tokenizer, completions):
    actual = length(tokenizer)(rollout(tokenizer, [[]] * 3, completions))
    np.testing.assert_array_equal(actual, [len(completion) for completion in completions])


@given(completions=st.tuples(texts, texts, texts), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_even_tokens_equals_a_count_of_ids(tokenizer, completions, seed):
    ids = tokenizer.get_vocab()
    actual = even_tokens(tokenizer)(rollout(tokenizer, [["good"]] * 3, completions, seed))
    np.testing.assert_array_equal(actual, [sum(ids[word] % 2 == 0 for word in completion) for completion in completions])


few_words = st.lists(st.sampled_from(["good", "bad"]), max_size=COMPLETION)


@given(completions=st.tuples(few_words, few_words, few_words), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_repetition_equals_a_loop_over_bigrams(tokenizer, completions, seed):
    actual = repetition(tokenizer)(rollout(tokenizer, [["good"]] * 3, completions, seed))
    np.testing.assert_allclose(actual, [slow_repetition(completion) for completion in completions], rtol=1e-6)


def test_repetition_of_one_word_said_always(tokenizer):
    completions = [["good"] * n for n in range(COMPLETION + 1)]
    actual = repetition(tokenizer)(rollout(tokenizer, [[]] * len(completions), completions))
    expected = [0, 0, 0, *((n - 2) / (n - 1) for n in range(3, COMPLETION + 1))]  # of n - 1 bigrams only the first is new
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("factory", [sentiment, length, even_tokens, repetition])
def test_rewards_compile_and_are_float32(tokenizer, factory):
    batch = rollout(tokenizer, [["the"], []], [["good", "bad"], ["good"]])
    reward = factory(tokenizer)
    compiled = jax.jit(reward)(batch)
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled, reward(batch), rtol=1e-6)


def test_pairs_is_the_loop_over_adjacent_tokens(tokenizer):
    made = rollout(tokenizer, [["the"], []], [["good", "bad", "very"], ["."]], seed=2)
    values = np.random.default_rng(5).normal(size=(len(tokenizer), len(tokenizer)))
    ids = tokenizer.get_vocab()
    before = [["the", "good", "bad"], [tokenizer.bos_token]]
    after = [["good", "bad", "very"], ["."]]
    expected = [sum(values[ids[a], ids[b]] for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]
    np.testing.assert_allclose(pairs(tokenizer, seed=5)(made), expected, rtol=1e-5)
