"""The best step of a run: the highest figure, of equal ones the earliest, among what is there."""

import json

import pytest

from kljax.errors import UserError
from kljax.runs import digests
from kljax.runs.best import BEST_FILE, BestSoFar, Look, best_of, best_step, read


def looks_of(path, figures, by="objective", first=0, saved=()):
    """What a run says that has saved the steps which are the best so far."""
    found = BestSoFar(path, by, first, saved, list)
    return found, [step for step, figure in figures if found.add(step, {f"{by}/mean": figure})]


def test_the_best_is_the_highest_and_of_equal_ones_the_earliest(tmp_path):
    found, saved = looks_of(tmp_path, [(0, 1.0), (5, 2.0), (10, 2.0), (15, -1.0), (20, 2.5), (25, 2.5)])
    assert saved == [0, 5, 20]
    assert found.step == best_step(tmp_path, saved, "step") == 20
    assert best_of(read(tmp_path), {0, 5, 10}) == Look(5, 2.0)


def test_steps_that_are_taken_again_count_for_nothing(tmp_path):
    looks_of(tmp_path, [(0, 1.0), (5, 3.0), (10, 2.0)])
    found, saved = looks_of(tmp_path, [(5, 2.5), (10, 2.0)], first=5, saved=[0, 5])
    assert saved == [5] and found.step == 5
    assert [look.figure for look in read(tmp_path)] == [1.0, 2.5, 2.0]


def test_where_a_better_one_is_lost_the_best_that_is_there_is_taken_and_said(tmp_path, capsys):
    looks_of(tmp_path, [(0, 1.0), (5, 3.0), (10, 2.0)])
    assert best_step(tmp_path, [0, 10], "step") == 10
    assert "step 5 is the best, but its checkpoint is not there; step 10 is the best that is" in capsys.readouterr().out
    found, saved = looks_of(tmp_path, [(15, 2.5)], first=15, saved=[0, 10])  # and the run goes on from what it has
    assert saved == [15] and found.step == 15
    assert f"2.500 after step 15, which is run={tmp_path}@best. Better was 3.000 after step 5, whose checkpoint is not" in str(
        found.sentence
    )
    found.forget_from(15, [0, 10])
    assert f"2.000 after step 10, which is run={tmp_path}@best. Better was 3.000" in str(found.sentence)
    found.forget_from(5, [])
    assert "1.000 after step 0, whose checkpoint is not there; no step that was looked at is saved" in str(found.sentence)
    with pytest.raises(UserError, match=r"step: got best, but no step at which .* was looked at is saved; .* one of 7"):
        best_step(tmp_path, [7], "step")


def test_a_lost_file_is_made_again_of_the_log_and_a_changed_one_refused(tmp_path):
    _, saved = looks_of(tmp_path, [(0, 1.0), (5, 3.0)], by="reward")
    log = [{"step": 0, "held_out/reward/mean": 1.0, "reward/mean": 9.0}, {"step": 1}, {"step": 5, "held_out/reward/mean": 3.0}]
    (tmp_path / BEST_FILE).unlink()
    found = BestSoFar(tmp_path, "reward", 7, saved, lambda: log)
    assert found.step == 5
    found.add(10, {"reward/mean": 2.0})
    assert [look.step for look in read(tmp_path)] == [0, 5, 10]
    there = json.loads((tmp_path / BEST_FILE).read_text())
    there["looks"][2]["figure"] = 4.0
    (tmp_path / BEST_FILE).write_text(json.dumps(there))
    with pytest.raises(digests.Damaged, match="delete it: the command that began the run makes it again"):
        read(tmp_path)


def test_a_run_that_was_not_looked_at_has_none(tmp_path):
    with pytest.raises(UserError, match=r"reference.path: got best, but .*evaluation.every=0.* latest or one of 2, 4"):
        best_step(tmp_path, [2, 4], "reference.path")
