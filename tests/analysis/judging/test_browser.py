"""The page in a browser, as judges have it: from its file to the file that comes back, by keys and by a phone's taps."""

import json
import time

import numpy as np
import pytest

from kljax.analysis.judging import files
from kljax.analysis.judging.design import design
from kljax.analysis.judging.verdict import verdict
from tests.analysis.judging import browser
from tests.analysis.judging.conftest import source
from tests.analysis.judging.test_page import NASTY

pytestmark = pytest.mark.skipif(
    browser.PROGRAM is None, reason="needs a browser: chromium, google-chrome or chrome on the PATH"
)


@pytest.fixture
def chrome(tmp_path):
    with browser.opened(tmp_path) as found:
        yield found


@pytest.fixture
def made(tmp_path):
    a = source("runs/a", NASTY, [float(i) for i in range(len(NASTY))])
    b = source("runs/b", [f"usual {i}" for i in range(len(NASTY))], [0.0] * len(NASTY))
    return design(a, b, mode="pairwise", prompts=99, repeats=0.2, seed=0, question="Which?", criteria=["short"])


def begin(chrome, name):
    chrome.ask(f"document.getElementById('judge').value = {json.dumps(name)}")
    chrome.click("document.getElementById('begin')")
    chrome.until("!document.getElementById('item').hidden")


def at(chrome, item):
    chrome.until(f"document.getElementById('count').textContent === '{item + 1} of {chrome.ask('total')}'")
    time.sleep(0.21)  # a second tap within 0.2 s is none


def shown(chrome):
    """The texts as a judge sees them."""
    return chrome.ask("[...document.querySelectorAll('#prompt p, #two p')].map((p) => p.textContent)")


def as_seen(text):
    return "(empty)" if text == "" else "(only spaces or line breaks)" if not text.strip() else text


def test_a_judge_with_a_keyboard_comes_back(chrome, made, tmp_path):
    """Every key, undo, a note, a stop in the midst and a page that is closed and opened again; then the score."""
    page = files.write_page(made, tmp_path / "out")
    chrome.open(page)
    begin(chrome, "Ann Ö")
    keys = ["1", "2", "ArrowLeft", "ArrowRight", "t", "ArrowDown"]
    means = ["first", "second", "first", "second", "tie", "tie"]
    for i, item in enumerate(made.items):
        at(chrome, i)
        pair = made.pairs[item.pair]
        assert shown(chrome) == [as_seen(text) for text in (pair.prompt, *(pair.texts[of] for of in item.shows))]
        if i == 2:  # a mistake, taken back
            chrome.key("t")
            at(chrome, 3)
            chrome.key("u")
            at(chrome, 2)
        if i == 3:  # its keys are text while the note has the focus
            chrome.key("n")
            for key in "1t2":
                chrome.key(key)
            chrome.key("Escape")
        if i == 5:
            chrome.open(page)
            assert chrome.ask("document.getElementById('earlier').textContent") == f"Go on as Ann Ö (5 of {len(made.items)})"
            chrome.click("document.querySelector('#earlier button')")
            at(chrome, 5)
        chrome.key(keys[i % 6])
    chrome.until("!document.getElementById('end').hidden")
    chrome.click("document.getElementById('save')")
    file = chrome.downloaded()
    assert file.name == f"answers_{made.page}_Ann-Ö.json"
    (answers,) = files.read_answers([file], files.read_key(tmp_path / "out"))
    assert answers.judge == "Ann Ö" and answers.notes == {3: "1t2"}
    assert answers.choices == {i: means[i % 6] for i in range(len(made.items))}
    found = verdict(made, [answers], 0)
    scores = [
        {"first": 1.0, "tie": 0.5, "second": 0.0}[means[i % 6]] if item.shows[0] == "a" else
        {"first": 0.0, "tie": 0.5, "second": 1.0}[means[i % 6]]
        for i, item in enumerate(made.items) if item.again is None
    ]  # fmt: skip
    assert found["win_rate"]["wilson"]["value"] == pytest.approx(np.mean(scores))
    assert chrome.complaints() == []


def test_a_judge_with_a_phone_copies_the_answers(chrome, made, tmp_path):
    """390 pixels wide, in the dark: nothing is wider than the screen, buttons are large, and what is copied is the file."""
    chrome.open(files.write_page(made, tmp_path / "out"), width=390, height=844, dark=True)
    begin(chrome, "Bob")
    for i in range(len(made.items)):
        at(chrome, i)
        assert chrome.ask("document.documentElement.scrollWidth") <= 390
        box = chrome.ask("[...document.querySelectorAll('#choices button')].map((b) => b.getBoundingClientRect().toJSON())")
        assert all(one["height"] >= 44 and one["width"] >= 44 and one["bottom"] <= 844 for one in box)
        chrome.click("document.querySelector('[data-choice=tie]')")
    chrome.until("!document.getElementById('end').hidden")
    chrome.click("document.getElementById('copy')")
    chrome.until("document.getElementById('answers').value !== ''")
    copied = tmp_path / "copied.json"
    copied.write_text(chrome.ask("document.getElementById('answers').value"), "utf-8")
    (answers,) = files.read_answers([copied], made)
    assert set(answers.choices.values()) == {"tie"} and len(answers.choices) == len(made.items)
    assert chrome.complaints() == []


def test_where_the_browser_remembers_nothing_a_file_does(chrome, made, tmp_path, monkeypatch):
    """Storage that is forbidden is said, and the saved file goes on where it stopped; another page's does not."""
    forbidden = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    call, page = chrome.call, files.write_page(made, tmp_path / "out")

    def without_storage(method, **parameters):
        if method == "Page.navigate":
            call("Page.addScriptToEvaluateOnNewDocument", source=forbidden)
        return call(method, **parameters)

    monkeypatch.setattr(chrome, "call", without_storage)
    chrome.open(page)
    assert "remembers nothing" in chrome.ask("document.getElementById('keeps').textContent")
    begin(chrome, "Cy")
    for i in range(2):
        at(chrome, i)
        chrome.key("2")
    at(chrome, 2)
    saved = chrome.ask("answersText()")
    chrome.open(page)
    assert chrome.ask("document.getElementById('earlier').textContent") == ""
    chrome.ask(f"resume(new File([{json.dumps(saved)}], 'x.json'))")
    at(chrome, 2)
    assert chrome.ask("state.answers.map((one) => one.choice).join()") == "second,second" and chrome.ask("state.judge") == "Cy"
    chrome.ask(f"resume(new File([{json.dumps(saved.replace(made.page, 'f' * 12))}], 'x.json'))")
    assert chrome.ask("document.getElementById('message').textContent") == "That file is of another page."
    chrome.ask("resume(new File(['{'], 'x.json'))")
    assert "damaged" in chrome.ask("document.getElementById('message').textContent")
    assert chrome.complaints() == []


def test_ratings_come_back(chrome, tmp_path):
    a, b = source("a", NASTY[:3]), source("b", ["x", "y", "z"])
    made = design(a, b, mode="rating", prompts=9, repeats=0.2, seed=0, question="How good?", criteria=[])
    chrome.open(files.write_page(made, tmp_path / "out"))
    begin(chrome, "Di")
    for i in range(len(made.items)):
        at(chrome, i)
        chrome.key(str(i % 5 + 1))
    chrome.until("!document.getElementById('end').hidden")
    chrome.click("document.getElementById('save')")
    (answers,) = files.read_answers([chrome.downloaded()], made)
    assert answers.choices == {i: i % 5 + 1 for i in range(len(made.items))}
    assert chrome.complaints() == []
