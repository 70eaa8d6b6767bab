"""Every value is what the file says: CSV, JSON and text as they stand there, of one file, several, a pattern or a directory."""

import gzip
import json
import os

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kljax.config import TextSource
from kljax.data.text import load_rows
from kljax.errors import UserError


def source(path, column="text", **changes):
    plain = {"split": "train", "held_out_path": None, "test_path": None}
    return TextSource(kind="text", path=path if isinstance(path, list) else str(path), column=column, **plain | changes)


def read(path, column="text", said=None, **changes):
    return load_rows(source(path, column, **changes), say=(lambda _: None) if said is None else said.append).to_dict()


def complaint(path, column="text", **changes):
    with pytest.raises(UserError) as raised:
        read(path, column, **changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def written(file, text, encoding="utf-8"):
    file.write_bytes(text.encode(encoding))
    return file


MISSING = ["NA", "N/A", "null", "NULL", "None", "nan", "NaN", "-nan", "n/a", "#N/A", "<NA>", "", "true", "1e5x", "inf", "-"]


def test_words_that_pandas_takes_for_missing_are_words(tmp_path):
    rows = "".join(f"a text,{word}\n" for word in MISSING)
    found = read(written(tmp_path / "a.csv", f"text,word\n{rows}"))
    assert found["word"] == MISSING
    assert len(found["text"]) == len(MISSING)


fields = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(lambda text: text == text.strip())


@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=6))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fields_of_a_csv_come_back_as_text(tmp_path, rows):
    """Quoted, with a letter before them: so that none is a number or nothing."""
    quoted = [[f"x{field}".replace('"', '""') for field in row] for row in rows]
    file = written(tmp_path / "a.csv", "text,other\n" + "".join(f'"{a}","{b}"\n' for a, b in quoted))
    found = read(file)
    assert list(zip(found["text"], found["other"], strict=True)) == [(f"x{a}", f"x{b}") for a, b in rows]


def test_columns_of_numbers_are_numbers_and_it_is_said(tmp_path):
    said = []
    text = "text,whole,number,code,mixed,gap\na,1,1.5,007,1,1\nb,-20,2,010,x,\n"
    found = read(written(tmp_path / "a.csv", text), said=said)
    assert found == {
        "text": ["a", "b"],
        "whole": [1, -20],
        "number": [1.5, 2.0],
        "code": ["007", "010"],
        "mixed": ["1", "x"],
        "gap": ["1", ""],
    }
    [sentence] = said
    assert "whole (whole numbers), number (numbers); all other columns are text" in sentence


def test_the_text_column_stays_text(tmp_path):
    assert read(written(tmp_path / "a.csv", "text\n1\n2\n"))["text"] == ["1", "2"]


@pytest.mark.parametrize(("row", "line", "count"), [("a", 3, 1), ("a,b,c", 3, 3), ('"a\nb","c","d"', 4, 3)])
def test_a_line_with_another_number_of_fields_is_refused_by_its_number(tmp_path, row, line, count):
    sentence = complaint(written(tmp_path / "a.csv", f"text,label\nx,y\n{row}\nx,y\n"))
    assert sentence.startswith(f"data.source.path: line {line} of '{tmp_path}/a.csv' has {count} fields, the header has 2")


@pytest.mark.parametrize("text", ['text\n"open\n', 'text,b\n"a"b,c\n'])
def test_quotes_that_do_not_close_are_refused(tmp_path, text):
    assert "is no CSV" in complaint(written(tmp_path / "a.csv", text))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    assert "has the column 'text' twice" in complaint(written(tmp_path / "a.csv", "text,text\na,b\n"))


def test_the_index_that_pandas_writes_is_a_column(tmp_path):
    assert read(written(tmp_path / "a.csv", ",text\n0,a\n1,b\n")) == {"Unnamed: 0": [0, 1], "text": ["a", "b"]}


@pytest.mark.parametrize(("separator", "name"), [(";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), ("\t", "a.tsv")])
def test_the_separator_is_guessed_from_the_header_and_said(tmp_path, separator, name):
    said = []
    found = read(written(tmp_path / name, f"text{separator}label\na, b{separator}x\n"), said=said)
    assert found == {"text": ["a, b"], "label": ["x"]}
    assert any(repr(separator) in sentence for sentence in said) == (name == "a.csv")


def test_the_separator_of_the_config_counts(tmp_path):
    file = written(tmp_path / "a.csv", "text,x;label\na;b\n")
    assert read(file, "text,x", separator=";") == {"text,x": ["a"], "label": ["b"]}
    assert "expected one character" in complaint(file, separator=";;")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_are_found_or_asked_for(tmp_path, suffix, encoding):
    body = {"csv": "text\nnaïve\n", "jsonl": '{"text": "naïve"}\n', "txt": "naïve\n"}[suffix]
    file = written(tmp_path / f"a.{suffix}", body, encoding)
    if encoding == "cp1252":
        assert complaint(file).startswith(f"data.source.encoding: '{file}' is not utf-8")
        assert read(file, encoding="cp1252")["text"] == ["naïve"]
        assert "expected the name of an encoding" in complaint(file, encoding="cp12522")
    else:
        assert read(file)["text"] == ["naïve"]


def test_strings_of_json_stay_strings(tmp_path):
    rows = [{"text": "2020-01-01", "when": "2009-08-09T10:00:00", "id": "007", "n": 3, "deep": {"day": "2020-01-01"}}]
    found = read(written(tmp_path / "a.jsonl", json.dumps(rows[0]) + "\n"))
    assert found == {name: [value] for name, value in rows[0].items()}


def test_values_of_two_types_keep_theirs(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "x"}, {"text": "c", "label": True}]
    found = read(written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert list(map(repr, found["label"])) == ["1", "'x'", "True"]


VALUES = [
    "abc",
    5,
    5.0,
    True,
    None,
    "007",
    2**63 - 1,
    9007199254740993,
    [1, 2.5],
    {"day": "2020-01-01"},
    [],
    '"q"',
    "null",
    1e22,
]


@pytest.mark.parametrize("padding", [0, 1100], ids=["small", "of more than one block"])
def test_values_are_what_the_file_shows_wherever_they_stand(tmp_path, padding):
    """`datasets` reads blocks of 10 MB, and would give each the types of the first."""
    rows = [{"text": "a" * 10_000, "x": "abc", "time": "noon"}] * padding + [{"text": "b", "x": x, "late": x} for x in VALUES]
    found = read(written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert list(map(repr, found["x"][padding:])) == list(map(repr, VALUES))
    assert list(map(repr, found["late"])) == list(map(repr, [None] * padding + VALUES))
    assert padding == 0 or found["time"] == ["noon"] * padding + [None] * len(VALUES)


def test_a_file_is_read_as_it_is_now(tmp_path):
    """Also where its time is that of what was there before, as after cp -p."""
    for name, one, other in (("a.csv", "text\nold\n", "text\nnew\n"), ("a.jsonl", '{"text": "old"}', '{"text": "new"}')):
        file = written(tmp_path / name, one)
        assert read(file)["text"] == ["old"]
        times = file.stat()
        os.utime(written(file, other), ns=(times.st_atime_ns, times.st_mtime_ns))
        assert read(file)["text"] == ["new"]


@pytest.mark.parametrize("value", [[2**64], {"a": [2**70]}, [float("nan")]], ids=repr)
def test_nested_numbers_that_would_change_are_refused(tmp_path, value):
    assert "row 0 of" in complaint(written(tmp_path / "a.jsonl", json.dumps({"text": "a", "x": value})))


def test_files_of_other_columns_or_types_are_refused(tmp_path):
    for name, values in (("a", {"text": ["x"], "n": [1]}), ("b", {"text": ["y"], "n": ["1"]}), ("c", {"text": ["z"]})):
        datasets.Dataset.from_dict(values).to_parquet(str(tmp_path / f"{name}.parquet"))
    for other, said in (("b", "column 'n' is string in"), ("c", "column 'n' is not there in")):
        assert said in complaint([str(tmp_path / "a.parquet"), str(tmp_path / f"{other}.parquet")])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_each_file_has_its_own_byte_order_mark(tmp_path, suffix):
    body = {"csv": "text\nx\n", "jsonl": '{"text": "x"}\n', "txt": "x\n"}[suffix]
    paths = [
        str(written(tmp_path / f"{i}.{suffix}", body, encoding)) for i, encoding in enumerate(("utf-8", "utf-8-sig", "utf-32"))
    ]
    assert read(paths)["text"] == ["x"] * 3


def test_long_ids_of_a_csv_are_kept(tmp_path):
    text = "text,id,huge,big\na,1234567890123456789,12345678901234567890,1e400\nb,1234567890123456790,1,1\n"
    found = read(written(tmp_path / "a.csv", text))
    assert found["id"] == [1234567890123456789, 1234567890123456790]
    assert (found["huge"], found["big"]) == (["12345678901234567890", "1"], ["1e400", "1"])


def test_odd_lines_of_a_csv_are_read_as_they_are(tmp_path):
    long = "y" * 200_000
    found = read(written(tmp_path / "a.csv", f'\n\n"a;b";text\r\n1;"{long}"\r\n\n2;"two\nlines"\r\n'), said=[])
    assert found == {"a;b": [1, 2], "text": [long, "two\nlines"]}


def test_a_file_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n" + b"abc\n" * 1000)[:-20])
    assert "cannot be unpacked" in complaint(tmp_path / "a.csv.gz")
    assert "is no JSON" in complaint(written(tmp_path / "a.jsonl", "[" * 100_000))


def test_brackets_in_the_name_of_a_directory_are_no_pattern(tmp_path):
    parts(tmp_path / "d[1]", "a.parquet")
    assert read(tmp_path / "d[1]")["text"] == ["a.parquet"]
    assert read(f"{tmp_path}/d[[]1]")["text"] == ["a.parquet"]


def test_a_saved_data_set_comes_without_its_authors_format(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    rows.with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d") == {"text": ["a"], "label": [1]}
    assert "data.source.encoding" in complaint(tmp_path / "d", encoding="utf-8")


@pytest.mark.parametrize("path", ["", "missing.csv.bz2", "missing*.csv"])
def test_what_is_no_hub_name_is_not_taken_for_one(path):
    assert complaint(path).startswith("data.source.path: ")
    assert "hub data set" not in complaint(path)


def test_a_number_of_more_than_64_bits_is_refused(tmp_path):
    sentence = complaint(written(tmp_path / "a.jsonl", f'{{"text": "a", "id": {2**63}}}\n'))
    assert f"in column 'id' the number {2**63}, more than 64 bits" in sentence
    assert read(written(tmp_path / "b.jsonl", f'{{"text": "a", "id": {2**63 - 1}}}\n'))["id"] == [2**63 - 1]


@pytest.mark.parametrize(("text", "said"), [('{"text": "a"}\n{"text": \n', "line 2"), ('{"text": "a"}\n\n[1]\n', "line 3")])
def test_a_line_that_is_no_object_is_named(tmp_path, text, said):
    assert f"data.source.path: {said} of" in complaint(written(tmp_path / "a.jsonl", text))


def test_a_list_of_objects_is_read(tmp_path):
    file = written(tmp_path / "a.json", '[\n{"text": "a"},\n {"text": "b"}]')
    assert read(file) == {"text": ["a", "b"]}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_compressed_files_are_read(tmp_path, suffix):
    body = {"csv": "text\nNA\n", "jsonl": '{"text": "NA"}\n', "txt": "NA\n"}[suffix]
    (tmp_path / f"a.{suffix}.gz").write_bytes(gzip.compress(body.encode()))
    assert read(tmp_path / f"a.{suffix}.gz") == {"text": ["NA"]}


def parts(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"text": [name]}).to_parquet(str(folder / name))


def test_several_files_a_pattern_and_a_directory_are_read_in_order(tmp_path):
    parts(tmp_path / "d.parquet", "b.parquet", "a.parquet")
    both = {"text": ["a.parquet", "b.parquet"]}
    assert read(tmp_path / "d.parquet") == read(tmp_path / "d.parquet" / "*.parquet") == both
    assert read([str(tmp_path / "d.parquet" / f"{name}.parquet") for name in "ba"]) == {"text": ["b.parquet", "a.parquet"]}


def test_a_directory_whose_files_name_their_split_has_splits(tmp_path):
    parts(tmp_path, "train-0.parquet", "train-1.parquet", "test-0.parquet")
    said = []
    assert read(tmp_path, said=said)["text"] == ["train-0.parquet", "train-1.parquet"]
    assert said == [f"data.source.path: 2 files of '{tmp_path}' are the split train; not read: test-0.parquet."]
    assert read(tmp_path, split="test")["text"] == ["test-0.parquet"]
    assert "has no files of a split 'dev'; it has: train, test." in complaint(tmp_path, split="dev")


def test_files_of_several_kinds_are_refused(tmp_path):
    parts(tmp_path, "a.parquet")
    written(tmp_path / "b.csv", "text\nx\n")
    assert "of several kinds (csv, parquet)" in complaint([str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")])
    assert "of several kinds" in complaint(tmp_path)


def test_an_empty_directory_and_a_pattern_of_nothing_are_refused(tmp_path):
    assert "is a directory without data files" in complaint(tmp_path)
    assert "no file" in complaint(tmp_path / "*.csv")


@pytest.mark.parametrize("splits", [False, True])
def test_what_save_to_disk_wrote_is_read(tmp_path, splits):
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    (datasets.DatasetDict({"train": rows, "dev": rows.map(lambda row: {"text": "b"})}) if splits else rows).save_to_disk(
        tmp_path / "d"
    )
    assert read(tmp_path / "d") == {"text": ["a"]}
    if splits:
        assert read(tmp_path / "d", split="dev") == {"text": ["b"]}
    assert "split" in complaint(tmp_path / "d", split="other")


@pytest.mark.parametrize(
    "changes", [{"split": "test"}, {"subset": "x"}, {"revision": "main"}, {"separator": ";"}, {"encoding": "utf-8"}]
)
def test_a_field_that_a_file_has_no_use_for_is_refused(tmp_path, changes):
    parts(tmp_path, "a.parquet")
    [name] = changes
    assert complaint(tmp_path / "a.parquet", **changes).startswith(f"data.source.{name}: got ")


@pytest.mark.parametrize("changes", [{"separator": ";"}, {"encoding": "utf-8"}])
def test_a_field_that_the_hub_has_no_use_for_is_refused(changes):
    [name] = changes
    assert complaint("someone/reviews", **changes).startswith(f"data.source.{name}: got ")


def test_the_hub_gets_subset_split_and_revision(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read("someone/reviews", subset="en", split="dev", revision="v1")
    assert asked == [(("someone/reviews", "en"), {"split": "dev", "revision": "v1"})]


def test_a_mixture_of_texts_and_conversations_is_refused_with_its_row(tmp_path):
    rows = [{"text": "a"}, {"text": [{"role": "user", "content": "b"}]}]
    sentence = complaint(written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert "holds list in row 1, expected text, as in row 0" in sentence


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user"}], "a message whose content is None, expected text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message whose content is [{'type': 'image'}], expected text"),
        ([{"speaker": "user", "text": "a"}], "a message with the keys speaker, text, expected role and content"),
        ([], "[], expected a list of messages"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_refused_with_its_row(tmp_path, messages, said):
    good = [{"role": "user", "content": "a"}]
    rows = [{"messages": good}, {"messages": messages}]
    sentence = complaint(written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), "messages")
    assert sentence.startswith(f"data.source.column: row 1 of {tmp_path}/a.jsonl holds {said}")
