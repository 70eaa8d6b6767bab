"""Programs without end, and without measure."""

import time

import pytest
from transformers import PreTrainedTokenizerFast

from kljax import isolated

CHAT = [{"role": "user", "content": "hi"}]
DOUBLED = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"


def render(template, seconds=isolated.SECONDS, **variables):
    return isolated.call("render", template, CHAT, {"add_generation_prompt": True}, variables, seconds=seconds)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than 1 seconds"),
        ("{{ 'a' * 10**8 }}", "makes a text of more than"),
    ],
)
def test_a_template_without_end_is_stopped_and_the_next_is_rendered(template, reason):
    began = time.monotonic()
    with pytest.raises(isolated.Stopped, match=reason):
        render(template, seconds=1.0 if "for" in template else 5.0)
    assert time.monotonic() - began < 10
    assert render("{{ messages[0].content }}{{ x }}", x=1) == "hi1"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (DOUBLED, "memory"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{{ raise_exception('not so') }}", "not so"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_cannot_do_is_said(template, said):
    with pytest.raises(isolated.Failed, match=said):
        render(template)


def test_a_template_is_rendered_as_by_transformers():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{{ tools | tojson }}"
        "{% if add_generation_prompt %}\n  assistant:{% endif %} é\U0001f600"
    )
    tools = [{"name": "f", "parameters": {"type": "object"}}]
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, tools=tools)
    assert render(tokenizer.chat_template, tools=tools, eos_token="<eos>") == expected


def test_a_regular_expression_without_end_is_stopped():
    assert isolated.call("matching", "(a+)+b", ["aab", "c"]) == ["aab"]
    with pytest.raises(isolated.Stopped, match=r"takes more than 0.2 seconds"):
        isolated.call("matching", "(a+)+b", ["a" * 60], seconds=0.2)


def _tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="a"))
