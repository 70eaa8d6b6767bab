"""Measurements as JSON and as tables on the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks import tables as as_tables
from experiments.benchmarks.launch import Launch
from experiments.benchmarks.machine import Ceiling
from experiments.benchmarks.peers import Standing
from experiments.benchmarks.tables import Rows
from experiments.benchmarks.timing import Loop, Measurement, Subject, Timed
from experiments.benchmarks.work import Work, step_work
from kljax.config import to_dict
from kljax.json_text import json_text
from kljax.runs.directory import write_atomically

Figures = dict[str, Any]
"""Contents of a benchmark's JSON file; every time is in seconds."""

COLUMNS = {
    # of the table: parts of a step whose floors add up to its own. The policy's forward pass must be made once: in sampling.
    "rollout": ("prefill", "decode"),
    "scoring": ("policy", "reference"),
    "update": ("reference", "update"),
    "step": ("prefill", "decode", "reference", "update"),
}
AS_PEERS_DO = COLUMNS | {
    "update": ("policy", "reference", "update"),
    "step": ("prefill", "decode", "policy", "reference", "update"),
}
HEADS = {
    "rollout": "rollout",
    "scoring": "scoring (forward only)",
    "update": "update (scoring included)",
    "step": "whole step",
}


def figures(ceiling: Ceiling, it: Subject, measured: Measurement, loop: Loop | None) -> Figures:
    """Measurements of one size, the floors worked out."""
    setup = it.trainer.setup
    about = setup.decoder, setup.vocab_size, it.sizes, setup.config.adapter.kind == "lora", setup.config.rollout.cache_dtype
    work, repeated = step_work(*about), step_work(*about, repeated=True)
    floor, as_peers_do = _floors(work, ceiling, COLUMNS), _floors(repeated, ceiling, AS_PEERS_DO)
    seconds = {name: _timed(getattr(measured, name)) for name in COLUMNS}
    return {
        "ceiling": asdict(ceiling),
        "sizes": {
            "parameters": it.parameters,
            "vocab_size": setup.vocab_size,
            "rollout": asdict(it.sizes),
            "model": to_dict(setup.decoder),
            "adapter": to_dict(setup.config.adapter),
        },
        "seconds": seconds,
        "work": {name: asdict(part) for name, part in work.items()},
        "work_repeated_prompts": {name: asdict(part) for name, part in repeated.items()},
        "floor": floor,
        "fraction_of_floor": {name: floor[name] / seconds[name]["median"] for name in COLUMNS},
        "floor_as_peers_do": as_peers_do,
        "fraction_as_peers_do": {name: as_peers_do[name] / seconds[name]["median"] for name in COLUMNS},
        "generated_tokens_per_second": it.sizes.rows * it.sizes.new_tokens / measured.step.median,
        "compile": {"cold": measured.compile_cold, "cached": measured.compile_cached},
        "peak_memory_bytes": measured.peak_memory,
        "loop": loop and {"bare": _timed(loop.bare), "looped": _timed(loop.looped), "overhead": loop.overhead},
    }


def launched(launch: Launch) -> Figures:
    """The seconds of two launches, and what the second takes beside its imports."""
    return asdict(launch) | {"beyond_imports": launch.beyond_imports}


def standings(found: Sequence[Standing]) -> list[Figures]:
    """The peers' figures, ours first."""
    return [asdict(standing) | {"step": _timed(standing.step)} for standing in found]


def write_json(found: Figures, folder: Path) -> Path:
    """<folder>/<size>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{found['size']}.json"
    write_atomically(file, json_text(found, indent=1) + "\n")
    return file


def show(found: Figures) -> None:
    """The tables on the terminal."""
    as_tables.show(f"{found['size']}: {caption(found)}", tables(found))


def caption(found: Figures) -> str:
    """When, where, with what, by which command, and what the machine could do."""
    ceiling = found["ceiling"]
    return (
        f"{as_tables.measured_on(found['environment'])} Ceiling: {_short(ceiling['flops_per_second'] / 1e9)} GFLOP/s, "
        f"{_short(ceiling['bytes_per_second'] / 1e9)} GB/s."
    )


def tables(found: Figures) -> list[Rows]:
    """The step in parts, the other figures, and where they were measured the loop and the peers."""
    made = [_parts_table(found), _other_table(found)]
    return made + ([_peers_table(found["peers"])] if found["peers"] else [])


def _parts_table(found: Figures) -> Rows:
    def row(label: str, values: dict[str, float], form: str = "") -> list[str]:
        return [label, *(f"{values[name]:{form}}" if form else _short(values[name]) for name in COLUMNS)]

    seconds = found["seconds"]
    spread = [row(label, {name: seconds[name][label] for name in COLUMNS}) for label in ("median", "min", "max")]
    return [
        ["seconds", *HEADS.values()],
        *spread,
        row("floor", found["floor"]),
        row("floor / median", found["fraction_of_floor"], ".0%"),
        row("floor as the peers do it", found["floor_as_peers_do"]),
        row("that floor / median", found["fraction_as_peers_do"], ".0%"),
    ]


def _other_table(found: Figures) -> Rows:
    memory, loop = found["peak_memory_bytes"], found["loop"]
    columns = {
        "parameters": f"{found['sizes']['parameters']:,}",
        "generated tokens/s": _short(found["generated_tokens_per_second"]),
        "compile, cold": f"{_short(found['compile']['cold'])} s",
        "from the cache": f"{_short(found['compile']['cached'])} s",
        "peak memory": "not known" if memory is None else f"{memory / 2**20:,.0f} MiB",
    }
    if loop:
        columns |= {
            "steps/s in the loop": _short(1 / loop["looped"]["median"]),
            "of it outside the step": f"{loop['overhead']:.1%}",
        }
    if launch := found.get("launch"):
        columns |= {
            "first launch to first step": f"{_short(launch['cold'])} s",
            "second": f"{_short(launch['cached'])} s",
            "of it beyond imports": f"{_short(launch['beyond_imports'])} s",
        }
    return [list(columns), list(columns.values())]


def _peers_table(standings: Sequence[dict[str, Any]]) -> Rows:
    ours = standings[0]["step"]["median"]
    head = ["whole step, s", "median", "min", "max", "/ ours", "generated tokens/s", "peak RSS, MiB", "parameters"]
    return [
        head,
        *(
            [
                standing["name"],
                *(_short(standing["step"][name]) for name in ("median", "min", "max")),
                f"{standing['step']['median'] / ours:.2f}",
                _short(standing["tokens_per_second"]),
                f"{standing['peak_rss_mb']:,}",
                f"{standing['parameters']:,}",
            ]
            for standing in standings
        ),
    ]


def _floors(work: dict[str, Work], ceiling: Ceiling, columns: dict[str, tuple[str, ...]]) -> dict[str, float]:
    least = {name: part.seconds(ceiling.flops_per_second, ceiling.bytes_per_second) for name, part in work.items()}
    return {name: sum(least[part] for part in parts) for name, parts in columns.items()}


def _timed(timed: Timed) -> dict[str, Any]:
    return {"median": timed.median, "min": timed.min, "max": timed.max, "seconds": list(timed.seconds)}


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
