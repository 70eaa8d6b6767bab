"""The runs below a folder as a table, or as JSON: what varies among them, how far they are, what they came to."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from kljax.analysis.curves import labels
from kljax.config.validation import without_defaults
from kljax.json_text import json_text, key_text
from kljax.runs.index import Run

STYLES = {"running": "cyan", "stopped": "yellow", "finished": "green", "damaged": "red"}
UNSAID = "run", "track", "name"  # of a config: they are in the path, or change no number
AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def varying(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """The values that tell each from the others of its kind, as kljax frontier says it, and what holds where that is not said.

    Empty for what has no config, and where nothing varies.
    """
    said, usual = [""] * len(runs), []
    for kind in ("run", "fit"):
        own = {place: _compared(run) for place, run in enumerate(runs) if run.kind == kind}
        distinct = {key_text(config): config for config in own.values()}
        if len(distinct) < 2:
            continue
        names, same = labels(list(distinct.values()))
        named = dict(zip(distinct, names, strict=True))
        for place, config in own.items():
            said[place] = named[key_text(config)]
        usual += [f"Where a {kind} does not say otherwise: {same}."] if same else []
    return said, usual


def _compared(run: Run) -> dict[str, Any]:
    return {key: value for key, value in without_defaults(run.config or {}).items() if key not in UNSAID}


def table(runs: Sequence[Run], varied: Sequence[str], now: float) -> Table:
    """A row a run. `now` is the time since 1970, seconds."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("run, and what varies", overflow="fold")
    for name in ("step", "state", "reward", "KL"):
        made.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    made.add_column("of")
    made.add_column("age", justify="right", no_wrap=True)
    made.add_column("size", justify="right", no_wrap=True)
    for run, words in zip(runs, varied, strict=True):
        figures = run.figures
        cells = [
            Text("\n").join([Text(str(run.path)), *(Text(part, "dim") for part in (words, run.note) if part)]),
            _steps(run),
            Text(run.state, STYLES[run.state]),
            _figure(figures.reward if figures else None),
            _figure(figures.kl if figures else None),
            figures.source.replace(", ", "\n") if figures else "",
            _rounded(max(now - run.changed, 0.0), AGES) if run.changed else "",
            _rounded(float(run.size), SIZES),
        ]
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return made


def json_of(runs: Sequence[Run], varied: Sequence[str], now: float) -> str:
    """A list of one object a run; what is not known is null. Age in seconds, size in bytes, KL in nats per sequence."""
    return json_text(
        [
            {
                "path": str(run.path),
                "kind": run.kind,
                "varies": words or None,
                "step": run.step,
                "steps": run.steps,
                "best": run.best,
                "state": run.state,
                "note": run.note,
                "reward": run.figures.reward if run.figures else None,
                "kl": run.figures.kl if run.figures else None,
                "figures": run.figures.source if run.figures else None,
                "age": max(now - run.changed, 0.0) if run.changed else None,
                "size": run.size,
            }
            for run, words in zip(runs, varied, strict=True)
        ],
        indent=2,
    )


def _steps(run: Run) -> str:
    """How far it is, and which step is the best."""
    far = f"{run.step}/{run.steps}" if run.steps is not None else f"{run.step}"
    return far if run.best is None else f"{far}\nbest {run.best}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rounded(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which there is one at least."""
    size, unit = next((one for one in units if value >= one[0]), units[-1])
    return f"{value / size:.3g} {unit}" if unit in ("GB", "MB") else f"{value / size:.0f} {unit}"
