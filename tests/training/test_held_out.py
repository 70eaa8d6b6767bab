"""Looks at held-out prompts while a run trains: what analyze.py says of the same step, and nothing that training sees."""

import shutil
import sys

import pytest

from kljax.command_line import compose
from kljax.config import Config, MeshConfig
from kljax.errors import UserError
from kljax.interrupt import Interrupted, StopRequest
from kljax.runs import directory, evaluation, held_out
from kljax.runs.best import BEST_FILE, HELD_OUT
from kljax.runs.checkpoints import Checkpoints
from kljax.runs.restore import restore
from kljax.training.loop import train
from kljax.training.trainer import Trainer

ONE = MeshConfig(data=1, fsdp=1, tensor=1)
LOOKS = ("evaluation.every=2", "optimizer.learning_rate=0.01")


def lines(path, *, looks=True):
    """metrics.jsonl but for times; `looks`: with the held-out figures."""
    left = ("time/", "memory/") if looks else ("time/", "memory/", HELD_OUT)
    found = [
        {key: value for key, value in line.items() if not key.startswith(left)}
        for line in directory.read_lines(path / "metrics.jsonl")
    ]
    return [line for line in found if len(line) > 1]


def looked(path):
    """{step: held-out figures}."""
    found = {
        line["step"]: {key.removeprefix(HELD_OUT): value for key, value in line.items() if key.startswith(HELD_OUT)}
        for line in directory.read_lines(path / "metrics.jsonl")
    }
    return {step: figures for step, figures in found.items() if figures}


def saved(path):
    checkpoints = Checkpoints(path)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def asks_for_the_step(completions, trainer_state, log_metric, **kwargs):
    log_metric("words", 2.0 * trainer_state.global_step)
    return [0.1 * len(text) + trainer_state.global_step for text in completions]


@pytest.fixture(scope="module")
def whole(tiny_in, tmp_path_factory):
    root = tmp_path_factory.mktemp("held_out")
    return train(compose([*tiny_in(root), *LOOKS, "run.variant=whole"], Config)), root


def test_they_are_the_figures_of_an_evaluation_of_that_step(whole):
    """To the last bit, on the same devices."""
    for step in (2, 4, 6):
        run = restore(whole[0], step, ONE)
        expected, found = evaluation.evaluate(run, run.setup.config.evaluation).metrics, looked(whole[0])[step]
        assert found.keys() >= {"reward/mean", "reward/gain_se", "kl/reverse_exact_seq", "objective/mean"}
        assert found == {name: expected[name] for name in found}
    assert [*looked(whole[0])] == [0, 2, 4, 6]
    assert found["kl/reverse_exact_seq"] > looked(whole[0])[0]["kl/reverse_exact_seq"] == 0
    assert found["objective/mean"] == pytest.approx(found["reward/mean"] - 0.5 * found["kl/reverse_exact_seq"])


MOVING = ("adapter=lora", "reference/refresh=average", "reference.refresh.decay=0.5", "run.unroll_layers=true")
PYTHON = ("reward=[python,sentiment]", f"reward.python.function={__name__}.asks_for_the_step", "reward.sentiment.weight=0.0")
SHARDED = ("mesh={data: 2, fsdp: 2, tensor: 2}", "reference.dtype=bfloat16", "reference.memory=host")


@pytest.mark.parametrize("overrides", [(*MOVING, *PYTHON), SHARDED], ids=["LoRA, moving, Python's", "sharded"])
def test_so_they_are_of_other_runs(tiny, monkeypatch, overrides):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[asks_for_the_step.__module__])
    path = train(tiny(*LOOKS, "steps=4", "evaluation.every=4", *overrides))
    assert [*looked(path)] == [0, 4]
    run, found = restore(path, 4, ONE), looked(path)[4]
    expected = evaluation.evaluate(run, run.setup.config.evaluation).metrics
    assert {name: expected[name] for name in found} == pytest.approx(found, rel=2e-5, abs=1e-6)
    if overrides is not SHARDED:
        assert found["kl/reverse_exact_to_base_seq"] > found["kl/reverse_exact_seq"]
        assert found["reward/logged/words"] == 8.0


def test_training_sees_nothing_of_them(tiny, whole):
    path, _ = whole
    plain = train(tiny("optimizer.learning_rate=0.01"))
    assert lines(path, looks=False) == lines(plain)
    assert (path / "samples.jsonl").read_bytes() == (plain / "samples.jsonl").read_bytes()
    times = {key for line in directory.read_lines(path / "metrics.jsonl") for key in line if key.startswith("time/")}
    assert "time/evaluation" in times


def test_a_resumed_run_has_the_same_ones_and_the_same_best(tiny, whole, monkeypatch):
    config, take = tiny(*LOOKS, "run.variant=whole"), Trainer.batch

    def batch(trainer, step):
        if step == 2:
            monkeypatch.setattr(StopRequest, "asked", True)
        return take(trainer, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "batch", batch)
        with pytest.raises(Interrupted):
            train(config)
    monkeypatch.setattr(StopRequest, "asked", False)
    path = train(config)
    assert lines(path) == lines(whole[0])
    assert (path / BEST_FILE).read_bytes() == (whole[0] / BEST_FILE).read_bytes()


def test_a_longer_run_is_the_one_that_was_so_long_from_its_start(tiny, whole):
    train(tiny(*LOOKS, "run.variant=whole", "steps=4"))
    path = train(tiny(*LOOKS, "run.variant=whole"))
    assert lines(path) == lines(whole[0])


def test_the_best_stays_and_is_known_by_name(tiny, monkeypatch, capsys):
    """Whatever run.keep says; and `best` is what restores it."""
    figures = iter([0.0, 3.0, 1.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(held_out.HeldOut, "figures", lambda self, run: {"objective/mean": next(figures), "reward/mean": 0.0})
    path = train(tiny(*LOOKS, "steps=10", "run.save_every=5", "run.keep.last=2", "run.keep.every=0"))
    assert saved(path) == [2, 5, 10]
    assert restore(path, "best", ONE).step == 2
    shutil.rmtree(path / "checkpoints" / "2")
    assert restore(path, "best", ONE).step == 10
    assert "step 2 is the best, but its checkpoint is not there; step 10 is" in capsys.readouterr().out


def test_one_that_fails_loses_no_step(tiny, monkeypatch):
    config, fails = tiny(*LOOKS, "run.save_every=100"), [True]
    figures = held_out.HeldOut.figures

    def failing(self, run):
        if run.step == 4 and fails:
            raise UserError("reward.python: no.")
        return figures(self, run)

    monkeypatch.setattr(held_out.HeldOut, "figures", failing)
    with pytest.raises(UserError, match=r"reward.python: no. That was in the evaluation after step 4, which is saved"):
        train(config)
    fails.clear()
    path = train(config)
    assert [*looked(path)] == [0, 2, 4, 6]
    assert [line["step"] for line in lines(path)] == list(range(7))


def test_lines_that_are_looks_are_written_whatever_log_every_says(tiny, capsys):
    """And progress has the last one."""
    path = train(tiny(*LOOKS, "run.log_every=5", "evaluation.best=null"))
    assert [line["step"] for line in lines(path)] == [0, 2, 4, 5, 6]
    assert not (path / BEST_FILE).exists()
    reward, kl = (looked(path)[4][name] for name in ("reward/mean", "kl/reverse_exact_seq"))
    assert f"held-out reward (4) {reward:.3g}  KL (4) {kl:.3g}  " in capsys.readouterr().out


def test_the_last_policy_is_looked_at_whether_or_not_every_divides_the_steps(tiny, whole):
    path = train(tiny(*LOOKS, "run.variant=whole", "steps=5"))
    assert [*looked(path)] == [0, 2, 4, 5]
    train(tiny(*LOOKS, "run.variant=whole"))
    assert lines(path) == lines(whole[0])  # which has no look at 5
    assert (path / BEST_FILE).read_bytes() == (whole[0] / BEST_FILE).read_bytes()


def test_a_figure_to_watch_without_looks_is_refused(tiny):
    with pytest.raises(UserError, match=r"evaluation.best: got reward with evaluation.every=0, .* expected evaluation.every=…"):
        train(tiny("evaluation.best=reward"))
