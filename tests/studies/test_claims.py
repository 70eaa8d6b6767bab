"""The claims of CLAIMS.md: every row holds, every stated figure is a row, and a wrong row is not passed over."""

import csv
import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from experiments.studies.claims import control, estimators, figures, gradients, table
from experiments.studies.claims.__main__ import main
from experiments.studies.claims.row import Claim, Row
from kljax.errors import UserError
from kljax.kl import controllers
from kljax.kl.estimators import k2

ROOT = Path(__file__).parents[2]
STATED = ROOT.parent / "shared" / "CLAIMS.md"
CHECKS = {f"{number}-{check.__name__}": (number, check) for number, checks in table.CLAIMS.items() for check in checks}
GIVEN = {
    # numbers of three digits or more that are no results: a tolerance, an n, samples a step, a horizon
    9: {512, 10_000},
    6: {1000},
    3: {1e-12},
}
A_ROW = Claim(1, "a test").equal("a row", 1.0, 1.25, 0.5)
WRONG = Claim(1, "a test").equal("a wrong row", 1.0, 1.25, 0.125)


@cache
def rows_of(check):
    return check()


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_can_be_called_alone_and_every_row_of_it_holds(name):
    number, check = CHECKS[name]
    rows = rows_of(check)
    assert rows
    assert {row.claim for row in rows} == {number}
    assert [row for row in rows if not row.ok] == []


def test_the_table_has_all_claims_and_no_row_twice():
    rows = [row for _, check in CHECKS.values() for row in rows_of(check)]
    assert {row.claim for row in rows} == set(range(1, 12))
    names = [(row.claim, row.what, row.relation) for row in rows]
    assert len(set(names)) == len(names)


@pytest.mark.shared
@pytest.mark.skipif(not STATED.exists(), reason="needs ../shared/CLAIMS.md")
@pytest.mark.parametrize("number", table.CLAIMS)
def test_every_figure_that_is_stated_is_a_row(number):
    """Numbers of three digits or more in the claim's section, years and papers apart."""
    section = re.search(rf"^## {number}\. (.*?)(?=^## )", STATED.read_text(), re.M | re.S)[1]
    text = re.sub(r"arXiv:\S+|\b20\d\d\b", "", section).replace("−", "-").replace("**", "")
    figures = {
        float(figure) for figure in re.findall(r"(?<![\w.])-?\d*\.?\d+(?:e-?\d+)?", text) if len(re.sub(r"\D", "", figure)) > 2
    }
    expected = [row.expected for check in table.CLAIMS[number] for row in rows_of(check)]
    missing = {figure for figure in figures - GIVEN.get(number, set()) if not np.isclose(figure, expected, rtol=1e-12).any()}
    assert missing == set()


@pytest.mark.parametrize(
    ("relation", "obtained", "ok"),
    [
        ("=", 1.25, True), ("=", 0.75, True), ("=", 1.26, False), ("=", 0.74, False), ("=", math.nan, False),
        ("≤", -9.0, True), ("≤", 1.25, True), ("≤", 1.26, False), ("≤", math.nan, False),
        ("≥", 9.0, True), ("≥", 0.75, True), ("≥", 0.74, False), ("≥", math.nan, False), ("≥", math.inf, True),
    ],
)  # fmt: skip
def test_a_row_holds_within_its_tolerance(relation, obtained, ok):
    assert Row(1, "x", "a test", relation, 1.0, obtained, 0.25).ok is ok


@pytest.mark.parametrize(("stated", "tolerance"), [("1.386294", 5e-7), ("20.000", 5e-4), ("4.64e-4", 5e-7), ("-.25", 5e-3)])
def test_a_stated_figure_is_right_to_half_of_its_last_digit(stated, tolerance):
    row = Claim(1, "a test").figure("x", stated, float(stated))
    assert row.tolerance == pytest.approx(tolerance)
    assert row.expected == float(stated)


def failing(check):
    return [row.what for row in check() if not row.ok]


def test_a_wrong_estimator_is_noticed(monkeypatch):
    monkeypatch.setitem(estimators.ESTIMATORS, "k3", k2)
    assert any("k3: bias" in what for what in failing(estimators.schulmans_table))


def test_a_wrong_penalty_is_noticed(monkeypatch):
    monkeypatch.setitem(gradients.ALL, "k2_loss", gradients.ALL["k3_loss"])
    assert failing(gradients.sequence_against_token) == ["k2_loss: logit of token 1"]


def test_a_wrong_controller_is_noticed(monkeypatch):
    monkeypatch.setattr(control, "adaptive", lambda *values: controllers.fixed(values[0]))
    assert "saturated above: factor a step" in failing(control.saturated_controller)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_each_figure_is_a_picture_with_its_numbers(name, tmp_path):
    (picture,) = figures.write([name], tmp_path)
    assert picture == tmp_path / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
    assert len(table) >= 10
    numbers = [float(value) for row in table for value in row.values() if re.fullmatch(r"[-+.e\d]+|nan|inf", value)]
    assert len(numbers) >= 2 * len(table)
    assert all(map(math.isfinite, numbers))


@pytest.mark.parametrize(("rows", "code"), [([A_ROW], 0), ([A_ROW, WRONG], 1)])
def test_the_script_fails_where_a_row_does(rows, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(table, "CLAIMS", {1: (lambda: rows,)})
    monkeypatch.setattr(figures, "FIGURES", {})
    assert main(["--out", str(tmp_path / "new" / "folder")]) == code
    written = tmp_path / "new" / "folder" / "claims.json"
    assert table.read_json(written) == rows
    assert [each["ok"] for each in json.loads(written.read_text())] == [row.ok for row in rows]
    shown = capsys.readouterr().out
    assert ("NO" in shown) == (code == 1)
    assert f"1 of {len(rows)} rows hold." in shown


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        main(["--out", str(tmp_path / "file")])


def test_rows_survive_json(tmp_path):
    rows = rows_of(estimators.rao_blackwell_can_have_more_variance)
    table.write_json(rows, tmp_path / "claims.json")
    assert table.read_json(tmp_path / "claims.json") == rows
