"""Tokenizers that somebody else has made: no code of theirs runs, and no file of theirs is waited for."""

import io
import json
import os

import pytest

from kljax.config import WordTokenizer
from kljax.data import tokenizers
from kljax.errors import UserError

ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.fixture
def folder(tmp_path):
    tokenizers.build(WordTokenizer(kind="words"), ["a b c d"]).save_pretrained(str(tmp_path / "t"))
    return tmp_path / "t"


def edit(file, change):
    values = json.loads(file.read_text()) if file.exists() else {}
    change(values)
    file.write_text(json.dumps(values))


def complaint(folder):
    with pytest.raises(UserError) as said:
        tokenizers.load(folder)
    return str(said.value)


@pytest.mark.parametrize("answer", ["y\n", "\n"])
@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
def test_code_beside_a_tokenizer_is_never_run(folder, monkeypatch, answer, where):
    marker = folder / "marker"
    code = f"open({str(marker)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast, PreTrainedConfig\n"
    code += "class Own(PreTrainedTokenizerFast): pass\nclass OwnConfig(PreTrainedConfig): model_type = 'own'\n"
    (folder / "own.py").write_text(code)
    if where == "config.json":
        edit(folder / where, lambda c: c.update(model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}))
        edit(folder / "tokenizer_config.json", lambda c: c.pop("tokenizer_class"))
    else:
        edit(folder / where, lambda c: c.update(tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.Own"]}))
    monkeypatch.setattr("sys.stdin", io.StringIO(answer * 5))
    if where == "config.json":  # the tokenizer needs none of it, and is loaded without
        tokenizers.load(folder)
    else:
        assert complaint(folder).startswith(
            f"tokenizer: the tokenizer in '{folder}' has code of its own (auto_map), which kljax"
        )
    assert not marker.exists()
    edit(folder / "tokenizer_config.json", lambda c: (c.pop("auto_map", 0), c.update(tokenizer_class="TokenizersBackend")))
    assert len(tokenizers.load(folder)) == 7  # what the sentence says does help


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "chat_template.jinja", "additional_chat_templates/a.jinja"])
def test_a_fifo_is_not_waited_for(folder, file):
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    assert "it is a FIFO, expected a regular file" in complaint(folder)


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}, 'names "../tokenizer.4.0.0.json"'),
        ("tokenizer_config.json", {"gguf_file": "/etc/passwd"}, "gguf_file in tokenizer_config.json names"),
        ("tokenizer_config.json", {"model_max_length": {}}, "model_max_length is no number"),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(2**31): {"content": "<x>"}}}, "a token has the id 2147483648"),
        ("added_tokens.json", {"<x>": 2**31}, "a token has the id 2147483648"),
        ("added_tokens.json", {"<x>": -1}, "a token has the id -1"),
    ],
)
def test_what_its_files_may_not_say_is_refused(folder, file, values, reason):
    edit(folder / file, lambda c: c.update(values))
    assert reason in complaint(folder)


def test_ids_have_no_wide_gaps_and_narrow_ones_get_their_place(folder):
    edit(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update(z=9))
    assert tokenizers.size(tokenizers.load(folder)) == 10
    edit(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update(z=2**31))
    assert "has 8 tokens, but one of the id 2,147,483,648" in complaint(folder)


def test_a_template_that_never_ends_is_refused(folder, monkeypatch):
    monkeypatch.setattr("kljax.isolated.SECONDS", 0.5)
    tokenizer = tokenizers.load(folder)
    tokenizer.chat_template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match="the chat template takes more than"):
        tokenizers.chat_tokens(tokenizer, [{"role": "user", "content": "a"}], begin_answer=True)
