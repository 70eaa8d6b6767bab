"""The page: nothing in it tells whose a text is, and no text of it is anything but text."""

import json
import re
from html.parser import HTMLParser

import pytest

from kljax.analysis.judging.design import design
from kljax.analysis.judging.page import embedded, html
from tests.analysis.judging.conftest import source

NASTY = [
    "</script><script>alert(1)</script>", "<!--<script>", "<img src=x onerror=alert(1)>", "{{data}} {{script}}",
    "שלום (1)", "😀\u202e", "a\u2028b", "", " \n", "x" * 5000, "&lt;b&gt;", '"\\',
]  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script":
            self.scripts.append(data)


@pytest.fixture
def nasty():
    a = source("runs/secret-a", NASTY, [float(i) for i in range(len(NASTY))])
    b = source("runs/secret-b", [f"usual {i}" for i in range(len(NASTY))], [0.0] * len(NASTY))
    return design(a, b, mode="pairwise", prompts=99, repeats=0.2, seed=0, question="<b>Which</b>?", criteria=["</ul>"])


def test_texts_are_data_and_come_back_as_they_were(nasty):
    page = html(nasty)
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not [tag for tag, _ in elements.found if tag in ("img", "b", "link", "iframe")]
    data = json.loads(elements.scripts[0])
    assert data == {"id": nasty.page, **nasty.shown}
    assert {text for _, *texts in data["items"] for text in texts} >= set(NASTY)


def test_nothing_tells_whose_a_text_is(nasty):
    page = html(nasty)
    data = json.loads(Elements(page).scripts[0])
    assert data.keys() == {"id", "mode", "question", "criteria", "items"}
    assert all(len(item) == 3 for item in data["items"])
    assert "secret" not in page and "reward" not in page


def test_it_loads_and_sends_nothing(nasty):
    page = html(nasty)
    elements = Elements(page).found
    (policy,) = [at["content"] for _, at in elements if at.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not [at for _, at in elements if {"src", "href", "action", "srcset"} & at.keys()]
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", page)


@pytest.mark.parametrize("text", NASTY)
def test_embedded_json_has_no_character_that_html_knows(text):
    written = embedded([text])
    assert json.loads(written) == [text] and not set("<>&\u2028\u2029") & set(written)


def test_each_control_has_a_name():
    page = html(
        design(
            source("a", ["x"]), source("b", ["y"]), mode="pairwise", prompts=1, repeats=0.0, seed=0, question="?", criteria=()
        )
    )
    labelled = set(re.findall(r'<label for="([\w-]+)"', page))
    controls = [at for tag, at in Elements(page).found if tag in ("input", "textarea")]
    assert controls and {at["id"] for at in controls} == labelled
    assert '<html lang="en">' in page and 'name="viewport"' in page
