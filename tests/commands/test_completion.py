"""What a shell is told to complete: asked of bash itself, in a folder with an experiment of the user's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kljax import commands
from kljax.commands import completion
from kljax.commands.completion import SHELLS
from kljax.interrupt import INTERRUPTED

ROOT = Path(__file__).parents[2]
ASK = r"""
source completion.sh
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE} COMP_WORDS=($COMP_LINE) COMPREPLY=()
    $(complete -p kljax | sed -E "s/.*-F ([^ ]+) kljax/\\1/")
    echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture
def kljax(monkeypatch, capsys):
    """kljax(*arguments): the exit code, and the lines of both streams."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kljax", *arguments])
        code = 0
        try:
            commands.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return call


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_keys_options_and_own_configs(kljax, tmp_path):
    (tmp_path / "completion.sh").write_text("\n".join(kljax("completion", "bash")[1]))
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "grammar_of_mine.yaml").write_text("# @package _global_\nname: mine\n")
    program = tmp_path / "bin" / "kljax"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kljax "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    asked = {
        "kljax tr": "train ",
        "kljax train kl.be": "kl.beta=",
        "kljax train -m experiment=gram": "grammar grammar_of_mine",  # bash's word begins behind the '='
        "kljax runs ru": "",  # files, which bash knows
    }
    told = subprocess.run(
        ["bash", "-c", ASK, "bash", *asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stderr == ""
    assert dict(zip(asked, told.stdout.splitlines(), strict=True)) == asked


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kljax ", list(commands.COMMANDS)),
        ("kljax completion f", ["fish"]),
        ("kljax analyze --mul", ["--multirun"]),
        ("kljax train experiment=grammar ", None),
        ("kljax tr kl.b", []),
        ("kljax train trac", ["track="]),
        ("kljax train track=", ["track=[tensorboard]", "track=[wandb]", "track=[mlflow]"]),
        ("kljax train track=[wandb,m", ["track=[wandb,mlflow]"]),
        ("kljax train kl.penalty=exact,k3", ["kl.penalty=exact,k3_loss", "kl.penalty=exact,k3_reward"]),
        ("kljax train run.unroll_layers=", [f"run.unroll_layers={word}" for word in ("true", "false", "null")]),
        ("kljax train kl.beta=", ["kl.beta=0.5"]),
        ("kljax analyze step=", ["step=latest", "step=best"]),
        ("kljax judge sc", ["score="]),
        ("kljax judge b=ref", ["b=reference"]),
        ("kljax judge mode=", ["mode=pairwise", "mode=rating", "mode=null"]),
        ("kljax judge score=", []),  # files, which a shell knows
    ],
)
def test_the_rest_of_a_line_is_known(kljax, line, expected):
    code, said = kljax("completion", "query", line)
    said = [one.strip() for one in said if one]
    assert code == 0
    if expected is None:  # whatever Hydra knows
        assert {"experiment=", "kl.", "steps="} <= set(said)
    else:
        assert sorted(said) == sorted(expected)


def test_runs_and_their_steps_are_those_on_the_disk(kljax, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (2, 10):
        (Path("runs/grammar/mine/checkpoints") / f"{step}").mkdir(parents=True)
        (Path("runs/grammar/mine/checkpoints") / f"{step}" / "manifest.json").touch()
    Path("runs/grammar/mine/config.yaml").touch()
    for line, expected in {
        "run=": ["run=runs/"],
        "run=runs/g": ["run=runs/grammar/"],
        "run=runs/grammar/": ["run=runs/grammar/mine"],
        "run=runs/grammar/mine step=": ["step=latest", "step=2", "step=10"],
        "run=runs/grammar/mine step=1": ["step=10"],
    }.items():
        assert kljax("completion", "query", f"kljax analyze {line}")[1] == expected


def test_ctrl_c_is_no_answer(kljax, monkeypatch):
    monkeypatch.setattr(completion, "start", lambda name: sys.exit(INTERRUPTED))
    assert kljax("completion", "query", "kljax train kl.b")[0] == INTERRUPTED


@pytest.mark.parametrize("shell", SHELLS)
def test_the_lines_that_hydras_help_names_are_ours(kljax, shell):
    assert kljax("completion", shell) == kljax("train", "-sc", f"install={shell}")
    assert kljax("completion", "uninstall", shell) == kljax("analyze", "--shell-completion", f"uninstall={shell}")


def test_an_unknown_shell_is_a_sentence(kljax):
    assert kljax("completion", "bsh") == (
        2,
        ["kljax: completion: got bsh, expected the name of a shell: bash, zsh, fish. Did you mean 'bash'?"],
    )
    assert kljax("completion")[1][0].startswith("kljax: completion: got nothing, expected ")
