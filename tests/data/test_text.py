"""Rows of text from files of every kind, their split in three, and what is said of files that are wrong."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kljax.config import DataConfig, GrammarSource, PrefixPrompt, TextSource
from kljax.data import grammar
from kljax.data.text import load_rows, load_splits, whole_column
from kljax.errors import UserError

ROWS = [{"review": f"review number {i}, naïve 😀", "stars": i} for i in range(40)]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "movie_reviews.parquet"


def write_parquet(file, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(file, rows):
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {"parquet": write_parquet, "jsonl": write_jsonl, "json": write_jsonl, "csv": write_csv}


def source(path, column="review", held_out=None, test=None):
    held_out, test = (None if file is None else str(file) for file in (held_out, test))
    return TextSource(kind="text", path=str(path), column=column, split="train", held_out_path=held_out, test_path=test)


def config(path, prompt_fraction=0.2, held_out_fraction=0.1, seed=0, share=(0.0, 1.0), **files):
    return DataConfig(
        source=source(path, **files),
        prompt=PrefixPrompt(kind="prefix", min_tokens=1, max_tokens=4),
        share=list(share),
        prompt_fraction=prompt_fraction,
        held_out_fraction=held_out_fraction,
        seed=seed,
    )


@pytest.fixture
def reviews(tmp_path):
    write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    return tmp_path / "reviews.jsonl"


@pytest.mark.parametrize("kind", WRITERS)
def test_files_of_every_kind_are_read(tmp_path, kind):
    WRITERS[kind](tmp_path / f"reviews.{kind}", ROWS)
    rows = load_rows(source(tmp_path / f"reviews.{kind}"))
    assert rows["review"][:] == [row["review"] for row in ROWS]
    assert rows["stars"][:] == [row["stars"] for row in ROWS]


def test_a_text_file_has_a_row_a_line(tmp_path):
    (tmp_path / "reviews.txt").write_text("one line\n\nanother\n   \nlast")
    assert load_rows(source(tmp_path / "reviews.txt", "text")).to_dict() == {"text": ["one line", "another", "last"]}


def test_brackets_in_a_file_name_are_no_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("this\n")
    (tmp_path / "a1.txt").write_text("not this\n")
    assert load_rows(source(tmp_path / "a[1].txt", "text")).to_dict() == {"text": ["this"]}


def test_rows_without_text_are_dropped_whole(tmp_path):
    texts = ["kept", "", None, "  \n", "kept too"]
    write_jsonl(tmp_path / "reviews.jsonl", [{"review": text, "place": i} for i, text in enumerate(texts)])
    said = []
    rows = load_rows(source(tmp_path / "reviews.jsonl"), say=said.append)
    assert rows.to_dict() == {"review": ["kept", "kept too"], "place": [0, 4]}
    [sentence] = said
    assert "3 of 5 rows" in sentence
    assert sentence.endswith("the first of them row 1.")


def test_every_column_keeps_its_name(tmp_path):
    write_parquet(tmp_path / "reviews.parquet", [{"text": "not this", "review": "this", "stars": 3}])
    rows = load_rows(source(tmp_path / "reviews.parquet"))
    assert rows.to_dict() == {"text": ["not this"], "review": ["this"], "stars": [3]}


@pytest.mark.parametrize("name", ["text", "prompt", "messages", "conversations"])
def test_without_a_name_the_usual_column_is_taken(tmp_path, name):
    value = "a text" if name in ("text", "prompt") else [{"role": "user", "content": "a text"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"other": "x", name: value}] * 20)
    said = []
    splits = load_splits(config(tmp_path / "rows.jsonl", column=None), said.append)
    assert splits.column == name
    assert any(f"'{name}'" in sentence for sentence in said) == (name != "text")


@pytest.mark.parametrize("columns", [("text", "prompt"), ("body",)])
def test_without_a_name_doubt_is_refused(tmp_path, columns):
    write_jsonl(tmp_path / "rows.jsonl", [dict.fromkeys(columns, "x")])
    sentence = complaint(tmp_path / "rows.jsonl", None)
    assert sentence.startswith("data.source.column: null stands for the one of text, prompt, messages, conversations that ")
    assert sentence.endswith(
        f"it has {'text and prompt' if len(columns) > 1 else 'none'}; expected one of its columns: {', '.join(columns)}."
    )


def test_a_column_is_read_whole_and_in_the_order_of_the_rows():
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 2, 3]}).select([2, 0])
    assert whole_column(rows) == ["c", "a"]
    assert whole_column(rows, "label") == [3, 1]
    assert whole_column(rows.select([])) == []


def test_the_grammar_is_a_source():
    rows = load_rows(GrammarSource(kind="grammar", sentences=30, seed=7))
    assert rows["text"][:] == grammar.sample_sentences(30, seed=7)


def test_splits_are_disjoint_and_cover_all_rows(reviews):
    splits = load_splits(config(reviews))
    parts = (splits.train, splits.prompts, splits.held_out)
    assert [len(part) for part in parts] == [28, 8, 4]  # 70 %, 20 % and 10 % of 40
    assert sorted(stars for part in parts for stars in part["stars"]) == list(range(40))
    for part in parts:
        assert all(row["review"] == ROWS[row["stars"]]["review"] for row in part), "columns of one row stay together"


def test_the_split_is_shuffled_by_the_seed_alone(reviews):
    def train(seed):
        return load_splits(config(reviews, seed=seed)).train["stars"][:]

    assert train(1) == train(1)
    assert train(1) != train(2)
    assert train(1) != sorted(train(1))


def stars(*parts):
    return [row for part in parts for row in part["stars"]]


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 8), min_size=3, max_size=3, unique=True).map(sorted), seed=st.integers(0, 2**32 - 1))
def test_disjoint_shares_share_no_row(reviews, places, seed):
    """Eighths of 40 rows: each share has all of its rows, and together they are a share of their own."""
    first, middle, last = (place / 8 for place in places)
    rows = {}
    for share in ((first, middle), (middle, last), (first, last)):
        splits = load_splits(config(reviews, share=share, prompt_fraction=0.0, held_out_fraction=0.2, seed=seed))
        rows[share] = set(stars(splits.train, splits.held_out))
        assert len(rows[share]) == round(40 * share[1]) - round(40 * share[0])
    assert rows[first, middle] | rows[middle, last] == rows[first, last]
    assert not rows[first, middle] & rows[middle, last]


def test_the_whole_is_a_share(reviews):
    """The rows of the whole are those that a run without shares had: its order is the seed's alone."""
    order = np.random.default_rng(0).permutation(40)
    splits = load_splits(config(reviews))
    assert stars(splits.train, splits.prompts, splits.held_out) == order.tolist()


def test_there_need_not_be_prompts(reviews):
    splits = load_splits(config(reviews, prompt_fraction=0.0))
    assert [len(part) for part in (splits.train, splits.prompts, splits.held_out)] == [36, 0, 4]


@pytest.fixture
def other_files(tmp_path):
    for name, first in (("held_out", 100), ("test", 200)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"review": f"another {i}", "stars": i} for i in range(first, first + 5)])
    return {name: tmp_path / f"{name}.jsonl" for name in ("held_out", "test")}


def test_held_out_and_test_rows_may_have_files_of_their_own(reviews, other_files):
    splits = load_splits(config(reviews, **other_files))
    assert stars(splits.held_out) == list(range(100, 105))
    assert stars(splits.test) == list(range(200, 205))
    assert sorted(stars(splits.train, splits.prompts)) == list(range(40)), "no row is kept for what has a file"
    assert load_splits(config(reviews)).test is None


def test_a_share_leaves_other_files_whole(reviews, other_files):
    splits = load_splits(config(reviews, share=(0.5, 1.0), **other_files))
    assert (len(splits.train) + len(splits.prompts), len(splits.held_out), len(splits.test)) == (20, 5, 5)


@pytest.mark.parametrize("which", ["held_out", "test"])
def test_what_is_wrong_with_another_file_is_said_of_its_field(reviews, which):
    missing = reviews.with_name("missing.jsonl")
    with pytest.raises(UserError, match=f"^data.source.{which}_path: no file '{missing}'"):
        load_splits(config(reviews, **{which: missing}))
    with pytest.raises(
        UserError, match=f"^data.source.{which}_path: .* is the file of the training rows, too; expected another"
    ):
        load_splits(config(reviews, **{which: reviews}))


def test_held_out_rows_are_needed(reviews, other_files):
    with pytest.raises(UserError, match=r"^data.source: 40 rows .*held_out_fraction=0.0; expected at least one row in each"):
        load_splits(config(reviews, held_out_fraction=0.0))
    assert len(load_splits(config(reviews, held_out_fraction=0.0, held_out=other_files["held_out"])).held_out) == 5


@pytest.mark.parametrize("fractions", [(0.01, 0.5), (0.5, 0.01), (0.5, 0.495)])
def test_too_few_rows_for_the_split_are_refused(reviews, fractions):
    with pytest.raises(UserError, match=f"^data.source: 40 rows .*prompt_fraction={fractions[0]} .*at least one row in each"):
        load_splits(config(reviews, *fractions))


def complaint(path, column="review"):
    with pytest.raises(UserError) as raised:
        load_rows(source(path, column))
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


def test_a_missing_file_is_named_with_its_nearest_neighbour(reviews):
    sentence = complaint(reviews.with_name("reviws.jsonl"))
    assert sentence.startswith(f"data.source.path: no file '{reviews.parent}/reviws.jsonl'")
    assert sentence.endswith("Did you mean 'reviews.jsonl'?")


def test_a_missing_folder_is_named(tmp_path):
    sentence = complaint(tmp_path / "nowhere" / "reviews.parquet")
    assert sentence == f"data.source.path: no file '{tmp_path}/nowhere/reviews.parquet' (looked in {tmp_path}/nowhere)."


def test_a_missing_column_is_named_with_those_present(reviews):
    sentence = complaint(reviews, "reviw")
    assert sentence == f"data.source.column: {reviews} has no column 'reviw'; it has: review, stars. Did you mean 'review'?"


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.csv", "review,stars\n"), ("a.csv", "\n")]
)
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert complaint(tmp_path / name) == f"data.source.path: {tmp_path}/{name} is empty, expected at least one row."


def test_a_table_without_rows_is_refused(tmp_path):
    parquet.write_table(pyarrow.table({"review": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert "expected at least one row" in complaint(tmp_path / "a.parquet")


def test_a_file_without_any_text_is_refused(tmp_path):
    write_jsonl(tmp_path / "blank.jsonl", [{"review": " "}, {"review": ""}])
    assert complaint(tmp_path / "blank.jsonl") == (
        f"data.source.path: {tmp_path}/blank.jsonl has no text in column 'review', expected at least one row."
    )


def test_a_column_of_numbers_is_refused(reviews):
    assert (
        complaint(reviews, "stars")
        == f"data.source.column: 'stars' of {reviews} holds int in row 0, expected text or a list of messages."
    )


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "reviews.docx").write_text("text")
    sentence = complaint(tmp_path / "reviews.docx")
    assert sentence.startswith(f"data.source.path: '{tmp_path}/reviews.docx' is of an unknown kind, expected one of")
    assert all(suffix in sentence for suffix in (".parquet", ".jsonl", ".csv", ".txt"))


@pytest.mark.parametrize(("name", "content"), [("a.parquet", "no parquet")])
def test_a_broken_file_is_named_once(tmp_path, caplog, name, content):
    datasets.logging.set_verbosity_warning()  # as in a fresh process, where `datasets` would log the same again
    (tmp_path / name).write_text(content)
    assert complaint(tmp_path / name).startswith(f"data.source.path: cannot read the file '{tmp_path}/{name}': ")
    assert caplog.records == []


def test_a_hub_name_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert complaint("someone/reviews").startswith("data.source.path: cannot read the hub data set 'someone/reviews': ")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason=f"needs {SHARED}")
def test_real_reviews_are_read_whole():
    splits = load_splits(replace(config(SHARED), source=source(SHARED, "text")))
    sizes = {name: len(getattr(splits, name)) for name in ("train", "prompts", "held_out")}
    rows = parquet.read_metadata(SHARED).num_rows
    assert sum(sizes.values()) == rows
    assert (sizes["prompts"], sizes["held_out"]) == (round(0.2 * rows), round(0.1 * rows))
    assert {"text", "rating"} <= set(splits.prompts.column_names)
