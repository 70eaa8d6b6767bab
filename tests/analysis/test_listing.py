"""The table of all runs: what tells each from the others, in words that fit."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kljax.analysis import listing
from kljax.config import to_dict
from kljax.progress import console
from kljax.runs.index import Figures, Run

SCRIPT = Path(__file__).parents[2] / "experiments" / "runs.py"


@pytest.fixture
def row(tiny):
    """row(path, *overrides): a finished run of this config."""

    def make(path, *overrides):
        figures = Figures("held out, step 6", 0.5, 1.25)
        return Run(Path(path), "run", to_dict(tiny(*overrides)), "finished", None, 6, 6, figures, 900.0, 2_500_000)

    return make


def test_each_says_what_tells_it_from_the_others(row):
    runs = [row("a"), row("b", "kl.beta=0.7"), row("c", "kl.beta=0.7", "name=other", "run.log_every=2"), row("d", "seed=3")]
    lost = Run(Path("e"), None, None, "damaged", "e/config.yaml is missing", 0, None, None, 0.0, 0)
    said, usual = listing.varying([*runs, lost])
    assert said == ["kl.beta=0.5, seed=0", "kl.beta=0.7", "kl.beta=0.7", "seed=3", ""]  # one config twice, and none
    assert usual == ["Where a run does not say otherwise: kl.beta=0.5, seed=0."]


def test_one_alone_has_nothing_to_be_told_from(row):
    assert listing.varying([row("a")]) == ([""], [])
    assert listing.varying([]) == ([], [])


def test_fits_are_told_from_fits(row):
    fit = {key: row("a").config[key] for key in ("data", "tokenizer", "model", "pretrain")}
    other = fit | {"pretrain": fit["pretrain"] | {"steps": 7}}
    runs = [row("a"), *(replace(row("b"), kind="fit", config=config, figures=None) for config in (fit, other))]
    said, _ = listing.varying(runs)
    assert said == ["", "pretrain.steps=20", "pretrain.steps=7"]


def test_the_table_has_all_of_it(row):
    lost = Run(Path("lost"), None, None, "damaged", "[bold]no file", 0, None, None, 0.0, 0)
    with console.capture() as captured:
        console.print(listing.table([row("runs/a"), lost], ["kl.beta=0.5", ""], now=1020.0), width=100)
    said = captured.get()
    for part in ("runs/a", "kl.beta=0.5", "6/6", "finished", "0.500", "1.250", "held out", "step 6", "2 min", "2.5 MB"):
        assert part in said, part
    assert "[bold]no file" in said


def test_programs_get_numbers(row):
    lost = Run(Path("lost"), None, None, "damaged", "why", 0, None, None, 0.0, 0)
    first, second = json.loads(listing.json_of([row("a"), lost], ["seed=0", ""], now=1020.0))
    assert first == {
        "path": "a", "kind": "run", "varies": "seed=0", "step": 6, "steps": 6, "best": None, "state": "finished", "note": None,
        "reward": 0.5, "kl": 1.25, "figures": "held out, step 6", "age": 120.0, "size": 2_500_000,
    }  # fmt: skip
    assert second.keys() == first.keys()
    assert (second["state"], second["note"], second["reward"], second["age"]) == ("damaged", "why", None, None)


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (["empty"], 0, "No runs in empty."),
        (["empty", "--json"], 0, "[]"),
        ([], 2, "kljax: runs: no such directory"),
        (["emty"], 2, "Did you mean 'empty'?"),
        (["--help"], 0, "kljax runs --json"),
        (["--jsn"], 2, "unrecognized arguments"),
    ],
)
def test_the_script_answers(given, code, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["runs.py", *given])
    ended = 0
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as ending:
        ended = ending.code or 0
    said = capsys.readouterr()
    assert ended == code
    assert says in said.out + said.err
