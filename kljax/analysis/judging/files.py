"""The files of a judging: judge.html for judges, key.json for whoever asks them, and the files that come back."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kljax.analysis.judging.design import PAIRWISE, RATING, Design, Item, Pair
from kljax.analysis.judging.page import html
from kljax.disk import whole_file, writing_to
from kljax.errors import UserError
from kljax.json_text import json_text, shown, strict_json_text
from kljax.reading import read_bytes, read_json, strict_json

PAGE, KEY, RESULT, TABLE = "judge.html", "key.json", "result.json", "result.md"
FORMAT, KEY_FORMAT = "kljax_judgments", "kljax_judging"
LARGEST = 2**24  # bytes of one file of answers
KEY_LARGEST = 2**28
CHOICES = {PAIRWISE: ("first", "tie", "second"), RATING: (1, 2, 3, 4, 5)}
LONGEST_NAME = 60  # as the page allows


@dataclass(frozen=True)
class Answers:
    """The answers of a judge: choices and notes by item, counted from 0."""

    judge: str
    file: Path
    choices: dict[int, str | int]
    notes: dict[int, str]


def write_page(made: Design, folder: Path) -> Path:
    """The key, then the page. The same design may be written again, never another over it: its key would be lost."""
    if (folder / KEY).exists() and (there := read_key(folder)).page != made.page:
        raise UserError(
            f"out: {folder} has the page {there.page} already, whose answers need the key that lies there; choose another "
            "out=…, or move that folder away."
        )
    if (folder / PAGE).exists() and not (folder / KEY).exists():
        raise UserError(f"out: {folder} has a {PAGE} and no {KEY}; choose another out=…, or move that page away.")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    key = {KEY_FORMAT: 1, "page": made.page, **asdict(made)}
    _write(folder / KEY, strict_json_text(key, str(folder / KEY), indent=1) + "\n")
    _write(folder / PAGE, html(made))
    return folder / PAGE


def write_result(result: Mapping[str, Any], table: str, folder: Path) -> None:
    """result.json, where a figure that is not defined is null, and result.md."""
    _write(folder / RESULT, json_text(result, indent=1) + "\n")
    _write(folder / TABLE, table)


def _write(file: Path, text: str) -> None:
    with whole_file(file) as beside:
        beside.write_text(text, "utf-8")


def read_key(folder: Path) -> Design:
    """The design of the page that was written into this folder."""
    file = folder / KEY
    if not file.exists():
        raise UserError(
            f"out: '{folder}' has no {KEY}; expected the folder that kljax judge a=… b=… out=… has written the page into."
        )
    try:
        values = read_json(file, KEY_LARGEST)
        made = _design(values)
        damaged = made.page != values["page"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"out: {file} cannot be read as the key of a page ({error}); restore it from a copy.") from None
    if damaged:
        raise UserError(
            f"out: {file} was changed: its texts are not those of the page {values['page']}; restore it from a copy."
        )
    return made


def _design(values: Any) -> Design:
    if values[KEY_FORMAT] != 1:
        raise ValueError(f"its format is {shown(values[KEY_FORMAT], 20)}, expected 1")
    pairs = tuple(
        Pair(one["prompt"], {of: one["texts"][of] for of in "ab"}, {of: dict(one["figures"][of]) for of in "ab"})
        for one in values["pairs"]
    )
    items = tuple(Item(one["pair"], tuple(one["shows"]), one["again"]) for one in values["items"])
    names, how = ({of: values[name][of] for of in "ab"} for name in ("names", "how"))
    if values["mode"] not in CHOICES:
        raise ValueError(f"its mode is {shown(values['mode'], 20)}")
    return Design(values["mode"], values["seed"], values["question"], tuple(values["criteria"]), names, how, pairs, items)


def answer_files(given: str | Sequence[str]) -> list[Path]:
    """The files that a file, a folder, a pattern (answers/*.json) or a list of these names; key and result are none."""
    found: list[Path] = []
    asked = [given] if isinstance(given, str) else given
    if not asked or not all(asked):
        raise UserError("score: got nothing, expected the files that judges have saved, or their folder, as in score=answers.")
    for one in asked:
        path = Path(one).expanduser()
        many = path.glob("*.json") if path.is_dir() else map(Path, glob.glob(str(path)))
        files = [path] if path.is_file() else sorted(file for file in many if file.name not in (KEY, RESULT))
        if not files:
            what = "has no *.json with answers in it" if path.is_dir() else "is no file, folder or pattern of files"
            raise UserError(f"score: '{one}' {what}; expected the files that judges have saved, as in score=answers.")
        found += files
    return list(dict.fromkeys(found))


def read_answers(files: Iterable[Path], made: Design) -> list[Answers]:
    """Every file of answers, checked.

    Raises:
        UserError: for a file of another page, one that is damaged, and two of one judge.
    """
    found: dict[str, Answers] = {}
    for file in files:
        one = _answers(file, made)
        name = one.judge.casefold()
        if name in found:
            raise UserError(
                f"score: {found[name].file} and {file} are both of the judge {one.judge}; expected one file a judge: keep the "
                'later one, or, if these are two people, give one of them another name ("judge" in the file).'
            )
        found[name] = one
    return list(found.values())


def _answers(file: Path, made: Design) -> Answers:
    try:
        values = strict_json(read_bytes(file, LARGEST).decode("utf-8-sig"))  # an editor may have put a mark before it
    except (OSError, ValueError) as error:
        raise UserError(f"score: {file} is damaged or no JSON ({error}); ask the judge to save or copy it again.") from None
    if not isinstance(values, dict) or values.get(FORMAT) != 1:
        raise UserError(f"score: {file} is no file of answers; expected one that the page has saved (or move it away).")
    if values.get("page") != made.page:
        raise UserError(
            f"score: {file} has answers of the page {shown(values.get('page'), 20)}, the key here is of {made.page}; give the "
            "out=… of that page, or leave the file out."
        )
    try:
        return _checked(values, file, made)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"score: {file} was changed or damaged on its way ({error}); ask the judge to save or copy it again."
        ) from None


def _checked(values: Mapping[str, Any], file: Path, made: Design) -> Answers:
    judge = " ".join(values["judge"].split())
    if not judge or len(judge) > LONGEST_NAME:
        raise ValueError(f"its judge is {shown(judge, 20)}")
    choices, notes, lines = {}, {}, []
    for one in values["answers"]:
        item, choice, note = one["item"], one["choice"], one["note"]
        if type(item) is not int or not 1 <= item <= len(made.items):
            raise ValueError(f"it has the item {shown(item, 20)}, of {len(made.items)}")
        if item - 1 in choices:
            raise ValueError(f"it has item {item} twice")
        if isinstance(choice, bool) or choice not in CHOICES[made.mode] or not isinstance(note, str):
            raise ValueError(f"it says {shown(choice, 20)} of item {item}")
        choices[item - 1] = choice
        notes |= {item - 1: note} if note.strip() else {}
        lines.append(f"{item}\t{choice}\t{note}\n")
    if checksum(f"{made.page}\n{''.join(lines)}") != values["checksum"]:
        raise ValueError("its checksum is that of other answers")
    return Answers(judge, file, choices, notes)


def checksum(text: str) -> str:
    """FNV-1a of 32 bits over UTF-8, as the page computes it: finds what got lost on the way, and is no signature."""
    digest = 0x811C9DC5
    for byte in text.encode():
        digest = (digest ^ byte) * 0x01000193 % 2**32
    return f"{digest:08x}"
