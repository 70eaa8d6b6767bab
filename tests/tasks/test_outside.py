"""A task of the user's own, as docs/tasks.md shows it: a file, a command, and what an analysis imports of it."""

import json
import re
import sys
from itertools import product

import datasets
import pytest

from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from kljax.training.loop import train
from tests.e2e.test_scripts import call
from tests.readme.commands import ROOT

PAGE = (ROOT / "docs" / "tasks.md").read_text("utf-8")
CODE = re.search(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[1]  # pyright: ignore
COMMAND = re.search(r"^kljax train (task=python .*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)[1]  # pyright: ignore
SHORT = [
    *("data.prompt.max_tokens=16", "data.prompt_fraction=0.4", "data.held_out_fraction=0.3"),
    *("pretrain.length=24", "run.variant=default", "task.resamples=20"),
]


@pytest.fixture(scope="module")
def overrides(tiny_in, tmp_path_factory):
    """The command's, for a run of seconds."""
    own = [one for one in tiny_in("runs") if not one.startswith("data.source")]
    return [*own, "steps=2", *COMMAND.replace("\\\n", " ").split(), *SHORT]


@pytest.fixture(scope="module")
def folder(overrides, tmp_path_factory):
    """A fresh folder with my_task.py, which notes that it is imported, and words.jsonl; and in it the run of the command."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_task.py").write_text(CODE + "\nopen('marker', 'a').close()\n")
    words = ({"word": "".join(letters)} for letters in product("abcd", repeat=3))
    (folder / "words.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    sys.modules.pop("my_task", None)  # the README's, of another test
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        said = call("train.py", *overrides)
        assert (folder / "marker").exists() and "letters, greedy" not in said and "exact, pass@2" in said
        yield folder
    sys.modules.pop("my_task", None)


@pytest.fixture
def forgotten(folder, monkeypatch):
    """As if a new process looked at the run."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    (folder / "marker").unlink(missing_ok=True)
    sys.modules.pop("my_task", None)


def test_the_task_is_at_most_20_lines():
    assert len(CODE.strip().splitlines()) <= 20


def figures(folder, step=2):
    return json.loads((folder / "runs" / "shout" / "default" / "evaluation" / f"step_{step:06}.json").read_text())["metrics"]


def test_its_figures_are_in_the_evaluation(folder):
    found = figures(folder)
    assert found["task/letters"] == pytest.approx(found["reward/mean"])  # the reward is that metric
    assert {"task/exact", "task/exact_low", "task/exact_pass_2", "task/reference_letters"} <= {*found}
    assert found["answers/nats_seq"] > 0


def test_a_runs_config_alone_imports_nothing(folder, forgotten, compilation_cache):
    run = f"run={folder}/runs/shout/default"
    cache = f"compilation_cache={compilation_cache}"
    said = " ".join(call("analyze.py", cache, run).split())
    assert not (folder / "marker").exists() and "my_task" not in sys.modules
    assert "task: its figures are left out: it is code of the run's own" in said
    assert "reward.task is left out, and with it what it is a part of: it is the task's own, which is code" in said
    assert "right answer" in said and "letters" not in said and "It is not saved." in said
    said = " ".join(call("analyze.py", cache, run, "rewards=custom").split())
    assert (folder / "marker").exists() and "letters" in said and "is left out" not in said
    assert "It is in " in said
    said = " ".join(call("analyze.py", cache, run, "rewards=custom", "readings=[greedy]").split())
    assert "letters, greedy" in said and "_readings-greedy.json" in "".join(said.split())


def test_a_fits_config_alone_imports_nothing(folder, forgotten, overrides, compilation_cache):
    fit = next((folder / "runs" / "bases").iterdir())
    cache = f"compilation_cache={compilation_cache}"
    said = " ".join(call("analyze.py", cache, f"run={fit}", "prompts=4", code=2).split())
    assert not (folder / "marker").exists() and "my_task" not in sys.modules
    assert "made by code of its own, task.function=my_task.TASK, which is imported and run with rewards=custom alone" in said
    assert "letters" in call("analyze.py", cache, f"run={fit}", "prompts=4", "rewards=custom")


def test_the_frontier_the_listing_and_an_export_import_nothing(folder, forgotten):
    runs = folder / "runs" / "shout"
    assert "0.5" in call("frontier.py", runs)
    assert "default" in call("runs.py", runs)
    call("export.py", f"run={runs}/default", f"out={folder}/exported")
    card = (folder / "exported" / "README.md").read_text()
    assert "exact, pass@2" in card and "letters" in card
    assert not (folder / "marker").exists() and "my_task" not in sys.modules


def test_a_notebook_imports_nothing(folder, forgotten):
    import kljax

    policy = kljax.load_run(folder / "runs" / "shout" / "default").policy()
    assert policy.sample(["shout abc"], max_new_tokens=3)
    assert kljax.load_run(folder / "runs" / "shout" / "default").evaluation_completions().texts
    fit = next((folder / "runs" / "bases").iterdir())
    with pytest.raises(UserError, match=r"task\.function: my_task\.TASK is code of the run's own"):  # its rows are made anew
        kljax.load_run(fit).evaluation_completions()
    assert not (folder / "marker").exists() and "my_task" not in sys.modules


def test_code_that_makes_other_prompts_now_is_refused(folder, forgotten, overrides):
    code = folder / "my_task.py"
    whole = code.read_text()
    code.write_text(whole.replace('f"shout {word}"', 'f"SHOUT {word}"'))
    try:
        with pytest.raises(UserError, match="data"):
            train(compose(overrides, Config))
    finally:
        code.write_text(whole)


def test_a_metric_that_cannot_be_is_refused_before_anything_compiles(folder, forgotten, overrides):
    code = folder / "bad_task.py"
    code.write_text(CODE.replace("len(right) for", "len(right) for _ in 'ab' for").replace("reward=letters", "reward=exact"))
    try:
        with pytest.raises(UserError, match=r"task.metrics.letters: the metric returned 4 numbers, expected 2"):
            train(compose([*overrides, "task.function=bad_task.TASK", "name=bad"], Config))
    finally:
        sys.modules.pop("bad_task", None)
    assert not (folder / "runs" / "bad").exists()
