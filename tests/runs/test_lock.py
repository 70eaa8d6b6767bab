"""One writer a directory: real processes, one of them killed, and one thread that enters twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kljax.errors import UserError
from kljax.runs import lock
from kljax.runs.config_file import CONFIG, HOLDER, LOCK
from kljax.runs.lock import one_writer, only_once

PATIENCE = 60  # seconds
HOLD = """
import sys
from pathlib import Path
from kljax.runs.lock import one_writer
with one_writer(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "config.yaml").touch()
    print("held", flush=True)
    sys.stdin.read()
"""
MAKE = """
import sys
from pathlib import Path
from kljax.runs.lock import only_once
path, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
with only_once(path, "the base model") as waited:
    made = not (path / "config.yaml").exists()
    if made:
        print("making", flush=True)
        sys.stdin.read() if slow else None
        (path / "config.yaml").touch()
print(f"waited {waited} made {made}")
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def holder(tmp_path):
    """A process that writes tmp_path/run, until its stdin is closed."""
    process = start(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_writes(holder, tmp_path):
    path = tmp_path / "run"
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(UserError) as raised, one_writer(path):
        pytest.fail("two writers")
    who = json.loads((path / HOLDER).read_bytes())
    assert who["pid"] == holder.pid
    assert str(raised.value).startswith(f"{path} is being written by process {holder.pid} on {who['host']}, since 20")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    holder.communicate()  # it ends
    assert sorted(file.name for file in path.iterdir()) == [LOCK, CONFIG]
    with one_writer(path):
        assert json.loads((path / HOLDER).read_bytes())["pid"] == os.getpid()


def test_what_a_killed_process_held_is_free(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "run" / HOLDER).read_bytes())["pid"] == holder.pid, "it could not say that it ended"
    with one_writer(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / HOLDER).read_bytes())["pid"] == os.getpid()


def test_a_holder_that_has_not_said_who_it_is_is_another_process(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "NAMELESS", 0.0)
    (tmp_path / "run" / HOLDER).write_text("{")
    with pytest.raises(UserError, match="is being written by another process; "), one_writer(tmp_path / "run"):
        pass


def test_another_thread_is_another_writer_and_the_same_one_is_not(tmp_path):
    said = []

    def enter():
        try:
            with one_writer(tmp_path / "run"):
                said.append("two writers")
        except UserError as error:
            said.append(str(error))

    with one_writer(tmp_path / "run"), one_writer(tmp_path / "run"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert f"is being written by process {os.getpid()} on " in said[0]
    enter()  # and now it is free
    assert said[1:] == ["two writers"]


def test_an_error_lets_go_and_what_is_no_run_is_left_as_it_was_found(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    for name in ("new/below/it", "photos", "file"):
        with pytest.raises(ValueError, match="of the run"), one_writer(tmp_path / name):
            raise ValueError("of the run")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["file", "photos", "photos/cat.png"]


def test_one_makes_it_and_the_others_wait(tmp_path):
    first = start(MAKE, tmp_path / "base", "slow")
    assert first.stdout.readline() == "making\n"
    others = [start(MAKE, tmp_path / "base", "fast") for _ in range(2)]
    for other in others:
        said = other.stdout.readline()
        assert said.startswith(f"Waiting for the base model in {tmp_path / 'base'}, on which process {first.pid} on ")
    assert first.communicate()[0] == "waited False made True\n"
    assert all(other.communicate(timeout=PATIENCE)[0].endswith("waited True made False\n") for other in others)


def test_the_one_that_waits_takes_over_from_a_killed_one(tmp_path):
    first = start(MAKE, tmp_path / "base", "slow")
    assert first.stdout.readline() == "making\n"
    other = start(MAKE, tmp_path / "base", "fast")
    assert other.stdout.readline().startswith("Waiting for ")
    first.kill()
    assert other.communicate(timeout=PATIENCE)[0].endswith("making\nwaited True made True\n")
    first.communicate()


def test_ctrl_c_ends_the_waiting(tmp_path):
    first = start(MAKE, tmp_path / "base", "slow")
    assert first.stdout.readline() == "making\n"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), only_once(tmp_path / "base", "the base model"):
        pass
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10
    assert not (tmp_path / "base" / CONFIG).exists()
    first.communicate()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with one_writer(tmp_path / "run"):
        assert Path(tmp_path / "run" / HOLDER).exists()
    assert f"The file system of {tmp_path / 'run'} knows no locks" in capsys.readouterr().out
