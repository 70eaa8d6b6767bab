"""TensorBoard's files, read back by TensorBoard itself."""

import math
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.util import tensor_util

from kljax.runs.board import LONGEST, SETTINGS, Board
from kljax.runs.config_file import flat, identity
from kljax.runs.directory import MetricsLog
from kljax.runs.trackers import tracking
from kljax.runs.trackers.tracker import Tracked

METRICS = {"reward/mean": 0.5, "kl/reverse_exact_seq": 2.0, "objective/mean": -0.5}


def write(path, steps, first=0, settings=None, metrics=METRICS):
    with tracking(["tensorboard"], Tracked(path, "grammar", settings or {}, first)) as board:
        for step in steps:
            board.write(step, metrics)


def read(path):
    found = EventAccumulator(str(path / "tensorboard"))
    found.Reload()
    return found


def bars(path, name):
    """{step: rows of left, right, height}."""
    return {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in read(path).Tensors(name)}


def test_a_list_is_a_histogram_with_a_bar_for_each_position(tmp_path):
    lists = [[0.5, 0.25, None, 0.125, math.nan], [1.0, -1e-9, math.inf, None, 0.5], [None, math.nan]]
    board = Board(tmp_path / "tensorboard", 0)
    log = MetricsLog(tmp_path, 0, board)
    for step, values in enumerate(lists):
        log.write(step, {**METRICS, "kl/reverse_exact_by_position": values})
    log.close()
    board.close()
    found = bars(tmp_path, "kl/reverse_exact_by_position")
    assert found.keys() == {0, 1}, "a list of nothing makes no histogram"
    np.testing.assert_array_equal(found[0], [[0, 1, 0.5], [1, 2, 0.25], [3, 4, 0.125]])
    np.testing.assert_array_equal(found[1], [[0, 1, 1.0], [1, 2, 0.0], [4, 5, 0.5]])
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("reward/mean")] == [(0, 0.5), (1, 0.5), (2, 0.5)]


@pytest.fixture
def page(tmp_path):
    """page(): what TensorBoard's own HParams page finds below tmp_path: its columns, its rows."""

    def look():
        multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
        multiplexer.Reload()
        provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
        context, request = Context(TBContext(data_provider=provider)), RequestContext()
        runs, others = context.hparams_metadata(request, ""), context.hparams_from_data_provider(request, "", None)
        experiment = context.experiment_from_metadata(request, "", True, runs, others)
        asked = ListSessionGroupsRequest(start_index=0, slice_size=100, col_params=[])
        asked.allowed_statuses.extend(range(4))
        rows = Handler(request, context, "", asked).run().session_groups
        return experiment, rows

    return look


def test_the_hparams_page_finds_settings_and_metrics(tiny, tmp_path, page):
    differing = ["kl.beta=0.25", "kl.hard_budget=5.0"], ["kl.beta=0.5"], ["kl.beta=0.5", "reward=[length,sentiment]"]
    configs = [tiny(*overrides) for overrides in differing]
    for i, config in enumerate(configs):
        write(tmp_path / str(i), range(2), settings=identity(config))
    experiment, rows = page()
    assert [info.name for info in experiment.hparam_infos][:2] == ["kl.beta", "kl.hard_budget"], "what differs comes first"
    assert {info.name for info in experiment.hparam_infos} == {key for config in configs for key in flat(identity(config))}
    assert METRICS.keys() <= {info.name.tag for info in experiment.metric_infos}
    assert len(rows) == 3
    found = {row.sessions[0].name.split("/")[0]: row for row in rows}
    settings = found["0"].hparams
    assert settings["kl.beta"].number_value == 0.25
    assert settings["kl.hard_budget"].number_value == 5.0
    assert found["1"].hparams["kl.hard_budget"].string_value == "null"
    assert settings["kl.penalty"].string_value == "exact"
    assert settings["data.share"].string_value == "[0.0, 1.0]"
    assert settings["model.tied_head"].WhichOneof("kind") == "bool_value"
    assert {value.name.tag: value.value for value in found["2"].metric_values}.items() >= METRICS.items()


def test_settings_of_any_kind_are_shown(tmp_path, page):
    values = {"inf": math.inf, "empty": {}, "surrogate": "a\ud800", "long": ["x"] * 1000, "zero": 0, "no": False}
    write(tmp_path, range(1), settings={"part": values})
    _, [row] = page()
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in row.hparams.items()}
    assert len(shown.pop("part.long")) == LONGEST + 1
    assert shown == {"part.inf": "inf", "part.empty": "{}", "part.surrogate": "a\\ud800", "part.zero": 0, "part.no": False}


def test_a_resume_repeats_the_settings_and_hides_the_steps_logged_in_vain(tmp_path, page):
    write(tmp_path, range(5), settings={"kl": {"beta": 0.5}})
    write(tmp_path, range(3, 6), first=3, settings={"kl": {"beta": 0.5}}, metrics={"reward/mean": 1.0, "list": [1.0]})
    found = read(tmp_path)
    assert [event.step for event in found.Scalars("reward/mean")] == [0, 1, 2, 3, 4, 5]
    assert [event.value for event in found.Scalars("reward/mean")] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert list(bars(tmp_path, "list")) == [3, 4, 5]
    experiment, [row] = page()
    assert row.hparams["kl.beta"].number_value == 0.5
    assert found.SummaryMetadata(SETTINGS).plugin_data.plugin_name == "hparams"
    assert {info.name.tag for info in experiment.metric_infos} == set(METRICS)


def test_writing_is_fast(tmp_path):
    """A step's forty numbers and a list take well below a millisecond; an `add_scalar` for each takes 20 times as long."""
    metrics = {f"metric/{i}": float(i) for i in range(40)} | {"list": [0.5] * 64}
    board = Board(tmp_path / "tensorboard", 0)
    log = MetricsLog(tmp_path, 0, board)
    took = []
    for step in range(30):
        began = time.thread_time()
        log.write(step, metrics)
        took.append(time.thread_time() - began)
    log.close()
    board.close()
    assert np.median(took) < 0.002
