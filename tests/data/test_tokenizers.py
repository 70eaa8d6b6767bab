"""Tokenizers: nothing is lost on the way to token ids and back, nor on the way to disk and back."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kljax.config import BpeTokenizer, PretrainedTokenizer, WordTokenizer
from kljax.data import grammar, tokenizers
from kljax.errors import UserError

VOCAB = 300
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates are no Unicode text
TRAINED = {"words": WordTokenizer(kind="words"), "bpe": BpeTokenizer(kind="bpe", vocab_size=VOCAB)}


@pytest.fixture(scope="module")
def sentences():
    return grammar.sample_sentences(2000, seed=0)


@pytest.fixture(scope="module")
def trained(sentences):
    return {kind: tokenizers.build(config, sentences) for kind, config in TRAINED.items()}


def round_trip(tokenizer, texts):
    return tokenizers.decode(tokenizer, tokenizers.encode(tokenizer, texts))


@pytest.mark.parametrize("kind", TRAINED)
def test_sentences_come_back(trained, sentences, kind):
    assert round_trip(trained[kind], sentences[:200]) == sentences[:200]


def test_words_tokenizer_has_one_token_a_word(trained, sentences):
    tokenizer = trained["words"]
    assert set(tokenizer.get_vocab()) == {*grammar.WORDS, *tokenizers.SPECIAL.values()}
    assert [len(row) for row in tokenizers.encode(tokenizer, sentences[:50])] == [len(s.split()) for s in sentences[:50]]


def test_words_tokenizer_keeps_every_word():
    words = {f"word{i}" for i in range(40_000)}  # the trainer's own limit is 30,000
    tokenizer = tokenizers.build(WordTokenizer(kind="words"), [" ".join(sorted(words))])
    assert tokenizer.get_vocab().keys() == words | set(tokenizers.SPECIAL.values())


def test_a_word_outside_the_vocabulary_is_named_with_the_way_out(trained):
    with pytest.raises(UserError, match=r"^tokenizer: the text has the word 'zz', .*tokenizer=bpe") as raised:
        tokenizers.encode(trained["words"], ["the plot", "the zz plot"])
    assert "\n" not in str(raised.value)


@given(text=ANY_TEXT)
@example("I 😀 it — 10/10 👩‍👩‍👧, naïve café, ünïcödé, 評価, مراجعة")
@example("  two  spaces,\ttabs,\r\nlines\n\n and \x00 nul \x85 ")
@settings(deadline=None, max_examples=200)
def test_bytes_of_any_text_come_back(trained, text):
    assert round_trip(trained["bpe"], [text]) == [text]


def test_special_tokens_spelled_in_a_text_are_plain_text(trained):
    text = "I <eos> it <pad>"
    [row] = tokenizers.encode(trained["bpe"], [text])
    assert not set(row) & set(trained["bpe"].all_special_ids)
    assert tokenizers.decode(trained["bpe"], [row]) == [text]


def test_bpe_vocabulary_has_the_size_asked_for(trained):
    assert len(trained["bpe"]) == VOCAB


@pytest.mark.parametrize("kind", TRAINED)
def test_special_tokens_are_distinct_and_outside_the_text(trained, sentences, kind):
    tokenizer = trained[kind]
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(set(special)) == len(special)
    assert set(special) == set(tokenizer.all_special_ids)
    used = {token for row in tokenizers.encode(tokenizer, sentences) for token in row}
    assert used.isdisjoint(special)
    assert max(used) < len(tokenizer)


@pytest.mark.parametrize("kind", TRAINED)
def test_special_tokens_are_left_out_of_text(trained, kind):
    tokenizer = trained[kind]
    [row] = tokenizers.encode(tokenizer, ["the plot"])
    surrounded = [tokenizer.pad_token_id, tokenizer.bos_token_id, *row, tokenizer.eos_token_id]
    assert tokenizers.decode(tokenizer, [surrounded]) == ["the plot"]


def test_no_texts_give_no_rows(trained):
    assert tokenizers.encode(trained["words"], []) == []


@pytest.mark.parametrize("kind", TRAINED)
def test_a_saved_tokenizer_gives_the_same_ids(trained, sentences, tmp_path, kind):
    before = trained[kind]
    before.save_pretrained(tmp_path)
    after = tokenizers.build(PretrainedTokenizer(kind="pretrained", path=str(tmp_path)), [])
    assert tokenizers.encode(after, sentences[:100]) == tokenizers.encode(before, sentences[:100])
    assert after.get_vocab() == before.get_vocab()
    for role in tokenizers.SPECIAL:
        assert getattr(after, f"{role}_id") == getattr(before, f"{role}_id")
    assert round_trip(after, sentences[:100]) == sentences[:100]


def save_with(trained, path, **special):
    PreTrainedTokenizerFast(tokenizer_object=trained["bpe"].backend_tokenizer, **special).save_pretrained(path)


def test_missing_padding_and_beginning_fall_back_to_the_end_token(trained, tmp_path):
    save_with(trained, tmp_path, eos_token="<eos>")
    loaded = tokenizers.load(tmp_path)
    assert loaded.eos_token_id == trained["bpe"].eos_token_id
    assert loaded.pad_token_id == loaded.bos_token_id == loaded.eos_token_id
    assert len(loaded) == VOCAB, "no token was added"


def test_an_encoders_tokenizer_begins_with_cls_and_ends_with_sep(trained, tmp_path):
    """Under other names, so that the fall-back to the end token would be seen."""
    save_with(trained, tmp_path, cls_token="<bos>", sep_token="<eos>", pad_token="<pad>")
    loaded, bpe = tokenizers.load(tmp_path), trained["bpe"]
    assert (loaded.bos_token_id, loaded.eos_token_id) == (bpe.bos_token_id, bpe.eos_token_id)
    assert loaded.pad_token_id == bpe.pad_token_id
    assert len(loaded) == VOCAB, "no token was added"


def test_a_decoders_own_tokens_come_before_cls_and_sep(trained, tmp_path):
    save_with(trained, tmp_path, bos_token="<bos>", eos_token="<eos>", cls_token="<pad>", sep_token="<pad>")
    loaded, bpe = tokenizers.load(tmp_path), trained["bpe"]
    assert (loaded.bos_token_id, loaded.eos_token_id) == (bpe.bos_token_id, bpe.eos_token_id)


@pytest.mark.parametrize("kind", TRAINED)
def test_a_mask_token_can_be_asked_for(trained, sentences, kind):
    assert trained[kind].mask_token_id is None
    masked = tokenizers.build(TRAINED[kind], sentences, tokenizers.SPECIAL | tokenizers.MASK)
    assert masked.mask_token_id in masked.all_special_ids
    assert round_trip(masked, sentences[:50]) == sentences[:50]
    used = {token for row in tokenizers.encode(masked, sentences) for token in row}
    assert masked.mask_token_id not in used


def test_a_tokenizer_without_end_token_is_refused(trained, tmp_path):
    save_with(trained, tmp_path, bos_token="<bos>")
    with pytest.raises(UserError, match=f"^tokenizer.path: the tokenizer in '{tmp_path}' has no end-of-sequence token"):
        tokenizers.load(tmp_path, field="tokenizer.path")


def test_an_unknown_path_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"^tokenizer.path: cannot load a tokenizer from '{tmp_path}/nowhere' .*directory"):
        tokenizers.build(PretrainedTokenizer(kind="pretrained", path=f"{tmp_path}/nowhere"), [])


def test_a_directory_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"cannot load a tokenizer from '{tmp_path}' .* Expected a directory with"):
        tokenizers.load(tmp_path)


def test_a_revision_goes_to_the_hub_and_a_directory_has_none(trained, tmp_path, monkeypatch):
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options))
        return trained["words"]

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    for revision in ("v1", None):
        tokenizers.build(PretrainedTokenizer(kind="pretrained", path="someone/model", revision=revision), [])
    assert asked == [("someone/model", {"revision": "v1"}), ("someone/model", {})]
    with pytest.raises(UserError, match=r"tokenizer.revision: got 'v1', but .* is a directory, which has none; expected null"):
        tokenizers.build(PretrainedTokenizer(kind="pretrained", path=str(tmp_path), revision="v1"), [])
