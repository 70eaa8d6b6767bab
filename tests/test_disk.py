"""What a disk refuses: one sentence, the old file whole, nothing left beside it. What is a bug keeps its traceback."""

import errno
import os

import pytest

from kljax.command_line import MISTAKE, reporting_mistakes
from kljax.disk import DISK, whole_file, writing_to
from kljax.errors import UserError


@pytest.mark.parametrize("code", DISK, ids=errno.errorcode.get)
def test_each_refusal_is_a_sentence_and_leaves_the_old_file(tmp_path, code):
    file = tmp_path / "result.json"
    file.write_text("old")
    with pytest.raises(UserError) as raised, whole_file(file) as beside:
        beside.write_text("half")
        raise OSError(code, os.strerror(code))
    said = str(raised.value)
    assert said.startswith(f"{file} cannot be written: {DISK[code][0]}; ")
    assert said.endswith(". What was saved before is whole, and the same command goes on from there.")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_library_that_passes_on_the_systems_words_is_understood(tmp_path):
    words = 'RESOURCE_EXHAUSTED: Failed writing "a/0" [OS error 28: ENOSPC No space left on device]'
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be written: no space is left on its disk; "), writing_to(tmp_path):
        try:
            raise ValueError(words)
        except ValueError as error:
            raise RuntimeError("a thread has failed") from error


def test_a_file_elsewhere_is_named_and_a_helper_of_ours_is_not(tmp_path):
    for file, named in ((tmp_path / "run" / ".lock", tmp_path / "run"), ("/elsewhere/file", "/elsewhere/file")):
        with pytest.raises(UserError, match=f"^{named} cannot be written: permission denied"), writing_to(tmp_path / "run"):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))


@pytest.mark.parametrize("bug", [ValueError("no"), OSError("no number"), FileNotFoundError(errno.ENOENT, "no", "file")])
def test_a_bug_stays_a_bug(tmp_path, bug):
    with pytest.raises(type(bug)) as raised, reporting_mistakes(), whole_file(tmp_path / "file"):
        raise bug
    assert raised.value is bug


def test_what_nobody_has_caught_is_a_sentence_at_the_front_door(capsys):
    with pytest.raises(SystemExit) as ended, reporting_mistakes():
        raise OSError(errno.EROFS, "Read-only file system", "/mnt/file")
    assert ended.value.code == MISTAKE
    assert capsys.readouterr().err.startswith("kljax: /mnt/file cannot be opened or written: its disk can only be read; ")


def test_words_alone_are_no_refusal_at_the_front_door():
    with pytest.raises(ValueError), reporting_mistakes():
        raise ValueError("No space left on device")
