"""What is refused of files that came back, and of keys: other pages, second files of a judge, damage. And what is not."""

import json

import pytest

from kljax.analysis.judging import files
from kljax.analysis.judging.page import html
from kljax.errors import UserError
from tests.analysis.judging.conftest import prefers


def read(made, *given):
    return files.read_answers(files.answer_files([str(one) for one in given]), made)


@pytest.mark.parametrize("mode", ["pairwise", "rating"])
def test_a_key_comes_back_as_it_was(make, tmp_path, mode):
    made = make(6, mode=mode, rewards=([1.0] * 6, [2.0] * 6))
    assert files.write_page(made, tmp_path / "out") == tmp_path / "out" / "judge.html"
    assert files.read_key(tmp_path / "out") == made
    assert (tmp_path / "out" / "judge.html").read_text("utf-8") == html(made)
    files.write_page(made, tmp_path / "out")  # the same again


def test_a_page_is_never_written_over_another(make, tmp_path):
    files.write_page(make(6), tmp_path)
    with pytest.raises(UserError, match=r"has the page .* already, whose answers need the key that lies there"):
        files.write_page(make(6, seed=1), tmp_path)
    (tmp_path / "key.json").unlink()
    with pytest.raises(UserError, match=r"has a judge\.html and no key\.json"):
        files.write_page(make(6), tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:200], "cannot be read as the key"),
        (lambda text: text.replace('"a0"', '"b9"'), "was changed: its texts are not those of the page"),
        (lambda text: text.replace('"again"', '"agin"'), "cannot be read as the key"),
        (lambda text: text.replace('"kljax_judging": 1', '"kljax_judging": 2'), "its format is 2, expected 1"),
        (lambda text: "[]", "cannot be read as the key"),
    ],
)
def test_a_damaged_key_is_refused(make, tmp_path, change, says):
    files.write_page(make(4), tmp_path)
    (tmp_path / "key.json").write_text(change((tmp_path / "key.json").read_text()))
    with pytest.raises(UserError, match=says):
        files.read_key(tmp_path)


def test_a_folder_without_a_key_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no key\.json; expected the folder that kljax judge"):
        files.read_key(tmp_path)


def test_files_are_a_folders_a_patterns_or_those_of_a_list(make, save, tmp_path):
    made = make(4)
    both = [save(made, name, prefers("a")) for name in ("ann", "bob")]
    (both[0].parent / "key.json").write_text("{}")
    (both[0].parent / "result.json").write_text("{}")
    for given in (str(both[0].parent), f"{both[0].parent}/???.json", [*map(str, both), str(both[0])]):
        assert files.answer_files(given) == both
    for nothing in ("", [], [""], str(tmp_path), f"{tmp_path}/*.json", str(tmp_path / "no.json")):
        with pytest.raises(UserError, match="expected the files that judges have saved"):
            files.answer_files(nothing)


def test_what_a_judge_said_is_read(make, save):
    made = make(4, repeats=0.0)
    file = save(made, "  Ann  B ", prefers("b"), note=lambda item: 'é\t"\n' if item.pair == 1 else " ")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # an editor's mark
    (ann,) = read(made, file)
    assert ann.judge == "Ann B" and len(ann.choices) == 4
    assert {made.items[i].pair: note for i, note in ann.notes.items()} == {1: 'é\t"\n'}


def test_two_files_of_one_judge_are_refused(make, save):
    made = make(4)
    one, other = (save(made, judge, prefers("a"), name=f"{n}.json") for n, judge in enumerate(("Ann", "ann ")))
    with pytest.raises(UserError, match=r"0\.json and .*1\.json are both of the judge ann; expected one file a judge"):
        read(made, one, other)


def test_answers_of_another_page_are_refused(make, save):
    file = save(make(4, seed=1), "Ann", prefers("a"))
    with pytest.raises(UserError, match=r"has answers of the page .*, the key here is of "):
        read(make(4), file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda v: v["answers"][0].update(choice="second" if v["answers"][0]["choice"] == "first" else "first"),
            "its checksum",
        ),
        (lambda v: v["answers"][0].update(note="I was told to"), "its checksum"),
        (lambda v: v["answers"].pop(), "its checksum"),
        (lambda v: v["answers"][1].update(item=1), "it has item 1 twice"),
        (lambda v: v["answers"][0].update(item=99), "it has the item 99, of 5"),
        (lambda v: v["answers"][0].update(item=True), "it has the item true"),
        (lambda v: v["answers"][0].update(choice="left"), 'it says "left" of item 1'),
        (lambda v: v["answers"][0].update(choice=[1]), "it says"),
        (lambda v: v["answers"][0].pop("note"), "note"),
        (lambda v: v.update(judge=" "), "its judge is"),
        (lambda v: v.update(judge=7), "changed or damaged"),
        (lambda v: v.update(answers="none"), "changed or damaged"),
        (lambda v: v.pop("checksum"), "changed or damaged"),
        (lambda v: v.pop("kljax_judgments"), "is no file of answers"),
    ],
)
def test_damaged_answers_are_refused(make, save, change, says):
    made = make(4)
    file = save(made, "Ann", prefers("a"))
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=says):
        read(made, file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": NaN}', b'{"kljax_judgments": 1', b"null"])
def test_what_is_no_answers_is_one_sentence(make, tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is (damaged|no file of answers)"):
        read(make(4), tmp_path / "x.json")


def test_a_rating_is_a_whole_number_of_one_to_five(make, save):
    made = make(4, mode="rating")
    assert read(made, save(made, "Ann", lambda item: 5))[0].choices == dict.fromkeys(range(len(made.items)), 5)
    for wrong in (0, 6, 2.5, "3", True):
        with pytest.raises(UserError, match="it says"):
            read(made, save(made, "Ann", lambda item, wrong=wrong: wrong))
