"""The console command: which command it starts, and what it answers where it starts none."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from kljax import __version__, commands
from kljax.commands import COMMANDS, train
from kljax.errors import MISTAKE
from kljax.interrupt import INTERRUPTED

ROOT = Path(__file__).parents[2]
SLOW = """
import sys, time
print("importing", flush=True)
time.sleep(1)
def main(): print("ran")
"""


@pytest.fixture
def kljax(monkeypatch, capsys):
    """kljax(*arguments): the exit code, what is printed, and what is complained of."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["/bin/kljax", *arguments])
        code = 0
        try:
            commands.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_each_command_has_a_module_a_script_and_a_line():
    modules = {file.stem for file in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    scripts = {file.stem for file in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    assert modules == scripts | {"completion"} == COMMANDS.keys()
    for name in modules:
        assert callable(import_module(f"kljax.commands.{name}").main)
    for name in scripts:
        assert f'start("{name}")' in (ROOT / "experiments" / f"{name}.py").read_text()


def test_a_command_gets_the_rest_of_the_line(kljax, monkeypatch):
    monkeypatch.setattr(train, "main", lambda: print(sys.argv))
    assert kljax("train", "-m", "kl.beta=1,2") == (0, "['kljax train', '-m', 'kl.beta=1,2']\n", "")


def test_help_for_a_key_says_that_its_value_is_none(kljax):
    code, said, _ = kljax("train", "--help", "kl.beta", "kl.beta=bad")
    assert code == 0 and "Not valid as given: kl.beta: got 'bad', expected a number" in said
    assert "Not valid" not in kljax("analyze", "--help", "step")[1]  # run is still to be given


def test_each_version_is_kljaxs(kljax):
    assert kljax("-V") == kljax("--version") == (0, f"kljax {__version__}\n", "")
    code, said, _ = kljax("train", "--version")
    assert (code, said.partition(",")[0]) == (0, f"kljax {__version__}")


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"]])
def test_help_has_a_line_for_each_command(kljax, asked):
    code, said, complained = kljax(*asked)
    assert (code, complained) == (0, "")
    for name, does in COMMANDS.items():
        assert f"  {name} " in said
        assert does in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ["trian"],
            "kljax: trian: no such command, expected one of "
            "train, pretrain, analyze, export, frontier, judge, runs, completion.",
        ),
        (["xyz"], "kljax: xyz: no such command, expected one of "),
        (["trian", "-sc", "install=bash"], "kljax: trian: no such command, expected one of "),
        ([""], "kljax: : no such command, expected one of "),
        (["TRAIN"], "kljax: TRAIN: no such command, expected one of train, pretrain, analyze, export, frontier, judge, runs, "),
        (["--verison"], "kljax: --verison: no such option, expected --help, --version or a command: train, "),
        (
            ["train", "-sc"],
            "kljax: --shell-completion: got '', expected install=… or uninstall=… with bash, zsh or fish.",
        ),
        (["train", "-sc", "query=bash"], "kljax: --shell-completion: query=bash is what a shell asks, "),
        (["kl.beta=1"], "kljax: kl.beta=1: got it before a command, expected one of "),
        (["-m", "train"], "kljax: -m: got it before a command, expected one of "),
        (
            ["--help", "train"],
            "kljax: train: got it after --help, expected nothing there; the help of a command is that",
        ),
        (["train", ""], "kljax: got an empty argument, expected key=value."),
        (["analyze", "runs/x"], "kljax: runs/x: got it without a key; expected run=runs/x."),
        (["train", "--help", "hydra.run"], "kljax: --help: got hydra.run, which is Hydra's own; --cfg hydra shows"),
        (["train", "--help", "KL"], "kljax: KL: no such config key. Did you mean 'kl'?"),
        (["--version", "x"], "kljax: x: got it after --version, expected nothing there."),
    ],
)
def test_a_mistake_is_one_sentence(kljax, given, says):
    code, said, complained = kljax(*given)
    assert (code, said) == (MISTAKE, "")
    assert complained.startswith(says)
    assert complained.count("\n") == 1


def test_a_reader_who_has_read_enough_is_no_error(monkeypatch):
    """Of the program's own output; another pipe that breaks is a bug's."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        patch.setattr(sys, "argv", ["kljax"])
        with pytest.raises(SystemExit) as ended:
            commands.main()
    assert ended.value.code == commands.UNREAD
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as there, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", there)
        with pytest.raises(BrokenPipeError), commands.reader_may_leave():
            raise BrokenPipeError
    os.close(reading)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path, number):
    (tmp_path / "slow.py").write_text(SLOW)
    code = f"from kljax import commands; commands.__path__.append({str(tmp_path)!r}); commands.start('slow')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(number)
    assert process.communicate() == ("", "\nInterrupted.\n")
    assert process.returncode == INTERRUPTED
