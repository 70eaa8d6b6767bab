"""Tokenizers: nothing is lost on the way to token ids and back, nor on the way to disk and back."""

import copy

import jax.numpy as jnp
import pytest
import tokenizers as backend
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kljax.config import BpeTokenizer, PretrainedTokenizer, WordTokenizer
from kljax.data import grammar, tokenizers
from kljax.errors import UserError
from kljax.types import Rollout

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


def metaspace():
    """As SentencePiece's: a text begins with a space that its decoding does not show."""
    model = backend.Tokenizer(backend.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = backend.pre_tokenizers.Metaspace(prepend_scheme="first")
    model.decoder = backend.decoders.Sequence(
        [backend.decoders.Replace("▁", " "), backend.decoders.Fuse(), backend.decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    model.train_from_iterator(
        ["the plot was good"], backend.trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def wordpiece():
    """As BERT's: pieces of a word are joined again."""
    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "plot", "##ting", "was", ".", "good"])
    }
    model = backend.Tokenizer(backend.models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer, model.decoder = backend.pre_tokenizers.Whitespace(), backend.decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]"
    )


def cut_at_every_place(tokenizer, text):
    """(prompt, completion) for every place at which the text's tokens can be cut in two."""
    [ids] = tokenizers.encode(tokenizer, [text])
    rows = []
    for cut in range(len(ids) + 1):
        prompt, completion = [tokenizer.bos_token_id, *ids[:cut]], [*ids[cut:], tokenizer.eos_token_id]
        ones = (jnp.ones((1, len(part)), bool) for part in (prompt, completion))
        rollout = Rollout(jnp.array([prompt + completion]), *ones, jnp.zeros((1, len(completion))))
        rows.append(tuple(part[0] for part in tokenizers.completion_texts(tokenizer, rollout)))
        assert tokenizers.completion_ids(rollout) == [completion]
    return rows


@pytest.mark.parametrize("make", [metaspace, wordpiece])
def test_prompt_and_completion_together_are_the_text(make):
    text = "the plotting was good." if make is wordpiece else "the plot was good"
    rows = cut_at_every_place(make(), text)
    assert [prompt + completion for prompt, completion in rows] == [text] * len(rows)
    assert len(set(rows)) == len(rows), "each token is on one side"


@pytest.mark.parametrize("kind", TRAINED)
def test_prompt_and_completion_of_our_own_tokenizers_are_the_text(trained, kind):
    rows = cut_at_every_place(trained[kind], "the plot was good")
    assert [prompt + completion for prompt, completion in rows] == ["the plot was good"] * len(rows)
    assert ("the plot", " was good") in rows


@given(text=ANY_TEXT)
@example("影片很好看 😀")
@settings(deadline=None, max_examples=50)
def test_a_character_that_is_cut_belongs_to_the_completion(trained, text):
    for prompt, completion in cut_at_every_place(trained["bpe"], text):
        assert prompt + completion == text


def test_a_tokenizer_says_what_it_puts_around_a_text(trained):
    for kind in TRAINED:
        assert tokenizers.own_ends(trained[kind]) == ([], [])
        with_ends = tokenizers.with_ends(trained[kind])
        ends = [with_ends.bos_token_id], [with_ends.eos_token_id]
        assert tokenizers.own_ends(with_ends) == ends
        assert with_ends("the plot")["input_ids"] == [*ends[0], *trained[kind]("the plot")["input_ids"], *ends[1]]
        assert tokenizers.with_ends(with_ends) is with_ends


def test_another_id_for_the_same_token_is_refused(trained, tmp_path):
    trained["words"].save_pretrained(tmp_path / "same")
    tokenizers.check_same(tmp_path / "same", trained["words"], "reference.path")
    tokenizers.build(WordTokenizer(kind="words"), ["b a a"]).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"^reference\.path: the model in .* has another tokenizer \(5 tokens"):
        tokenizers.check_same(tmp_path / "other", trained["words"], "reference.path")
    tokenizers.check_same(tmp_path, trained["words"], "reference.path")  # no tokenizer, nothing to compare


def test_a_token_more_on_either_side_is_no_other_tokenizer(trained, tmp_path):
    more = tokenizers.with_ends(trained["words"])
    more.add_tokens(["<|more|>"], special_tokens=True)
    more.save_pretrained(tmp_path)
    tokenizers.check_same(tmp_path, trained["words"], "tokenizer")


def test_a_revision_goes_to_the_hub_and_a_directory_has_none(trained, tmp_path, monkeypatch):
    asked, no_code = [], {"trust_remote_code": False}

    def from_pretrained(name, **options):
        asked.append((name, options))
        return trained["words"]

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    for revision in ("v1", None):
        tokenizers.build(PretrainedTokenizer(kind="pretrained", path="someone/model", revision=revision), [])
    assert asked == [("someone/model", no_code | {"revision": "v1"}), ("someone/model", no_code)]
    with pytest.raises(UserError, match=r"tokenizer.revision: got 'v1', but .* is a directory, which has none; expected null"):
        tokenizers.build(PretrainedTokenizer(kind="pretrained", path=str(tmp_path), revision="v1"), [])


def test_special_tokens_are_known_once_and_again_when_there_are_more(trained):
    tokenizer = copy.deepcopy(trained["bpe"])
    first = tokenizers.special_tokens(tokenizer)
    assert tokenizers.special_tokens(tokenizer) is first
    assert set(first.values()) == {"<pad>", "<bos>", "<eos>"}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    assert "<turn>" in tokenizers.special_tokens(tokenizer).values()
    tokenizer.unk_token = "<turn>"
    assert "<turn>" not in tokenizers.special_tokens(tokenizer).values()
    assert tokenizers.special_tokens(trained["bpe"]) == first
