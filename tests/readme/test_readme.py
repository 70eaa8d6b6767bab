"""No command rots: each that Markdown, Makefile, configs or scripts print is accepted, and the README's run in a short form."""

import argparse
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kljax import command_line
from kljax.command_line import compose, launch
from kljax.commands import COMMANDS
from kljax.config import Config
from kljax.errors import UserError
from kljax.runs.board import SETTINGS
from kljax.training import loop
from tests.e2e.test_scripts import call
from tests.readme import fixtures
from tests.readme.commands import ROOT, Command, all_commands, in_markdown, scripts
from tests.readme.plans import NOT_RUN, given_to, leftovers, plan, script_of, without_environment

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
PLANS = list({plan(command).words: plan(command) for command in all_commands()}.values())
README = {}
for one in map(plan, in_markdown()):
    if one.skipped is None and one.long is None:
        README.setdefault(without_environment(one.words), one)
REST = [one for one in PLANS if without_environment(one.words) not in README]

SHORT = [
    "steps=2",
    "optimizer.warmup_steps=0",
    "rollout.prompts=4",
    "rollout.samples=2",
    "rollout.max_new_tokens=8",
    "evaluation.prompts=4",
    "evaluation.samples=2",
    "run.save_every=1",
    "run.sample_every=1",
    "mesh.data=1",
]
SHORT_FIT = ["pretrain.steps=2", "pretrain.eval_every=1", "pretrain.batch=8", "pretrain.optimizer.warmup_steps=1"]
SMALL = ["model.layers=1", "model.d_model=16", "model.heads=2", "model.kv_heads=2"]
WHOLE = {
    # one of each kind is taken from its beginning to its evaluation; the others up to where the first program would be compiled
    r"train\.py *$": "runs/grammar/default",
    r"path=reviews\.csv .* tokenizer=bpe": "runs/mine/bpe",
    r"model=huggingface .*adapter=lora": "runs/mine/lora",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with what a reader has there: the files that the README shows, and models in the place of DIR."""
    folder = tmp_path_factory.mktemp("clone")
    fixtures.write(folder)
    fixtures.write_models(folder)
    return folder


@pytest.fixture
def here(clone, monkeypatch):
    """In that folder."""
    monkeypatch.chdir(clone)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.syspath_prepend(str(clone))
    return clone


def short(overrides: list[str]) -> list[str]:
    """What makes the run of these overrides one of a second."""
    config = compose([one for one in overrides if one != "-m"], Config) if "-m" not in overrides else None
    counted = config is not None and config.run.oracle_every  # a task that is listed whole is as long as it is
    added = [one for one in SHORT if not (counted and one.startswith("rollout.max_new_tokens"))]
    if config is None or config.data.source.kind == "grammar":
        added += ["data.source.sentences=400"]
    if config is None or config.model.kind == "decoder":
        added += SMALL
    if config is None or config.pretrain.steps:
        added += SHORT_FIT
    if config is not None and config.tokenizer.kind == "bpe":
        added += ["tokenizer.vocab_size=300"]
    return added


def accept(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose and validate every job of the command, or let its parser read it; start nothing."""
    words = without_environment(words)
    script = script_of(words)
    if script is None:
        PROGRAMS[words[0]](words)
        return

    def read_only(script, schema, config_name="config"):
        launch(lambda config: None, schema, config_name)

    for module in (command_line, *map(import_module, (f"kljax.commands.{name}" for name in COMMANDS))):
        monkeypatch.setattr(module, "launch", read_only, raising=False)
    first_job_only(monkeypatch)
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, arguments=None, namespace=None):
        found = parse(parser, arguments, namespace)
        if sys._getframe(1).f_globals["__name__"].startswith(("__main__", "kljax.commands.")):
            raise Accepted(found)
        return found  # Hydra's own

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    try:
        call(script, *given_to(words))
    except Accepted as accepted:
        for overrides in accepted.overrides():
            compose(overrides, Config)


class Accepted(Exception):
    """A parser has read its command line."""

    def overrides(self) -> list[list[str]]:
        """Those of the configs that the script would make."""
        (found,) = self.args
        given = list(getattr(found, "overrides", []))
        if isinstance(size := getattr(found, "size", None), list):
            return [[f"experiment=benchmark_{one}", *given] for one in size]
        experiment = getattr(found, "experiment", "enumerable")
        return [[f"experiment=benchmark_{size}" if size else f"experiment={experiment}", *given]]


def accept_make(words):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(words[1:]) <= set(targets), words


def accept_pip(words):
    assert words[1] == "install", words
    for word in words[2:]:
        if extras := re.search(r"\[(.*)\]", word):
            assert set(extras[1].split(",")) <= EXTRAS.keys(), words
    assert not {"-c", "--constraint"} & set(words) or "constraints.txt" in words, words


def accept_bash(words):
    assert (ROOT / words[1]).is_file(), words


def accept_tensorboard(words):
    assert [found.value for found in entry_points(group="console_scripts", name="tensorboard")], "it is not installed"
    assert words[1] == "--logdir", words


def accept_marimo(words):
    assert words[1] == "edit" and (ROOT / words[2]).is_file(), words


PROGRAMS: dict[str, Callable[[tuple[str, ...]], None]] = {
    "make": accept_make,
    "pip": accept_pip,
    "bash": accept_bash,
    "tensorboard": accept_tensorboard,
    "marimo": accept_marimo,
}


def test_commands_are_found_where_they_are():
    """Each place has some, and a kind of block that nobody knows is none that could hide a command."""
    found = all_commands()
    for place in ("README.md", "docs/models.md", "docs/performance.md", "Makefile", "configs/experiment/sst2.yaml"):
        assert any(command.file == place for command in found), place
    named = {script_of(plan(command).words) for command in in_markdown()}
    others = {"experiments.studies.convergence", "experiments.studies.overoptimisation", "experiments.benchmarks.gpu"}
    assert named >= set(scripts()) - others, "those have a make or bash command"
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        kinds = set(re.findall(r"^```(\w*)\n", file.read_text("utf-8"), re.MULTILINE))
        assert kinds <= {"sh", "python", "csv", ""}, file


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_a_reason_not_to_run_holds_for_some_command(pattern):
    assert any(re.search(pattern, command.text) for command in all_commands())


@pytest.mark.parametrize("one", REST, ids=lambda one: str(one.command)[:80])
def test_every_other_command_is_accepted(one, here, monkeypatch):
    assert not leftovers(one.words), f"{one.command}: what does the placeholder stand for? See tests/readme/plans.py"
    script = script_of(one.words)
    known = script in scripts()
    assert known or without_environment(one.words)[0] in PROGRAMS, f"{one.command}: no such command is known to this test"
    accept(one.words, monkeypatch)


def test_every_command_runs_in_a_short_form(here, monkeypatch, compilation_cache):
    """In the order of README and docs, so that what one needs another has made."""
    failed = {}
    for one in sorted(README.values(), key=lambda one: whole(one) is None and script_of(one.words) == "train.py"):
        try:
            run_short(one, monkeypatch, compilation_cache)
        except Exception as error:  # to say all that fail
            failed[str(one.command)] = str(error)[-600:]
    assert not failed, "\n\n".join(f"{command}\n{error}" for command, error in failed.items())
    for path in WHOLE.values():
        assert (here / path / "evaluation" / "step_000002.json").exists(), path
    assert (here / "exported" / "adapter_config.json").exists()  # of the last export
    check_printed(here, monkeypatch)
    check_json(here)
    board = EventAccumulator(str(here / "runs/grammar/default/tensorboard")).Reload()
    assert board.SummaryMetadata(SETTINGS).plugin_data.content, "TensorBoard is told what the run is"
    assert [event.step for event in board.Tensors("kl/reverse_exact_by_position")] == [0, 1]


def run_short(one, monkeypatch, cache):
    script = script_of(one.words)
    given = given_to(one.words) if script else []
    where = f"compilation_cache={cache}"
    if script and "--help" in given:
        call(script, *given)
    elif script == "train.py":
        run_train(one, given, [*short(given), f"run.{where}"], monkeypatch)
    elif script == "pretrain.py":
        call(script, *given, *SHORT_FIT, *SMALL, *SHORT, "data.source.sentences=400", f"run.{where}")
    elif script in ("analyze.py", "export.py"):
        given = [re.sub(r"^step=60$", "step=1", word) for word in given]
        target = next((Path(word.removeprefix("out=")) for word in given if word.startswith("out=")), None)
        if target is not None and target.exists():
            shutil.rmtree(target)
        call(script, *given, where, *(["prompts=4", "samples=2"] if script == "analyze.py" else []))
    elif script == "judge.py":
        call(script, *given, where, "mode=rating")  # of policies that hardly differ, too, whose pairs would be the same text
    elif script in ("frontier.py", "runs.py"):
        call(script, *given)
    else:
        raise AssertionError("no short form of this script is known; see LONG and NOT_RUN of tests/readme/plans.py")


def whole(one):
    """The run directory of a command that is run as a whole, else None."""
    return next((path for pattern, path in WHOLE.items() if re.search(pattern, " ".join(one.words))), None)


def run_train(one, given, changes, monkeypatch):
    path = whole(one)
    if path is not None:
        call("train.py", *given, *changes, f"run.variant={Path(path).name}")
        return

    def stop(*_):
        raise UserError("as far as the first compiled program")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "find_base", stop)
        first_job_only(patch)
        said = call("train.py", *given, *changes, code=command_line.MISTAKE)
    assert said.count("kljax: ") == said.count("kljax: as far as the first compiled program") == 1, said


def first_job_only(patch):
    """Every job of a sweep is composed and validated; one is started."""
    patch.setattr(command_line, "_is_plain", lambda arguments: True)


def check_json(here):
    """All that was written as JSON can be read by those who know no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [(file, line) for file in here.rglob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    whole = [(file, file.read_text("utf-8")) for file in here.rglob("*.json")]
    assert len(lines) > 10 and len(whole) > 10
    for file, text in lines + whole:
        assert json.loads(text, parse_constant=refuse) is not None, file


def check_printed(here, monkeypatch):
    """What a run prints to go on with is accepted, too."""
    from kljax.analysis import tables

    with tables.console.capture() as captured:
        tables.show_paths(Path("runs/grammar/default"))
    printed = re.findall(r"(?:kljax|python|tensorboard) .*", captured.get())
    assert len(printed) >= 3
    for text in printed:
        words = plan(Command(text, "printed", 1)).words
        with monkeypatch.context() as patch:
            accept(words, patch)
