"""TensorBoard's event files: numbers, lists as histograms, a run's settings for its HParams page."""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kljax.disk import writing_to
from kljax.json_text import json_text, unicode_text


@contextmanager
def _without(name: str) -> Iterator[None]:
    """As if a package that nothing has imported yet were not installed."""
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # pyright: ignore  # so `import` raises an ImportError
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


with _without("torch"):  # where it is installed tensorboardX imports it, for tensors that it never gets here: a second
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo  # pyright: ignore
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata  # pyright: ignore
    from tensorboardX.proto.tensor_pb2 import TensorProto  # pyright: ignore
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto  # pyright: ignore

SETTINGS = "_hparams_/session_start_info"  # the name under which the HParams page looks for them
FLOAT32 = 1  # of TensorFlow's list of types
LONGEST = 200  # characters of a setting that is a text


class Board:
    """Event files in a folder. What an earlier process wrote of `first_step` and later is hidden."""

    def __init__(self, folder: Path, first_step: int):
        self._folder = folder
        # A file is named by its second: without the suffix a run that is resumed within one would overwrite its beginning.
        # Not tensorboardX's own writer: its thread dies where the disk is full, and the run would wait for it for ever.
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{first_step:09d}")
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, metrics: Mapping[str, float | Sequence[float | None]]) -> None:
        """One step's metrics in one event: `add_scalar` for each takes 20 times as long."""
        self._add([value for name, metric in metrics.items() if (value := _value(name, metric)) is not None], step)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """What the run is, by dotted names. TensorBoard lists first what differs between the runs that it shows.

        It does so where no run brings a list of names of its own, which would hold for all runs.
        """
        start = SessionStartInfo(start_time_secs=time.time())
        for name, value in settings.items():
            setattr(start.hparams[name], *_typed(value))
        content = HParamsPluginData(session_start_info=start, version=0).SerializeToString()
        self._add([Summary.Value(tag=SETTINGS, metadata=_metadata("hparams", content))], 0)

    def close(self) -> None:
        """Close the file."""
        with writing_to(self._folder):
            self._writer.close()

    def _add(self, values: list[Any], step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with writing_to(self._folder):
            self._writer.write_event(event)
            self._writer.flush()


def _value(name: str, metric: float | Sequence[float | None]) -> Any:
    """A number, or a list as a histogram: entry i is the height of the bar from i to i + 1. None for an empty one."""
    if not isinstance(metric, Sequence):
        return Summary.Value(tag=name, simple_value=metric)
    heights = np.array([math.nan if height is None else height for height in metric], np.float32)
    places = np.flatnonzero(np.isfinite(heights))
    if not len(places):
        return None
    bars = np.stack([places, places + 1, np.maximum(heights[places], 0.0)], axis=1).astype("<f4")
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in bars.shape])
    tensor = TensorProto(dtype=FLOAT32, tensor_shape=shape, tensor_content=bars.tobytes())
    return Summary.Value(tag=name, metadata=_metadata("histograms", b""), tensor=tensor)


def _metadata(plugin: str, content: bytes) -> Any:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))


def _typed(value: Any) -> tuple[str, Any]:
    """The field of the value's type, and the value; what is neither number nor truth value is text."""
    if isinstance(value, bool):
        return "bool_value", value
    if isinstance(value, int | float) and math.isfinite(value):
        return "number_value", value
    text = value if isinstance(value, str) else str(value) if isinstance(value, float) else json_text(value)
    text = unicode_text(text)
    return "string_value", text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
