"""What is written as JSON can be read as JSON, by others too."""

import ast
import json
import math
from pathlib import Path

import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kljax.errors import UserError
from kljax.json_text import cell_text, json_text, key_text, shown, strict_json_text, unicode_text

ROOT = Path(__file__).parents[1]
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats()
VALUES = st.recursive(
    NUMBERS | st.text(st.characters(exclude_categories=())), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def finite(value):
    """The oracle: the value with null for what is no number."""
    if isinstance(value, list):
        return [finite(each) for each in value]
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return None if value in (math.inf, -math.inf) or value != value else value


def halves_joined(value):
    """JSON reads two escapes that make a pair as one character."""
    return json.loads(json.dumps(value))


@given(VALUES)
def test_figures_of_any_kind_are_json_in_utf_8_and_come_back(value):
    text = json_text(value)
    assert json.loads(text.encode(), parse_constant=refuse) == halves_joined(finite(value))


@given(VALUES)
def test_settings_come_back_whole_or_are_refused(value):
    if finite(value) == value:
        assert json.loads(strict_json_text(value, "config.json").encode(), parse_constant=refuse) == halves_joined(value)
    else:
        with pytest.raises(UserError, match=r"^config.json: .* is (nan|-?inf), for which JSON has no number"):
            strict_json_text(value, "config.json")


def test_the_refusal_names_the_key():
    with pytest.raises(UserError, match=r"^x/config.json: rope.factors.1 is inf, "):
        strict_json_text({"rope": {"factors": [1.0, math.inf]}}, "x/config.json")


def test_another_reader_takes_it_too(tmp_path):
    rows = [{"a": math.nan, "b": "ï😀\u2028"}, {"a": 1.5, "b": ""}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json_text, rows)), "utf-8")
    assert pyarrow.json.read_json(tmp_path / "rows.jsonl").to_pylist() == finite(rows)


def test_half_a_pair_is_spelled_and_a_whole_one_left():
    assert unicode_text("a\ud83d b 😀 \udc00") == "a\\ud83d b 😀 \\udc00"


def test_texts_to_compare_and_to_show():
    assert key_text({"b": 1, "a": [2.5]}) == key_text({"a": [2.5], "b": 1})
    assert shown({"a": "ï\ud800"}) == '{"a": "\\u00ef\\ud800"}'
    assert shown("x" * 9, longest=4) == '"xxx…'
    with pytest.raises(ValueError, match="JSON"):
        cell_text([math.nan])


def calls_of_json(file):
    """Lines that name json's functions that write, or import them, or json, by another name."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="json"), attr="dump" | "dumps" | "JSONEncoder"):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"
            case ast.ImportFrom(module="json") | ast.alias(name="json", asname=str()):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"
            case ast.alias(name="simplejson" | "orjson" | "ujson"):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_only_one_module_writes_json():
    files = [file for folder in ("kljax", "experiments") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    others = {"json_text.py", "isolated_worker.py"}  # the latter imports no kljax, and writes no file
    found = [place for file in files if file.name not in others for place in calls_of_json(file)]
    assert found == [], "write JSON with kljax.json_text"
    assert list(calls_of_json(ROOT / "kljax" / "json_text.py")), "the search finds what there is"
