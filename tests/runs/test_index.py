"""What is said of each run below a folder, and of each way in which one can be broken."""

import fcntl
import json
import os
import time
from dataclasses import replace

import pytest
import yaml

from kljax.config import to_dict
from kljax.errors import UserError
from kljax.runs import index
from kljax.runs.config_file import CONFIG
from kljax.runs.index import find, look


@pytest.fixture
def run_in(tiny):
    """run_in(path, *saved): the files of a run of 6 steps that has checkpoints of these, one byte each but for the logs."""

    def make(path, *saved, config=None):
        config = config or to_dict(tiny())
        of_states = [f"checkpoints/{step}/{name}" for step in saved for name in (*index.OF_A_STATE, "state/d/x")]
        for name in [*of_states, *(f"checkpoints/reference/{name}" for name in index.OF_PARAMETERS)]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("x")
        for name in ("model.json", "environment.json"):
            (path / name).write_text("{}")
        (path / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        lines = [{"step": step, "reward/mean": step / 10, "kl/reverse_exact_seq": float(step)} for step in range(max(saved))]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make


def evaluated(path, step, **metrics):
    (path / "evaluation").mkdir(exist_ok=True)
    file = path / "evaluation" / f"step_{step:06d}.json"
    file.write_text(json.dumps({"metrics": {"reward/mean": 0.5, "kl/reverse_exact_seq": 1.5} | metrics}))
    return file


def test_a_finished_run_says_what_it_came_to(run_in, tmp_path):
    path = run_in(tmp_path / "a", 2, 4, 6)
    evaluated(path, 4)
    evaluated(path, 6, **{"reward/mean": 0.75})
    (path / "evaluation" / "step_000006_top_p-0.9.json").write_text("another look")
    run = look(path)
    assert (run.kind, run.state, run.note, run.step, run.steps) == ("run", "finished", None, 6, 6)
    assert run.figures == index.Figures("held out, step 6", 0.75, 1.5)
    assert run.size == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert time.time() - run.changed < 60


def test_one_that_is_not_at_its_last_step_is_stopped(run_in, tmp_path):
    """And says what it logged last, though half a line may follow."""
    path = run_in(tmp_path / "a", 2, 4)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "rew')
    run = look(path)
    assert (run.state, run.step, run.steps) == ("stopped", 4, 6)
    assert run.figures == index.Figures("training, step 4", 0.3, 3.0)


def test_a_look_that_is_younger_than_its_evaluation_is_what_it_says(run_in, tiny, tmp_path):
    path = run_in(tmp_path / "a", 2, 4, config=to_dict(tiny("evaluation.every=2")))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for step in (0, 2):
        lines[step] |= {"held_out/reward/mean": 7.0 + step, "held_out/kl/reverse_exact_seq": 3.0}
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        shown = index.Figures("held out, step 2", 9.0, 3.0) if step else index.Figures("training, step 4", 0.3, 3.0)
        assert look(path).figures == shown
    evaluated(path, 2)
    assert look(path).figures == index.Figures("held out, step 2", 0.5, 1.5)


def test_a_last_line_that_is_longer_than_what_is_read_at_first_is_found(run_in, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "TAIL", 8)
    assert look(run_in(tmp_path / "a", 6)).figures == index.Figures("training, step 6", 0.5, 5.0)


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_is_running_while_its_lock_is_held(run_in, tmp_path, killed):
    """Files of a killed process count for nothing."""
    path = run_in(tmp_path / "a", 2, 4)
    (path / "checkpoints/4/state/_METADATA").unlink()  # being written, perhaps
    (path / index.HOLDER).write_text(json.dumps({"pid": 7, "host": "here", "since": "noon"}))
    with (path / index.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if killed:
            lock.close()
        run = look(path)
        assert run.state == ("damaged" if killed else "running")
        assert killed or run.note == "process 7 on here, since noon"


def test_a_launch_that_is_still_compiling_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / index.HOLDER).write_text(json.dumps({"pid": 7, "host": "here", "since": "noon"}))
    with (tmp_path / "a" / index.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [look(path).state for path in find([tmp_path])] == ["running"]
    assert look(tmp_path / "a").state == "stopped"


BROKEN = {
    "no config": (lambda path: (path / CONFIG).unlink(), r"config\.yaml is missing"),
    "half a config": (lambda path: os.truncate(path / CONFIG, 200), r"config\.yaml (was cut off|cannot be read)"),
    "no YAML": (lambda path: (path / CONFIG).write_text("{"), r"config\.yaml cannot be read"),
    "no text": (lambda path: (path / CONFIG).write_bytes(b"\xff\xfe"), r"config\.yaml cannot be read"),
    "another config": (lambda path: (path / CONFIG).write_text("a: 1\n"), r"config\.yaml says no steps"),
    "no model": (lambda path: (path / "model.json").unlink(), r"model\.json is missing"),
    "no log": (lambda path: (path / "metrics.jsonl").unlink(), r"metrics\.jsonl is missing"),
    "half a step": (lambda path: (path / "checkpoints/6/about/metadata").unlink(), r"checkpoints/6/about/metadata is missing"),
    "an empty file": (lambda path: os.truncate(path / "checkpoints/6/state/_METADATA", 0), r"state/_METADATA is empty"),
    "no reference": (lambda path: (path / "checkpoints/reference/_METADATA").unlink(), r"reference/_METADATA is missing"),
    "an evaluation": (lambda path: evaluated(path, 6).write_text("[]"), r"step_000006\.json cannot be read"),
    "a shorter file": (lambda path: manifest(path, {"state/d/x": 3}), r"6/state/d/x has 1 bytes, and had 3"),
    "a lost file": (lambda path: manifest(path, {"state/d/y": 3}), r"6/state/d/y is missing"),
    "no manifest": (lambda path: (path / "checkpoints/6/manifest.json").write_text("{"), r"manifest\.json cannot be read"),
    "all but a log": (lambda path: (path / CONFIG).unlink() or (path / "model.json").unlink(), r"config\.yaml is missing"),
}


def manifest(path, sizes):
    files = {name: {"bytes": size, "sha256": ""} for name, size in sizes.items()}
    (path / "checkpoints/6/manifest.json").write_text(json.dumps({"files": files}))


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_a_row_with_the_reason(how, run_in, tmp_path):
    path = run_in(tmp_path / "a", 2, 4, 6)
    evaluated(path, 6)
    manifest(path, {"state/d/x": 1})
    assert look(path).state == "finished"
    breaks, reason = BROKEN[how]
    breaks(path)
    assert find([tmp_path]) == [path]
    run = look(path)
    assert run.state == "damaged" and run.step == 6
    with pytest.raises(UserError, match=reason):
        raise UserError(run.note)


def test_a_fit_says_its_held_out_figure(run_in, tiny, tmp_path):
    config = to_dict(tiny())
    config = {"data": {}, "rows": "0", **{key: config[key] for key in ("tokenizer", "model", "pretrain")}}
    path = run_in(tmp_path / "bases" / "b", 10, config=config)
    assert (look(path).kind, look(path).state, look(path).steps) == ("fit", "stopped", 20)
    (path / "result.json").write_text(json.dumps({"steps": 10, "held_out_rows": 3, "held_out_nats_tok": 4.2149}))
    assert look(path).state == "finished"  # it stopped early
    assert look(path).figures == index.Figures("nats_tok 4.215, held out")
    (path / "result.json").write_text(json.dumps({"steps": 10, "best_step": 4, "held_out_nats_tok": 4.2149}))
    (path / "evaluation").mkdir()
    for step, reward in ((4, 0.5), (8, 0.75)):  # the model that it kept, and another that was looked at later
        (path / "evaluation" / f"step_{step:06d}.json").write_text(
            json.dumps({"step": step, "metrics": {"reward/mean": reward}})
        )
    assert look(path).figures == index.Figures("held out, step 4", 0.5, None)
    (path / "result.json").write_text("[]")
    assert look(path).state == "damaged"


def test_runs_are_found_wherever_they_are_and_nothing_inside_of_them(run_in, tmp_path):
    inner, outer = run_in(tmp_path / "x" / "y" / "a", 2), run_in(tmp_path / "b", 2)
    run_in(outer / "huggingface" / "c", 2)
    run_in(tmp_path / ".hidden" / "d", 2)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)  # which others have, too
    assert find([tmp_path]) == find([inner, outer, tmp_path]) == [outer, inner]
    assert find([tmp_path / "empty"]) == []


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path):
    (tmp_path / "grammar").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"gramar: no such directory; .* Did you mean '.*grammar'\?"):
        find([tmp_path / "gramar"])
    with pytest.raises(UserError, match=r"file: is no directory"):
        find([tmp_path / "file"])


def test_a_run_takes_milliseconds(run_in, tmp_path):
    """Two hundred of them: without their checkpoints' contents."""
    paths = [run_in(tmp_path / f"{number}", 2, 4, 6) for number in range(3)]
    big = paths[0] / "checkpoints/6/state/d/big"
    with big.open("wb") as stream:
        stream.truncate(1 << 34)  # of which nothing is on disk, and nothing must be read
    began = time.perf_counter()
    assert look(paths[0]).size > 1 << 34
    for path in paths * 67:
        look(path)
    assert (time.perf_counter() - began) / 200 < 0.05
    assert replace(look(paths[1]), path=tmp_path, changed=0.0) == replace(look(paths[2]), path=tmp_path, changed=0.0)
