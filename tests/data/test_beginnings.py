"""A plain call of an exported tokenizer gives the prompts of training, whichever way its class makes what surrounds a text."""

import json

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from kljax.config import BpeTokenizer, WholePrompt, WordTokenizer
from kljax.data import grammar, tokenizers
from kljax.data.batches import prompt_rows
from kljax.data.beginnings import as_trained
from kljax.data.text import TEXT

datasets = pytest.importorskip("datasets")

TEXTS = grammar.sample_sentences(100, 0)
KINDS = {"words": WordTokenizer(kind="words"), "bpe": BpeTokenizer(kind="bpe", vocab_size=300)}


def prompts(tokenizer):
    """As a run makes them."""
    made = prompt_rows(tokenizer, datasets.Dataset.from_dict({TEXT: TEXTS}), WholePrompt(kind="whole", max_tokens=200), 0)
    return [row[mask].tolist() for row, mask in zip(made.tokens, made.mask, strict=True)]


def imported(folder, *, template=None, **config):
    """A tokenizer of somebody's: these changes in its tokenizer_config.json, this processor around its texts."""
    made = tokenizers.build(KINDS["bpe"], TEXTS)
    if template is not None:
        made.backend_tokenizer.post_processor = template
    made.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({key: value for key, value in (json.loads(file.read_text()) | config).items() if value}))
    return tokenizers.load(folder)


def around(single, *tokens):
    named = [(token, {"<bos>": 1, "<eos>": 2}[token]) for token in tokens]
    return processors.TemplateProcessing(single=single, special_tokens=named)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_begins_texts_as_prompts_began(kind, tmp_path):
    """Loaded by transformers; and kljax, which loads it again, puts no second beginning before a prompt."""
    trained = tokenizers.build(KINDS[kind], TEXTS)
    begun = as_trained(trained)
    assert begun.by_itself and "puts <bos> before a text by itself" in begun.sentence
    begun.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == prompts(trained)
    again = tokenizers.load(tmp_path)
    assert prompts(again) == prompts(trained)
    assert tokenizers.encode(again, TEXTS) == tokenizers.encode(trained, TEXTS)
    assert trained(TEXTS[0])["input_ids"] == prompts(trained)[0][1:]  # the run's own is as it was
    assert as_trained(again).sentence is None


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({"tokenizer_class": "GPT2Tokenizer", "bos_token": None}, True),  # its end token is its beginning
        ({"tokenizer_class": "GPTNeoXTokenizer"}, True),  # makes its processor anew when it is loaded
        ({"tokenizer_class": "Qwen2Tokenizer"}, True),
        ({"template": processors.ByteLevel(trim_offsets=False)}, True),
        ({"template": around("<bos> $A", "<bos>")}, False),
        ({"template": around("$A <eos>", "<eos>")}, True),
        ({"template": around("<bos> $A <eos>", "<bos>", "<eos>")}, True),  # as a classifier reads
    ],
    ids=str,
)
def test_an_imported_one_is_changed_only_where_it_begins_otherwise(given, changed, tmp_path):
    tokenizer = imported(tmp_path, **given)
    begun = as_trained(tokenizer)
    assert (begun.tokenizer is not tokenizer) == changed == (begun.sentence is not None)
    begun.tokenizer.save_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS)["input_ids"] == prompts(tokenizer)
    assert prompts(tokenizers.load(tmp_path / "out")) == prompts(tokenizer)


def test_a_chat_has_its_templates_beginning_alone(tmp_path):
    tokenizer = imported(tmp_path, chat_template="{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    begun = as_trained(tokenizer).tokenizer
    begun.save_pretrained(tmp_path / "out")
    chat = [{"role": "user", "content": TEXTS[0]}]
    made = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(chat, return_dict=True)["input_ids"]
    assert made == prompts(tokenizer)[0]
    assert tokenizers.chat_tokens(tokenizers.load(tmp_path / "out"), chat, begin_answer=False) == made


def test_one_that_cannot_be_changed_stays_and_the_sentence_says_so(tmp_path, monkeypatch):
    tokenizer = imported(tmp_path)
    monkeypatch.setattr("kljax.data.beginnings._loaded_again", lambda made: tokenizer)  # a class that undoes it
    begun = as_trained(tokenizer)
    assert begun.tokenizer is tokenizer and not begun.by_itself
    assert begun.sentence.endswith("put it before the text.")
