"""A measurement of seconds from end to end: what is timed is a real step, and what is written down can be read."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import accelerator, growth, machine, peers, report, speed, timing
from experiments.benchmarks.machine import Ceiling
from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from kljax.training.trainer import MAX_KL_AT_START

STEPS = 2


@pytest.fixture(scope="module")
def tiny_benchmark(tiny_in, tmp_path_factory):
    """tiny_benchmark(*overrides): the config of experiment=benchmark_xs in a size of seconds."""
    fixed = [*tiny_in(tmp_path_factory.mktemp("runs")), "experiment=benchmark_xs", "run.sample_every=3"]
    return lambda *overrides: compose([*fixed, *overrides], Config)


@pytest.fixture(scope="module")
def measured(tiny_benchmark):
    before = jax.config.jax_compilation_cache_dir
    found = timing.measure(tiny_benchmark(), STEPS)
    assert jax.config.jax_compilation_cache_dir == before
    return found


@pytest.fixture(scope="module")
def figures(measured):
    measurement, it = measured
    environment = {"size": "tiny", "environment": machine.describe(), "peers": []}
    return report.figures(Ceiling(1e9, 1e10), it, measurement, timing.time_loop(it)) | environment


def test_every_program_is_timed_as_often_as_asked(measured):
    measurement, it = measured
    for timed in (measurement.step, measurement.rollout, measurement.scoring, measurement.update):
        assert len(timed.seconds) == STEPS
        assert 0 < timed.min <= timed.median <= timed.max
    assert measurement.compile_cold > measurement.compile_cached > 0
    assert measurement.peak_memory is None or measurement.peak_memory > 4 * it.parameters
    assert it.parameters == sum(leaf.size for leaf in jax.tree.leaves(it.state.params))


def test_every_step_is_a_whole_one(measured):
    """No token ends a completion, and the policy moves away from the reference, at which it began."""
    _, it = measured
    taken = int(it.state.step)
    metrics, outcome = it.take_step(0)
    assert outcome.rollout.mask.all()
    assert int(it.state.step) == taken + 1
    assert float(metrics["kl/reverse_exact_seq"]) > 0
    assert any(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (it.state.params, it.frozen.reference)), strict=True))


def test_our_own_steps_are_printed_as_the_peers_print_theirs(measured, capsys):
    peers.as_peer(measured[1], steps=1)
    steps, said = peers.parse(capsys.readouterr().out)
    assert len(steps) == timing.WARM + 1
    assert (said["params"], said["batch"], said["new_tokens"]) == (measured[1].parameters, 16, 8)
    assert said["peak_rss_mb"] > 10


def test_figures_are_consistent_and_written(figures, tmp_path):
    assert figures["floor"]["step"] == pytest.approx(figures["floor"]["rollout"] + figures["floor"]["update"])
    assert figures["floor"]["step"] < figures["floor_as_peers_do"]["step"]
    assert figures["fraction_of_floor"]["step"] == figures["floor"]["step"] / figures["seconds"]["step"]["median"]
    assert figures["generated_tokens_per_second"] == pytest.approx(16 * 8 / figures["seconds"]["step"]["median"])
    assert figures["loop"]["overhead"] < 1
    assert json.loads(report.write_json(figures, tmp_path / "new").read_text()) == json.loads(json.dumps(figures))


def test_tables_have_a_cell_for_every_head_and_the_peers_stand_beside_ours(figures):
    standing = {"parameters": 7, "tokens_per_second": 9.0, "peak_rss_mb": 100}
    named = (("kljax", 1.0), ("theirs", 2.5))
    standings = [standing | {"name": name, "step": {"median": x, "min": x, "max": x}} for name, x in named]
    tables = report.tables(figures | {"peers": standings})
    assert len(tables) == 3
    for rows in tables:
        assert len({len(row) for row in rows}) == 1
    assert tables[0][1][:2] == ["median", report._short(figures["seconds"]["rollout"]["median"])]
    assert tables[2][2][:5] == ["theirs", "2.5", "2.5", "2.5", "2.50"]
    report.show(figures | {"peers": standings})


def test_what_is_measured_on_an_accelerator_can_be_measured_here(tiny_benchmark, measured, monkeypatch):
    monkeypatch.setattr(accelerator, "measure_ceiling", lambda dtype: Ceiling(1e9, 1e10))
    found = accelerator.measure(tiny_benchmark(), STEPS)
    assert found["parameters"] == measured[1].parameters
    for seconds in (found["seconds"], found["compile_seconds"]):
        assert set(seconds) == {"step", "rollout", "scoring", "update"}
        assert min(seconds.values()) > 0
    assert found["kl_at_start"] < MAX_KL_AT_START["float32"]
    assert found["logp_gap"] < 1e-5
    assert found["update_mfu"] == pytest.approx(found["update_tflops"] * 1e12 / 1e9)
    rows = accelerator.table([found | {"size": "tiny"}] * 2)
    assert rows[:2] == [["size", "tiny", "tiny"], ["dtype", "float32", "float32"]]
    assert {len(row) for row in rows} == {3}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reward=regex"], "^reward: got one that Python computes"),
        (["data.prompt.min_tokens=1"], "^data.prompt: got prompts of different lengths"),
        (["rollout.updates=2"], "^rollout.updates: got 2, expected 1"),
    ],
)
def test_a_step_of_unknown_work_is_refused(tiny_benchmark, overrides, said):
    with pytest.raises(UserError, match=said):
        timing.subject(tiny_benchmark(*overrides))


def test_several_devices_are_refused_where_each_has_a_ceiling_of_its_own(tiny_benchmark, monkeypatch):
    trainer = timing.subject(tiny_benchmark("mesh.data=2")).trainer
    assert trainer.setup.mesh.size == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"^mesh: got 2 devices, expected the one whose ceiling is measured"):
        timing.subject(tiny_benchmark("mesh.data=2"))


def test_the_ceiling_is_the_best_of_the_products(monkeypatch):
    monkeypatch.setitem(machine.PRODUCTS, "cpu", ((8, 8, 8), (64, 64, 64)))
    monkeypatch.setitem(machine.MOVED, "cpu", 2**12)
    ceiling = machine.measure_ceiling("float32")
    assert ceiling.flops_per_second > 0
    assert ceiling.bytes_per_second > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--size", "xl"], "gpu.*m.*s.*smollm2.*xs"), ([], "--size"), (["--size", "s", "--only", "stop"], "step")],
)
def test_a_mistake_on_the_command_line_is_answered_with_what_is_right(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr("sys.argv", ["speed.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        speed.parse()
    assert ended.value.code == 2
    assert said.split(".*")[0] in capsys.readouterr().err


def test_no_steps_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["speed.py", "--size", "s", "--steps", "0"])
    with pytest.raises(UserError, match=r"^--steps: got 0, expected at least 1"):
        speed.parse()


@pytest.mark.parametrize("script", [speed, growth])
def test_a_script_finds_itself_for_another_process(script):
    assert (sys.executable, "-m", script.__name__) == script.AGAIN


def test_what_the_loop_costs_is_told_turn_by_turn_where_a_machine_slows_down():
    loop = timing.Loop(bare=timing.Timed((1.0, 2.0, 4.0)), looped=timing.Timed((1.25, 2.5, 5.0)))
    assert loop.overhead == pytest.approx(0.2)
    assert timing.Loop(loop.bare, timing.Timed((1.25, 9.0, 5.0))).overhead == pytest.approx(0.2)  # one turn disturbed
