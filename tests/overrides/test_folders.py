"""Configs of the user's own: found in `configs` of the current folder wherever kljax's are, and never in their place."""

import logging
import os
import shutil
import subprocess
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from kljax import command_line
from kljax.command_line import compose, launch
from kljax.config import Config
from kljax.errors import UserError
from kljax.overrides.folders import CONFIGS, options, own_folder

EXPERIMENT = "# @package _global_\nname: {name}\nsteps: 7\n"
REWARD = "{name}: {{kind: python, function: my.f, weight: 1.0, arguments: {{}}}}\n"


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Hydra sets up the root logger, to a stream that is closed when the test has ended."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """here(path, text): writes a file below configs/ of the current folder, which is an empty one."""
    monkeypatch.chdir(tmp_path)

    def write(path, text):
        file = tmp_path / "configs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def launched(monkeypatch, capsys):
    """launched(*arguments): the configs that the script got, and all that was printed."""

    def run(*arguments):
        seen = []
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.setattr(command_line, "console", command_line.console.__class__(width=80, highlight=False))
        try:
            launch(seen.append, Config)
        except SystemExit as ending:
            assert ending.code in (0, None, command_line.MISTAKE)
        GlobalHydra.instance().clear()
        captured = capsys.readouterr()
        return seen, captured.out + captured.err

    return run


def test_an_experiment_and_a_reward_of_the_current_folder_are_chosen(here):
    here("experiment/mine.yaml", EXPERIMENT.format(name="mine"))
    here("reward/brevity.yaml", REWARD.format(name="brevity"))
    config = compose(["experiment=mine", "reward=[brevity,length]"], Config)
    assert (config.name, config.steps, list(config.reward)) == ("mine", 7, ["brevity", "length"])


def test_an_experiment_of_ones_own_builds_on_one_of_kljaxs(here):
    defaults = "# @package _global_\ndefaults: [enumerable, _self_]\nname: mine\n"
    here("experiment/mine.yaml", defaults)
    config = compose(["experiment=mine"], Config)
    assert (config.name, config.data.source.kind) == ("mine", "letters")


def test_the_folder_is_that_of_the_moment(here, monkeypatch, tmp_path_factory):
    here("experiment/mine.yaml", EXPERIMENT.format(name="mine"))
    assert "mine" in options("experiment")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "mine" not in options("experiment")
    with pytest.raises(UserError, match="no option 'mine'"):
        compose(["experiment=mine"], Config)


def test_kljaxs_own_folder_is_none_of_the_users(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    assert own_folder() is None


@pytest.mark.parametrize(
    "arguments", [["experiment=mine"], ["-m", "experiment=mine", "seed=0,1"], ["-m", "experiment=glob(min*)", "seed=0,1"]]
)
def test_plain_runs_and_sweeps_find_it(here, launched, arguments):
    here("experiment/mine.yaml", EXPERIMENT.format(name="mine"))
    configs, _ = launched(*arguments)
    assert [(config.name, config.seed) for config in configs] == [("mine", 0), ("mine", 1)][: len(configs)]
    assert len(configs) == (2 if "-m" in arguments else 1)


@pytest.mark.parametrize(("arguments", "shown"), [(["--help"], "mine"), (["--cfg=job", "experiment=mine"], "name: mine")])
def test_help_and_cfg_find_it(here, launched, arguments, shown):
    here("experiment/mine.yaml", EXPERIMENT.format(name="mine"))
    configs, said = launched(*arguments)
    assert configs == []
    assert shown in said


def test_the_nearest_name_may_be_the_users(here):
    here("experiment/my_own_task.yaml", EXPERIMENT.format(name="mine"))
    with pytest.raises(UserError, match=r"my_own_task.* Did you mean 'my_own_task'\?"):
        compose(["experiment=my_own_tsk"], Config)


def test_an_option_of_both_is_refused_where_it_is_chosen(here):
    file = here("experiment/enumerable.yaml", EXPERIMENT.format(name="mine"))
    with pytest.raises(UserError) as raised:
        compose(["experiment=enumerable"], Config)
    assert str(raised.value) == f"experiment: kljax has an option 'enumerable', and so has {file}; give yours another name."


def test_an_option_of_both_that_nobody_asked_for_is_kljaxs_and_said_once(here, launched):
    here("model/gpt2.yaml", "kind: nonsense\n")
    here("reward/sentiment.yaml", REWARD.format(name="sentiment"))
    here("model/bert.yaml", "kind: nonsense\n")  # not chosen: nothing to say
    configs, said = launched("-m", "seed=0,1")
    assert [config.model.kind for config in configs] == ["decoder", "decoder"]
    assert said.count("configs/model/gpt2.yaml is not used: model=gpt2 is kljax's own.") == 1
    assert said.count("configs/reward/sentiment.yaml is not used") == 1
    assert "bert.yaml" not in said


def test_a_copy_of_kljaxs_configs_is_no_question(here, launched):
    for group, option in (("experiment", "grammar"), ("model", "gpt2")):
        here(f"{group}/{option}.yaml", (CONFIGS / group / f"{option}.yaml").read_text())
    [config], said = launched("experiment=grammar", "model=gpt2")
    assert (config.name, said) == ("grammar", "")


def test_values_of_the_users_own_in_the_place_of_kljaxs_are_said_to_be_unused(here, launched):
    file = here("config.yaml", (CONFIGS / "config.yaml").read_text())
    here("analyze.yaml", "prompts: 3\n")  # of another command
    assert launched("seed=1")[1] == ""
    file.write_text(file.read_text().replace("beta: 0.5", "beta: 0.7"))
    [config, _], said = launched("-m", "seed=0,1")
    assert config.kl.beta == 0.5
    assert said.count("configs/config.yaml is not used: the values are those of kljax's own.") == 1


def test_a_checkout_has_its_own_folder_and_no_copy_in_the_package(tmp_path):
    root = CONFIGS.parent
    assert root / "configs" == CONFIGS
    assert not (root / "kljax" / "configs").exists()
    for folder in ("kljax", "configs"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    edited = tmp_path / "configs" / "config.yaml"
    edited.write_text(edited.read_text().replace("beta: 0.5", "beta: 0.625"))
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "kljax", "train", "--cfg", "job"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, check=True)
    assert "beta: 0.625" in said.stdout


def test_a_file_with_another_ending_is_named(here):
    file = here("experiment/mine.yml", EXPERIMENT.format(name="mine"))
    with pytest.raises(UserError, match=f"no option 'mine'; {file} is not read, as its name does not end with .yaml"):
        compose(["experiment=mine"], Config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# @package _global_\nname: mine\nkl: {beta: [1,\n", "configs/experiment/mine.yaml: line "),
        ("# @package _global_\nname: mine\n\tsteps: 3\n", "configs/experiment/mine.yaml: line 3, column 1: no YAML ("),
        ("name: mine\nsteps: 7\n", "configs/experiment/mine.yaml: expected '# @package _global_' as its first line"),
        ("# @package _global_\nname: mine\nkl: {bta: 1}\n", "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        ("# @package _global_\nname: mine\nkl: {beta: -1}\n", "kl.beta: got -1, expected a number >= 0"),
        ("# @package _global_\ndefaults: [override /model: gpt5]\nname: mine\n", "model: no option 'gpt5', expected one of "),
        ("- a\n- b\n", "configs/experiment/mine.yaml: expected keys"),
        ("just text\n", "configs/experiment/mine.yaml: expected keys"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(here, launched, text, sentence):
    here("experiment/mine.yaml", text)
    configs, said = launched("experiment=mine")
    assert configs == []
    assert said.count("\n") == 1
    assert sentence in said
