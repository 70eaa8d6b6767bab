"""Series, runs side by side and layouts of a tiny step; and the script that writes them down."""

import json
import pickle

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import growth, scaling, series
from experiments.benchmarks.collectives import total
from experiments.benchmarks.timing import WARM
from experiments.benchmarks.work import Sizes
from kljax.command_line import compose
from kljax.config import Config
from kljax.devices.resources import chosen_devices
from kljax.devices.state import architecture
from kljax.errors import UserError
from kljax.models.decoder import Decoder
from kljax.runs import setup

STEPS = 2
WORDS, D_MODEL, D_MLP = 61, 16, 32
TINY = (
    "model.layers=1",
    f"model.d_model={D_MODEL}",
    f"model.d_mlp={D_MLP}",
    "model.heads=2",
    "model.kv_heads=2",
    "model.head_dim=8",
    "model.logit_chunk=4",
    f"data.source.words={WORDS}",
    "data.source.sentences=400",
    "rollout.samples=2",
    "rollout.max_new_tokens=4",
    "run.cpu_devices=null",  # the suite has its devices
    "mesh.data=1",
)
PARAMETERS = (WORDS + 3) * D_MODEL + 4 * D_MODEL**2 + 3 * D_MODEL * D_MLP + 3 * D_MODEL  # embedding, attention, MLP, norms


def config(overrides):
    return compose(overrides, Config)


@pytest.fixture(autouse=True, scope="module")
def elsewhere():
    """Nothing is compiled for its time: what would be sent to other processes can be, and is a program with its inputs."""

    def numbered(jobs):
        for job in jobs:
            program, *inputs = pickle.loads(pickle.dumps(job))()
            assert program.trace(*inputs).jaxpr.eqns
        return [1.0 + i for i in range(len(jobs))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "seconds_to_compile", numbered)
        yield


@pytest.fixture(scope="module")
def costs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scaling.SERIES, "batch", {"× 1": (), "× 4": ("rollout.prompts=16",)})
        return scaling.measure_series(config, "batch", STEPS, TINY)


@pytest.fixture(scope="module")
def runs():
    return scaling.measure_runs(config, STEPS, TINY, counts=(2,))


@pytest.fixture(scope="module")
def alone():
    return scaling.lay_out(config, "1 device", TINY)


@pytest.fixture(scope="module")
def data():
    return scaling.lay_out(config, "data=8", TINY)


@pytest.fixture(scope="module")
def layouts(alone, data):
    return {layout.label: layout for layout in (alone, data)}


def test_a_member_of_a_series_is_what_its_overrides_say(costs):
    one, four = costs
    assert one.sizes == Sizes(prompts=4, samples=2, prompt_length=16, new_tokens=4)
    assert four.sizes == Sizes(prompts=16, samples=2, prompt_length=16, new_tokens=4)
    assert one.parameters == four.parameters == PARAMETERS
    assert four.flops == 4 * one.flops
    assert four.temporaries > one.temporaries > 0
    for cost in costs:
        assert len(cost.step.seconds) == STEPS
        assert cost.step.min > 0
    assert [cost.compile_seconds for cost in costs] == [1.0, 2.0]


def test_ways_take_turns_and_what_warms_up_is_left_out():
    called = []

    def way(name):
        return lambda turn: called.append((name, turn)) or float(turn)

    first, second = scaling.in_turn([way("a"), way("b")], rounds=3)
    assert called == [(name, turn) for turn in range(WARM + 3) for name in "ab"]
    assert first.seconds == second.seconds == tuple(float(WARM + turn) for turn in range(3))


def test_a_series_has_the_devices_of_its_config():
    there = jax.device_count()
    tiny = (*series.BASE, *TINY, "mesh.data=-1", f"rollout.prompts={there}")
    assert scaling.as_configured(config, (*tiny, f"run.cpu_devices={there}")).trainer.setup.mesh.size == there
    assert scaling.on_one_device(config, tiny).trainer.setup.mesh.size == 1
    with pytest.raises(UserError, match=f"^run.cpu_devices: got {there + 1}"):
        scaling.as_configured(config, (*tiny, f"run.cpu_devices={there + 1}"))


def test_runs_side_by_side_are_the_runs_one_after_another():
    """The same states, noise and prompts: the same tokens, and the same parameters after a step."""
    ((it, one),) = scaling.compiled([scaling.on_one_device(config, (*scaling.SMALL, *TINY))])
    states, prompts = scaling.several(it, 2)
    stacked = scaling.stack(states), scaling.stack(prompts)
    together, _, outcome = scaling.side_by_side(it)(stacked[0], it.frozen, stacked[1])
    for run, (state, given) in enumerate(zip(states, prompts, strict=True)):
        after, _, alone = one.run(state, it.frozen, given)
        assert jnp.array_equal(alone.rollout.tokens, outcome.rollout.tokens[run])
        for mine, theirs in zip(*map(jax.tree.leaves, (after.params, together.params)), strict=True):
            assert jnp.allclose(mine, theirs[run], atol=1e-5)
    assert not jnp.array_equal(*outcome.rollout.tokens)


def test_runs_are_timed_both_ways(runs):
    (two,) = runs
    assert two.runs == 2
    assert len(two.together.seconds) == len(two.in_turn.seconds) == STEPS
    assert two.compile_seconds == 1.0
    assert min(two.together.min, two.in_turn.min, two.temporaries) > 0


def test_one_device_has_everything_and_nobody_to_speak_to(alone):
    assert alone.collectives.sampling == alone.collectives.elsewhere == {}
    assert alone.parameters == 4 * PARAMETERS
    parameters_moments_reference = 4 * alone.parameters
    prompts = 16 * 16 * (4 + 1)  # tokens and mask
    assert 0 <= alone.arguments - parameters_moments_reference - prompts < 100  # key, step, counts, beta


def test_with_data_parallelism_gradients_are_summed_and_sampling_asks_only_whether_all_have_ended(alone, data):
    assert data.parameters == 4 * PARAMETERS
    assert set(data.collectives.sampling) == {"all-reduce"}
    assert set(data.collectives.elsewhere) == {"all-reduce", "all-gather"}
    assert data.collectives.elsewhere["all-gather"].bytes < 2000  # digests of the prompts: errors count those that differ
    assert data.collectives.sampling["all-reduce"].number == 5  # after each token is drawn, and once more as the cache grows
    assert data.collectives.sampling["all-reduce"].bytes == 5
    assert data.collectives.elsewhere["all-reduce"].bytes > data.parameters
    assert data.temporaries < alone.temporaries


def test_with_fsdp_every_device_works_on_its_rows(monkeypatch):
    """Parameters are gathered, and not in sampling. If nothing says how activations lie, they are moved for every token."""
    changed = (*TINY, "rollout.max_new_tokens=16")
    held = scaling.lay_out(config, "fsdp=8", changed)

    def anywhere(config, vocab_size, mesh):
        return architecture(lambda rngs: Decoder(config, vocab_size, rngs=rngs), mesh)

    monkeypatch.setattr(setup, "decoder_architecture", anywhere)
    moved = scaling.lay_out(config, "fsdp=8", changed)
    assert held.parameters == moved.parameters < PARAMETERS  # bytes, of which each parameter has four
    assert held.collectives.elsewhere["all-gather"].bytes > 4 * PARAMETERS
    assert total(held.collectives.sampling).bytes < total(moved.collectives.sampling).bytes / 10


def test_tables_have_a_cell_for_every_head(costs, runs, layouts):
    memory, traffic = scaling.layout_tables(list(layouts.values()))
    tables = [scaling.cost_table(costs), scaling.runs_table(runs), memory, traffic]
    for rows in tables:
        assert len({len(row) for row in rows}) == 1
    seconds = tables[0][0].index("seconds ×")
    assert [row[seconds] for row in tables[0][1:]] == ["1.00", f"{costs[1].step.median / costs[0].step.median:.2f}"]
    assert len(traffic) == 1 + 2 * len(layouts)
    assert traffic[1][2:] == ["–"] * (len(traffic[0]) - 2)


@pytest.fixture
def script(monkeypatch, tmp_path, layouts):
    """script(*arguments): experiments/benchmarks/growth.py with layouts that are there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "MESHES", dict.fromkeys(layouts))
    monkeypatch.setattr(scaling, "lay_out", lambda compose, label, changed: layouts[label])
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)  # the suite has its devices and its cache

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["growth.py", *arguments])
        growth.main()

    return run


def test_the_script_replaces_one_series_and_keeps_the_others(script, tmp_path, layouts, capsys):
    out = tmp_path / "new" / "found.json"
    out.parent.mkdir()
    out.write_text('{"batch": 1, "devices": 2}')
    script("--series", "devices", "--out", str(out))
    found = json.loads(out.read_text())
    assert found["batch"] == 1
    assert [layout["label"] for layout in found["devices"]["figures"]] == list(layouts)
    assert found["devices"]["figures"][1]["collectives"]["sampling"]["all-reduce"]["number"] == 5
    assert "1 device" in capsys.readouterr().out


def test_the_script_takes_the_cpu_for_the_devices_that_a_series_needs():
    assert growth.devices_of("tokens", ()) == chosen_devices(config(series.BASE))
    assert growth.devices_of("batch", ("run.cpu_devices=1",)) == 1
    assert growth.devices_of("runs", ()) is None
    assert growth.devices_of("devices", ()) == series.DEVICES


def test_no_steps_are_refused(script):
    with pytest.raises(UserError, match=r"^--steps: got 0, expected at least 1"):
        script("--steps", "0")
