"""TensorBoard's event files: numbers, lists as histograms, a run's settings for its HParams page."""

import math
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kljax.disk import Growing
from kljax.json_text import json_text, unicode_text
from kljax.runs.config_file import flat
from kljax.runs.trackers.tracker import End, Metrics, Tracked


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
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo  # pyright: ignore
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata  # pyright: ignore
    from tensorboardX.proto.tensor_pb2 import TensorProto  # pyright: ignore
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto  # pyright: ignore
    from tensorboardX.record_writer import masked_crc32c

SETTINGS = "_hparams_/session_start_info"  # the name under which the HParams page looks for them
VERSION = "brain.Event:2"  # of event files
FLOAT32 = 1  # of TensorFlow's list of types
LONGEST = 200  # characters of a setting that is a text


class Board:
    """Event files in a folder. What an earlier process wrote of `first_step` and later is hidden."""

    def __init__(self, folder: Path, first_step: int):
        # A file is named by its second: without the suffix a run that is resumed within one would go on with its beginning.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{first_step:09d}"
        # Not tensorboardX's own writer: its thread dies where the disk is full, and the run would wait for it for ever.
        self._stream = Growing(folder / name)
        self._add_event(Event(file_version=VERSION))
        self._add_event(Event(step=first_step, file_version=VERSION))
        self._add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    @classmethod
    def of_run(cls, run: Tracked) -> "Board":
        """The run's own, which it is a tracker of."""
        board = cls(run.path / "tensorboard", run.first_step)
        board.write_settings(flat(run.settings))
        return board

    def write(self, step: int, metrics: Metrics) -> None:
        """One step's metrics in one event: `add_scalar` for each takes 20 times as long."""
        self._add([value for name, metric in metrics.items() if (value := _value(name, metric)) is not None], step)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """The run's settings, by dotted names. TensorBoard lists first what differs between the runs that it shows.

        It does so where no run brings a list of names of its own, which would hold for all runs.
        """
        start = SessionStartInfo(start_time_secs=time.time())
        for name, value in settings.items():
            setattr(start.hparams[name], *_typed(value))
        content = HParamsPluginData(session_start_info=start, version=0).SerializeToString()
        self._add([Summary.Value(tag=SETTINGS, metadata=_metadata("hparams", content))], 0)

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Nothing: it draws lines, and these figures are one point."""

    def close(self, end: End = "finished") -> None:
        """Close the file."""
        self._stream.close()

    def _add(self, values: list[Any], step: int) -> None:
        self._add_event(Event(step=step, summary=Summary(value=values)))

    def _add_event(self, event: Any) -> None:
        """A record: its length, the checksum of that, the event, its checksum."""
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        parts = (length, _checksum(length), content, _checksum(content))
        self._stream.add(b"".join(parts))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


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
