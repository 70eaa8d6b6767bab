"""Each writer of a run where a file may be no larger than this: one sentence, and the run goes on when there is room again."""

import errno
import resource
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import to_dict
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.models.huggingface.files import new_directory
from kljax.runs import background, directory, prompt_files
from kljax.runs.board import Board
from kljax.runs.checkpoints import Checkpoints, save_params
from kljax.runs.directory import JsonLines, read_lines
from kljax.runs.lock import one_writer
from kljax.runs.setup import prepare, use_compilation_cache

ROOM = 2000  # bytes a file
STATE = {f"a{i}": jnp.arange(4000.0) * i for i in range(4)}


@pytest.fixture
def no_room():
    """no_room(): from here on a file may have so many bytes (the system's limit, whose error is that of a disk)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda room=ROOM: resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def room(no_room):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def refused(path):
    return pytest.raises(UserError, match=rf"^{path}\S* cannot be written: a file would be larger than ")


def test_a_log_says_so_at_once_and_loses_no_line(tmp_path, no_room, room):
    log = JsonLines(tmp_path / "log.jsonl", 0)
    no_room()
    with refused(tmp_path / "log.jsonl"):
        for step in range(100):
            log.write({"step": step, "text": "x" * 90})
    log.close()
    room()
    there = [line["step"] for line in read_lines(tmp_path / "log.jsonl")]
    assert there == list(range(step)) and step > 10
    log = JsonLines(tmp_path / "log.jsonl", step)
    log.write({"step": step})
    log.close()
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == list(range(step + 1))


def test_tensorboard_neither_hangs_nor_fails_in_a_thread(tmp_path, no_room):
    board = Board(tmp_path / "tensorboard", 0)
    threads = threading.active_count()
    no_room()
    with refused(tmp_path / "tensorboard"):
        for step in range(1000):
            board.write(step, {"a": 1.0})
    board.close()
    assert threading.active_count() == threads
    Board(tmp_path / "other", 0).close()


def test_a_checkpoint_in_the_background(tmp_path, no_room, room, capfd):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, STATE)
    checkpoints.wait()
    no_room()
    with refused(tmp_path / "checkpoints"):
        checkpoints.save(2, STATE)
        checkpoints.wait()
    checkpoints.close()
    room()
    assert "Traceback" not in capfd.readouterr().err
    (tmp_path / "config.yaml").touch()
    with one_writer(tmp_path):  # the same command again
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1"}
    (tmp_path / "config.yaml").unlink()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, STATE)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_parameters_that_do_not_change(tmp_path, no_room, room):
    no_room()
    with refused(tmp_path / "checkpoints" / "reference"):
        save_params(tmp_path, STATE)
    room()
    save_params(tmp_path, STATE)
    assert (tmp_path / "checkpoints" / "reference").is_dir()


def test_prompts_tokenizer_and_what_is_exported(tiny, tmp_path, no_room, room):
    setup = prepare(tiny())
    parts = {"held_out": setup.held_out_prompts()}
    digests = prompt_files.check(tmp_path, parts)
    no_room(300)
    with refused(tmp_path / "data"):
        prompt_files.record(tmp_path, parts, digests, whole=("held_out",))
    with refused(tmp_path / "tokenizer"):
        tokenizers.save(setup.tokenizer, tmp_path / "tokenizer")
    with refused(tmp_path / "config.yaml"):
        directory.create(tmp_path, "rl", to_dict(setup.config) | {"more": "x" * ROOM})
    there = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".manifest"))
    assert there == ["data"], "no half-written directory is left"
    room()
    prompt_files.record(tmp_path, parts, digests, whole=("held_out",))
    np.testing.assert_array_equal(prompt_files.read(tmp_path, "held_out").tokens, parts["held_out"].tokens)
    tokenizers.save(setup.tokenizer, tmp_path / "tokenizer")
    assert tokenizers.load(tmp_path / "tokenizer").get_vocab() == setup.tokenizer.get_vocab()


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr("jax.config.update", given.__setitem__)
    (tmp_path / "file").touch()
    use_compilation_cache(str(tmp_path / "file" / "cache"))
    assert given == {"jax_compilation_cache_dir": None}
    assert capsys.readouterr().out.startswith(
        f"run.compilation_cache: {tmp_path}/file/cache cannot be written (Not a directory)"
    )
    use_compilation_cache(str(tmp_path / "cache"))
    assert given["jax_compilation_cache_dir"] == str(tmp_path / "cache")


EXPORT = """
import sys
from pathlib import Path
from kljax.models.huggingface.files import new_directory
with new_directory(Path(sys.argv[1])) as partial:
    (partial / "config.json").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_of_two_exporters_one_writes_and_what_a_killed_one_leaves_is_removed(tmp_path):
    out = tmp_path / "exported"
    other = subprocess.Popen([sys.executable, "-c", EXPORT, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writing\n"
    with pytest.raises(UserError, match=f"^'{out}' is being written by another process; "), new_directory(out):
        pass
    other.kill()
    other.communicate()
    assert not out.exists() and len(list(tmp_path.iterdir())) == 2
    with new_directory(out) as partial:
        assert not list(partial.iterdir())
        (partial / "config.json").write_text("whole")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "exported",
        "exported/config.json",
    ]


def test_what_is_no_error_of_a_save_is_still_printed(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    background.print_no_tracebacks()
    background.print_no_tracebacks()
    for error in (RuntimeError("Event loop is closed"), OSError(errno.EIO, "of another")):
        sys.unraisablehook(type("Unraisable", (), {"exc_value": error}))
    assert [type(each.exc_value) for each in said] == [OSError]
