"""Pairs of texts, pages of them, and answers as judges' browsers would save them."""

import json

import pytest

from kljax.analysis.judging import files
from kljax.analysis.judging.design import design
from kljax.analysis.judging.sources import Source, Written


def source(name, texts, figures=None):
    """Completions of the prompts p0, p1, …; `figures`: rewards."""
    written = [Written(text, {} if figures is None else {"reward": figures[i]}) for i, text in enumerate(texts)]
    return Source(name, f"{name}, made up", {(f"p{i}", 0): one for i, one in enumerate(written)})


@pytest.fixture
def make():
    """make(count, …): a design of so many pairs, of which every text says whose it is."""

    def call(count=10, *, mode="pairwise", prompts=1000, repeats=0.2, seed=0, same=(), rewards=(None, None)):
        texts = [["same" if i in same else f"{who}{i}" for i in range(count)] for who in "ab"]
        a, b = (source(f"runs/{who}", *each) for who, *each in zip("ab", texts, rewards, strict=True))
        return design(a, b, mode=mode, prompts=prompts, repeats=repeats, seed=seed, question="Which?", criteria=["short"])

    return call


@pytest.fixture
def save(tmp_path):
    """save(design, judge, choose): the file of a judge who chooses by item; None is not judged."""

    def call(made, judge, choose, *, name=None, note=lambda item: "", **more):
        said = [(i, choose(item)) for i, item in enumerate(made.items)]
        answers = [{"item": i + 1, "choice": what, "note": note(made.items[i])} for i, what in said if what is not None]
        lines = "".join(f"{one['item']}\t{one['choice']}\t{one['note']}\n" for one in answers)
        values = {"kljax_judgments": 1, "page": made.page, "mode": made.mode, "judge": judge, "items": len(made.items)}
        values |= {"answers": answers, "checksum": files.checksum(f"{made.page}\n{lines}"), **more}
        file = tmp_path / "answers" / (name or f"{judge}.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(values), "utf-8")
        return file

    return call


def prefers(who):
    """A judge who always prefers a, or b."""
    return lambda item: "first" if item.shows[0] == who else "second"
