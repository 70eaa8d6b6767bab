"""A run's folder: whose it is, and logs that continue without a seam whatever a killed run left."""

import json
import math
import struct
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event

from kljax import __version__
from kljax.config import Config
from kljax.config.validation import validate, without_defaults
from kljax.errors import UserError
from kljax.runs import directory
from kljax.runs.board import Board
from kljax.runs.config_file import check_owner, identity, read_config
from kljax.runs.directory import JsonLines, MetricsLog, read_lines, write_atomically


@pytest.fixture
def owned(tiny, tmp_path):
    """A config and the directory that it owns."""
    config = tiny("reward=[sentiment,length]")
    directory.create(tmp_path / "run", "rl", directory.to_dict(config))
    return config, tmp_path / "run"


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def write_config(path, text):
    """As an older version did, which kept no digests."""
    (path / "manifest.json").unlink(missing_ok=True)
    (path / "config.yaml").write_text(text)


def complaint(path, config):
    """The refusal, and that nothing was written or lost."""
    before = contents(path) if path.is_dir() else path.read_bytes()
    with pytest.raises(UserError) as raised:
        check_owner(path, identity(config))
    assert (contents(path) if path.is_dir() else path.read_bytes()) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_key_of_an_older_version_that_changed_no_number_is_passed_over(owned):
    config, path = owned
    values = directory.to_dict(config)
    values["run"]["keep_freed_memory"] = True
    write_config(path, yaml.safe_dump(values))
    assert read_config(path) == directory.to_dict(config)


def test_a_run_of_an_older_version_that_cut_its_distribution_is_refused(owned):
    config, path = owned
    values = directory.to_dict(config)
    for top_p, refused in ((1.0, False), (0.9, True)):
        write_config(path, yaml.safe_dump(values | {"rollout": {**values["rollout"], "top_k": 0, "top_p": top_p}}))
        if refused:
            with pytest.raises(UserError, match=r"has \{'top_p': 0.9\}: that run cut the distribution"):
                read_config(path)
        else:
            assert read_config(path) == values


def test_fields_that_came_later_and_have_their_default_make_no_other_owner(owned):
    config, path = owned
    values = directory.to_dict(config)
    assert without_defaults(values)["model"].keys() < values["model"].keys()
    write_config(path, yaml.safe_dump(without_defaults(values)))
    assert validate(read_config(path), Config) == config
    check_owner(path, identity(config))
    changed = replace(config, model=replace(config.model, positions="rotary", nope_every=1))
    assert "belongs to another config: model." in complaint(path, changed)


def test_the_owner_is_let_in_and_nothing_is_written(owned):
    config, path = owned
    before = contents(path)
    check_owner(path, identity(config))
    assert contents(path) == before


def test_where_and_how_often_a_run_is_written_make_no_other_owner(owned):
    config, path = owned
    check_owner(path, identity(replace(config, run=replace(config.run, root="elsewhere", save_every=1000, log_every=7))))


def test_a_new_or_empty_directory_belongs_to_anyone(owned, tmp_path):
    config, _ = owned
    check_owner(tmp_path / "new", identity(config))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    check_owner(tmp_path / "empty", identity(config))


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("kl.beta=0.125", "kl.beta"),
        ("data.source.seed=5", "data.source.seed"),
        ("optimizer.learning_rate=2e-3", "optimizer.learning_rate"),
        ("reward.length.weight=-1", "reward.length.weight"),
        ("algorithm=reinforce", "algorithm"),
    ],
)
def test_another_config_is_refused_with_the_field_that_differs(owned, tiny, override, field):
    config, path = owned
    other = tiny("reward=[sentiment,length]", override)
    mine, theirs = config, other
    for part in field.split("."):
        mine, theirs = (value[part] if isinstance(value, dict) else getattr(value, part) for value in (mine, theirs))
    sentence = complaint(path, other)
    assert sentence.startswith(f"{path} belongs to another config: {field} is {mine!r} there, {theirs!r} here.")


def test_a_further_reward_is_refused(tmp_path, tiny):
    directory.create(tmp_path / "run", "rl", directory.to_dict(tiny("reward=[sentiment]")))
    assert "reward.length" in complaint(tmp_path / "run", tiny("reward=[sentiment,length]"))


def test_a_reward_too_few_is_refused(owned, tiny):
    _, path = owned
    assert "reward.length" in complaint(path, tiny("reward=[sentiment]"))


def test_a_folder_or_file_of_something_else_is_refused(owned, tmp_path):
    config, _ = owned
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    (tmp_path / "file").write_text("no directory")
    for path in (tmp_path / "photos", tmp_path / "file"):
        assert complaint(path, config).startswith(f"run.root: {path} exists and is not a run directory (it has no config.yaml)")


@pytest.mark.parametrize("content", ["name: [unclosed", "", "- 1\n", "word"])
def test_a_config_that_is_no_yaml_mapping_is_refused(owned, content):
    config, path = owned
    write_config(path, content)
    assert complaint(path, config).startswith(f"run: {path}/config.yaml cannot be read as a YAML mapping")
    with pytest.raises(UserError, match="cannot be read as a YAML mapping"):
        read_config(path)


def test_a_second_launch_adds_to_the_environment_and_keeps_the_config(owned):
    config, path = owned
    written = (path / "config.yaml").read_bytes()
    directory.create(path, "rl", directory.to_dict(replace(config, run=replace(config.run, log_every=5))))
    assert (path / "config.yaml").read_bytes() == written
    launches = json.loads((path / "environment.json").read_text())["launches"]
    assert len(launches) == 2
    for launch in launches:
        assert launch["versions"].keys() == {"kljax", *directory.RECORDED_VERSIONS}
        assert launch["versions"]["kljax"] == __version__
        assert launch["command"]
        assert launch["devices"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (None, ["script.py", "a=1"]),
        ("experiments.benchmarks.speed", ["-m", "experiments.benchmarks.speed", "a=1"]),
        ("experiments.studies.claims.__main__", ["-m", "experiments.studies.claims", "a=1"]),
    ],
)
def test_the_command_is_one_that_can_be_given_again(monkeypatch, module, expected):
    main = ModuleType("__main__")
    main.__spec__ = module and ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["script.py", "a=1"])
    assert directory.command() == expected


def test_the_console_command_is_recorded_as_the_module_that_it_is(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kljax train", "name=a b"])
    assert directory.command() == ["-m", "kljax", "train", "name=a b"]


def test_a_broken_record_of_launches_begins_anew(owned):
    config, path = owned
    (path / "environment.json").write_text("{")
    directory.create(path, "rl", directory.to_dict(config))
    assert len(json.loads((path / "environment.json").read_text())["launches"]) == 1


def test_the_config_comes_back_whole(owned):
    config, path = owned
    written = yaml.safe_load((path / "config.yaml").read_text())
    assert {"format": 2, "kind": "rl"} | read_config(path) == written
    assert read_config(path) == directory.to_dict(config)


def test_a_directory_that_cannot_be_made_is_named(owned, tmp_path):
    config, _ = owned
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^{tmp_path}/file/run cannot be written: a part of the path is a file"):
        directory.create(tmp_path / "file" / "run", "rl", identity(config))


def test_what_is_no_run_has_no_config(tmp_path):
    with pytest.raises(UserError, match=f"^run: '{tmp_path}' is not a run directory"):
        read_config(tmp_path)


def test_a_run_that_is_not_there_is_answered_with_what_is(owned):
    _, path = owned
    with pytest.raises(UserError, match=f"no config.yaml\\). Did you mean '{path}'\\?$"):
        read_config(path.parent / "rum")
    with pytest.raises(UserError, match=f"It is a folder of runs; give one of them: {path}\\.$"):
        read_config(path.parent)


def write_steps(file, first, last):
    log = JsonLines(file, first)
    for step in range(first, last):
        log.write({"step": step, "text": f"naïve 😀 {step}"})
    log.close()


@pytest.mark.parametrize("cut", [0, 1, 7, 10])  # 7: within the emoji
@pytest.mark.parametrize("resumed", [0, 3, 5, 6])
def test_a_resumed_log_is_that_of_the_run_never_stopped(tmp_path, resumed, cut):
    """Killed after step 6 with its last line cut short by some bytes, continued from an earlier step."""
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    write_steps(whole, 0, 9)
    write_steps(killed, 0, 7)
    if cut:
        killed.write_bytes(killed.read_bytes()[:-cut])
    write_steps(killed, resumed, 9)
    assert killed.read_bytes() == whole.read_bytes()


def test_texts_that_are_no_unicode_do_not_break_the_log(tmp_path):
    entry = {"step": 0, "text": "half a pair: \ud83d", "kl": [0.5, math.nan]}
    for _ in range(2):  # and again after a resume
        log = JsonLines(tmp_path / "log.jsonl", 0)
        log.write(entry)
        log.close()
    assert (tmp_path / "log.jsonl").read_bytes().decode().count("\n") == 1
    assert read_lines(tmp_path / "log.jsonl") == [entry | {"kl": [0.5, None]}]


def test_a_line_is_on_disk_before_the_log_is_closed(tmp_path):
    log = JsonLines(tmp_path / "new folder" / "log.jsonl", 0)
    log.write({"step": 0})
    assert read_lines(tmp_path / "new folder" / "log.jsonl") == [{"step": 0}]
    log.close()


def test_reading_skips_a_half_written_line(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 0, "a": 1}\n{"step": 1, "a": 2}\n{"step": 2, "a"')
    assert read_lines(file) == [{"step": 0, "a": 1}, {"step": 1, "a": 2}]
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_reading_skips_a_line_cut_within_a_character(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes('{"step": 0}\n{"step": 1, "text": "😀'.encode()[:-2])
    assert read_lines(file) == [{"step": 0}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_what_unicode_calls_a_line_end_does_not_end_an_entry(tmp_path, separator):
    entry = {"step": 0, "text": f"a{separator}b"}
    log = JsonLines(tmp_path / "log.jsonl", 0)
    log.write(entry)
    log.close()
    JsonLines(tmp_path / "log.jsonl", 1).close()  # resumed
    assert read_lines(tmp_path / "log.jsonl") == [entry]


def scalars(folder):
    """{(step, name): value} of TensorBoard's records: a length, its checksum, an event, its checksum."""
    found = {}
    for file in folder.iterdir():
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return found


def test_metrics_are_the_same_in_both_logs_and_nan_is_null(tmp_path):
    metrics = {"kl/a": 0.5, "kl/nan": math.nan, "kl/inf": math.inf, "kl/minus_inf": -math.inf}
    board = Board(tmp_path / "tensorboard", 0)
    log = MetricsLog(tmp_path, 0, board)
    log.write(3, metrics)
    log.close()
    board.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "step": 3,
        "kl/a": 0.5,
        "kl/nan": None,
        "kl/inf": None,
        "kl/minus_inf": None,
    }
    there = scalars(tmp_path / "tensorboard")
    assert {name for step, name in there if step == 3} == metrics.keys()
    assert there[3, "kl/a"] == metrics["kl/a"]


def test_writing_atomically_replaces_the_whole_file(tmp_path):
    file = tmp_path / "result.json"
    write_atomically(file, "first, and longer")
    write_atomically(file, "second")
    assert file.read_text() == "second"
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "result.json"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "half of it, then \ud800")
    assert file.read_text() == "old"
