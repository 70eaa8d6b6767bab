"""Trackers: each line once, in order, whatever was killed; one that fails is a sentence, and the run does not notice."""

import json
import struct
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.runs import index, trackers
from kljax.runs.directory import MetricsLog, read_lines
from kljax.runs.trackers import TRACKERS, Kind, handed_on, tracking, wandb_runs
from kljax.runs.trackers.handed_on import HandedOn
from kljax.runs.trackers.tracker import Tracked
from kljax.training.loop import train


@dataclass
class Own:
    """A tracker that remembers."""

    run: Tracked
    id: str = ""
    steps: list = field(default_factory=list)
    last: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    end: str | None = None
    fails_at: int | None = None
    through: int | None = None

    def write(self, step, metrics):
        if step == self.fails_at:
            raise ConnectionError("the network\nis gone")
        self.steps.append(step)
        self.last = dict(metrics)

    def summarise(self, figures):
        self.summary = dict(figures)

    def close(self, end):
        self.end = end


@pytest.fixture
def own(monkeypatch):
    """Trackers of one's own under the name wandb, as they were opened; `own.fails_at`: at which step the next one does."""

    class Opened(list):
        fails_at = through = None

        def open(self, run, id):
            self.append(Own(run, id, fails_at=self.fails_at, through=self.through))
            return self[-1]

    opened = Opened()
    monkeypatch.setitem(TRACKERS, "wandb", Kind(lambda run: HandedOn("wandb", opened.open, run), "json"))
    return opened


def tracked(path, first=0, **settings):
    return Tracked(path, "grammar", settings, first)


def launch(path, first, steps, figures=lambda step: {"a": float(step)}):
    """Log some steps, as a launch does that begins with `first`."""
    with tracking(["wandb"], tracked(path, first)) as tracker:
        log = MetricsLog(path, first, tracker)
        for step in steps:
            log.write(step, figures(step))
        log.close()


def test_a_run_hands_on_its_lines_and_its_evaluation(tiny, own, capsys):
    """And what trackers leave in its directory is nobody's damage."""
    config = tiny("track=[wandb]", "run.variant=own")
    path = train(config, lambda path: {"reward/mean": 0.5})
    one = next(one for one in own if one.run.path == path)  # a fit is tracked, too
    assert one.steps == list(range(6)) and one.end == "finished" and one.summary == {"reward/mean": 0.5}
    assert one.last == {key: value for key, value in read_lines(path / "metrics.jsonl")[-1].items() if key != "step"}
    assert (one.run.project, one.run.name, one.run.settings["kl"]["beta"]) == ("grammar", "own", 0.5)
    assert not {"run", "track"} & one.run.settings.keys()
    assert not (path / "tensorboard").exists()
    assert index.look(path).state == "finished"
    with pytest.raises(UserError, match=r"no\."):  # other trackers make no other run
        train(replace(config, track=["wandb", "tensorboard"]), lambda path: (_ for _ in ()).throw(UserError("no.")))
    assert (own[-1].id, own[-1].steps, own[-1].end) == (one.id, [], "failed")


def test_each_line_comes_once_whatever_was_killed(tmp_path, own):
    """Begun without it, killed between a log and its tracker, gone on with from an earlier step."""
    launch(tmp_path, 0, range(4))
    state = tmp_path / handed_on.FOLDER / "wandb.json"
    assert json.loads(state.read_text())["through"] == 3
    state.write_text(json_text({"id": own[0].id, "through": 1}))  # as if the last two had not come through
    launch(tmp_path, 3, range(3, 6))
    assert [one.steps for one in own] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    launch(tmp_path, 4, range(4, 8))
    assert own[2].steps == [6, 7] and {one.id for one in own} == {own[0].id}
    own.through = 5  # says the service, which knows better than the file
    launch(tmp_path, 8, [])
    assert own[3].steps == [6, 7]
    own.through = None
    state.unlink()
    launch(tmp_path, 8, [8])
    assert own[4].steps == list(range(9)) and own[4].id != own[0].id


def test_one_that_fails_is_a_sentence_and_the_next_launch_makes_up_for_it(tmp_path, own, capsys):
    own.fails_at = 2
    launch(tmp_path, 0, range(6))
    said = capsys.readouterr().out
    assert said.count("track: wandb failed: ConnectionError: the network is gone. This launch goes on without it") == 1
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(6))
    own.fails_at = None
    launch(tmp_path, 6, [])
    assert own[0].steps == [0, 1] and own[1].steps == [2, 3, 4, 5]


def test_one_that_hangs_or_cannot_be_opened_holds_nothing_up(tmp_path, own, monkeypatch, capsys):
    hanging = threading.Event()
    monkeypatch.setattr(handed_on, "PATIENCE", 0.05)
    monkeypatch.setattr(handed_on, "WAITING", 3)
    monkeypatch.setattr(type(own), "open", lambda self, run, id: hanging.wait())
    launch(tmp_path, 0, range(6))
    assert capsys.readouterr().out.count("track: wandb takes nothing. This launch goes on without it") == 1
    monkeypatch.setattr(handed_on, "WAITING", 100)
    launch(tmp_path, 6, range(6, 9))
    assert "track: wandb has not taken all in 0 s" in capsys.readouterr().out
    hanging.set()
    monkeypatch.setattr(type(own), "open", lambda self, run, id: int("x"))
    monkeypatch.setattr(handed_on, "PATIENCE", 5.0)
    launch(tmp_path, 9, [9])
    assert "track: wandb failed: ValueError: invalid literal" in capsys.readouterr().out
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(10))


def test_what_is_no_number_is_left_out(tmp_path, own):
    launch(tmp_path, 0, [0], lambda step: {"a": 1.0, "b": float("nan"), "c": [0.5, None], "d": float("inf")})
    assert own[0].last == {"a": 1.0, "c": [0.5, None]}
    (tmp_path / handed_on.FOLDER / "wandb.json").unlink()
    launch(tmp_path, 1, [])
    assert own[1].last == {"a": 1.0, "c": [0.5, None]}


def test_ctrl_c_is_no_failure(tmp_path, own):
    with pytest.raises(KeyboardInterrupt), tracking(["wandb"], tracked(tmp_path)):
        raise KeyboardInterrupt
    assert own[0].end == "stopped"


def test_what_is_not_there_is_refused_before(tiny, monkeypatch):
    find = trackers.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda package: None if package == "mlflow" else find(package))
    with pytest.raises(
        UserError, match=r"track: got mlflow, but .* pip install 'kljax\[trackers\]' before, or track=\[tensorboard\]"
    ):
        train(tiny("track=[tensorboard,mlflow]"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="track: got tensorboard twice"):
        trackers.check(["tensorboard", "tensorboard"])
    with pytest.raises(UserError, match=r"track: got 'tensorbord', .* Did you mean 'tensorboard'"):
        tiny("track=[tensorbord]")


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "nowhere_mlflow").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TRACKERS, "mlflow", replace(TRACKERS["mlflow"], package="nowhere_mlflow"))
    with pytest.raises(UserError, match=r"nowhere_mlflow is not installed \(.*nowhere_mlflow is a folder .* or track=\[\]"):
        trackers.check(["mlflow"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("wandb", r"got 'wandb', expected a list, as in track=\[wandb\]"),
        ("wanb", r"as in track=\[tensorboard\]"),
        ("none", r"track=\[\] is none"),
        ("null", r"got None, .*track=\[\] is none"),
    ],
)
def test_a_name_that_is_no_list_is_told_how_to_be_one(tiny, given, says):
    with pytest.raises(UserError, match=f"^track: .*{says}"):
        tiny(f"track={given}")


# Weights & Biases, offline


def records(folder: Path):
    """The records of a file of W&B's: a log of LevelDB's form, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra trackers")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_gets_a_run_that_is_gone_on_with(tmp_path, offline, capsys):
    path = tmp_path / "runs" / "grammar" / "mine"
    path.mkdir(parents=True)
    figures = {"reward/mean": 0.5, "held_out/reward/mean": 0.25, "kl/reverse_exact_by_position": [0.5, None, 0.25]}
    for first, steps in ((0, range(3)), (2, range(2, 5))):
        with tracking(["wandb"], tracked(path, first, kl={"beta": 0.5})) as tracker:
            for step in steps:
                tracker.write(step, figures)
            tracker.summarise({"reward/mean": 1.0})
        time.sleep(1.1)  # W&B names the folder of a launch by its second
    said = capsys.readouterr().out
    assert said.count(f"track: wandb, offline, in {path}") == 2
    assert not Path("wandb").exists()
    folders = sorted(path.glob("wandb/offline-run-*"))
    assert said.endswith(f"wandb sync {' '.join(map(str, folders))}\n")
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1, "one run, by its id"
    found = [record for folder in folders for record in records(folder)]
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.project, run.display_name) == ("grammar", "mine")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["kl"] == {"beta": 0.5}
    lines = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    assert [line["_step"] for line in lines] == [0, 1, 2, 3, 4]
    assert all(line["held_out/reward/mean"] == 0.25 for line in lines)
    summaries = [item for record in found if record.HasField("summary") for item in record.summary.update]
    assert any("evaluation/reward/mean" in (item.key, *item.nested_key) for item in summaries)
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0, 0]


def test_wandb_that_is_disabled_says_so(tmp_path, offline, monkeypatch, capsys):
    """Whose run says that it has no address."""
    import wandb

    gone = SimpleNamespace(disabled=True, offline=False, url=None, step=0, finish=lambda exit_code: None)
    monkeypatch.setattr(wandb, "init", lambda **settings: gone)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb_runs.WandbRun(tracked(tmp_path), "id").close("finished")
    assert capsys.readouterr().out == "track: wandb, disabled by WANDB_MODE: it gets nothing\n"


def test_wandb_without_a_key_is_refused_and_not_asked_for(tmp_path, offline, monkeypatch):
    trackers.check(["wandb"])
    import wandb

    monkeypatch.setattr(wandb, "setup", lambda: type("Setup", (), {"settings": type("Settings", (), {"mode": "online"})}))
    monkeypatch.setattr(wandb, "login", lambda prompt, verify: prompt or verify)
    with pytest.raises(UserError, match="track: got wandb, but there is no API key of it here; expected `wandb login` before"):
        trackers.check(["wandb"])


@pytest.mark.filterwarnings("ignore")  # SQLAlchemy's, of what MLflow calls
def test_mlflow_gets_a_run_that_is_gone_on_with(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra trackers")
    pytest.importorskip("sqlalchemy", reason="needs the extra trackers")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "runs" / "grammar" / "mine"
    path.mkdir(parents=True)
    for first, steps in ((0, range(3)), (2, range(2, 5))):
        with tracking(["mlflow"], tracked(path, first, kl={"beta": 0.5}, name="x" * 600)) as tracker:
            for step in steps:
                tracker.write(step, {"reward/mean": 0.5 + step, "reward/logged/odd name (%)": 1.0, "list": [1.0]})
            tracker.summarise({"reward/mean": 9.0})
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("grammar").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["kl.beta"]) == ("mine", "FINISHED", "0.5")
    history = client.get_metric_history(run.info.run_id, "reward/mean")
    assert [(one.step, one.value) for one in history] == [(step, 0.5 + step) for step in range(5)]
    assert run.data.metrics["evaluation/reward/mean"] == 9.0 and "list" not in run.data.metrics
