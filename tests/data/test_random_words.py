"""Words without meaning: exact numbers of words, each as often as any other, and a tokenizer that has them all."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kljax.command_line import compose
from kljax.config import Config
from kljax.data.random_words import sample_sentences
from kljax.errors import UserError
from kljax.runs.setup import prepare


def test_sentences_are_a_function_of_their_arguments():
    assert sample_sentences(7, 5, 20, seed=1) == sample_sentences(7, 5, 20, seed=1)
    assert sample_sentences(7, 5, 20, seed=1) != sample_sentences(7, 5, 20, seed=2)


@given(words=st.integers(1, 40), length=st.integers(1, 8), count=st.integers(1, 20), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_every_sentence_has_the_length_and_every_word_its_share(words, length, count, seed):
    sentences = [sentence.split(" ") for sentence in sample_sentences(words, length, count, seed)]
    assert [len(sentence) for sentence in sentences] == [length] * count
    often = Counter(word for sentence in sentences for word in sentence)
    assert often.keys() <= {f"w{word}" for word in range(words)}
    share = length * count // words
    assert set(often.values()) <= {share, share + 1}
    assert len(often) == words or length * count < words


def test_a_word_is_uniform_at_every_place():
    words, count = 4, 20_000
    sentences = [sentence.split() for sentence in sample_sentences(words, 3, count, seed=0)]
    standard_error = np.sqrt(0.25 * 0.75 / count)
    for place in range(3):
        often = Counter(sentence[place] for sentence in sentences)
        assert all(abs(often[f"w{word}"] / count - 1 / words) < 5 * standard_error for word in range(words))


def test_too_few_places_for_every_word_are_refused():
    with pytest.raises(UserError, match=r"^data.source.sentences: got 3 of 16 words, .*words=50 .* at least 4, or fewer words"):
        compose(["data/source=random_words", "data.source.words=50", "data.source.sentences=3"], Config)


@pytest.mark.parametrize(("size", "vocab", "prompt"), [("xs", 128, 8), ("s", 4096, 16), ("m", 8192, 32), ("gpu", 32768, 64)])
def test_benchmarks_have_the_vocabulary_and_the_prompts_that_they_say(size, vocab, prompt):
    setup = prepare(compose([f"experiment=benchmark_{size}", "mesh.data=1", "model.layers=1"], Config))
    assert setup.vocab_size == vocab
    mask = setup.prompts().mask
    assert mask.shape[1] == prompt
    assert mask.all()
