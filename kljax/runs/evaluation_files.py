"""Where evaluations lie in a run's directory: evaluation/step_000080.json is the run's own, others say how they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kljax.config import EvaluationConfig
from kljax.disk import writing_to
from kljax.errors import UserError
from kljax.json_text import strict_json_text
from kljax.reading import parsed_json, read_bytes
from kljax.runs import config_file, digests
from kljax.runs.directory import check_written
from kljax.runs.evaluation import Evaluation, settings_of

FOLDER = "evaluation"
LARGEST = 2**28  # bytes of one


def save_own(evaluation: Evaluation, run: Path) -> Path:
    """Write what the run says of itself: step_<step>.json."""
    return _write(evaluation, run / FOLDER / f"{_step(evaluation)}.json")


def save_analysis(evaluation: Evaluation, run: Path, own: EvaluationConfig, readings: Sequence[str] = ()) -> Path:
    """Write an evaluation beside the run's own, never over it; the same settings and step give the same file.

    The name says which settings are not the run's `own`, and `readings` of a task that are not the run's. Where none differ it
    is the run's own evaluation: written if it is not there yet. One that an older version wrote stays, and the name then says
    all settings.
    """
    asked, usual = evaluation.settings, settings_of(own)
    differing = {name: value for name, value in asked.items() if value != usual[name]}
    if readings:  # the figures of a task are others, reward and KLs are the same
        differing["readings"] = "+".join(readings)
    file = _named(evaluation, run, differing)
    if file.exists() and not differing:
        there = _read(file)
        if there.get("settings") == asked:
            return file
        file = _named(evaluation, run, asked)
    return _write(evaluation, file)


def load_all(run: Path) -> list[dict[str, Any]]:
    """All evaluations of a run, by step, its own first."""
    files = sorted((run / FOLDER).glob("step_*.json"), key=lambda file: (_number(file), len(file.name), file.name))
    return [_read(file) for file in files]


def _number(file: Path) -> int:
    """The step that a file's name begins with."""
    digits = file.stem.split("_")[1]
    return int(digits) if digits.isdecimal() else 0


def _read(file: Path) -> dict[str, Any]:
    run = file.parents[1]
    check_written(run, f"{FOLDER}/{file.name}", f"remove it, then kljax analyze run={run} makes one")
    try:
        found = parsed_json(read_bytes(file, LARGEST), constant=float)  # older versions wrote NaN
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file} cannot be read as an evaluation; remove it, then kljax analyze run={file.parents[1]} makes one."
        ) from None
    found["metrics"] = Figures(file, found["metrics"])
    found["by_prompt"] = [Figures(file, entry) for entry in found.get("by_prompt", [])]
    return found


class Figures(dict[str, Any]):
    """Figures by their names, of which one that is asked for and not there is said to lack in its file."""

    def __init__(self, file: Path, figures: Mapping[str, Any]):
        super().__init__(figures)
        self._file = file

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"{self._file} has no {name}, which the evaluations of other runs have; remove it, then kljax analyze "
            f"run={self._file.parents[1]} makes it anew."
        )


def _check(found: Any) -> None:
    """ValueError, or what Python raises, where something that is read of evaluations is not what this file writes.

    Those of older versions have no settings, and nothing else of them is read.
    """
    numbers = list(found["metrics"].values()) if "settings" in found else []
    if "settings" in found:
        numbers += [found["of"][name] for name in ("samples", "prompts", "distinct_prompts")]
        if not {"prompts", "samples"} <= found["settings"].keys() <= {field.name for field in fields(EvaluationConfig)}:
            raise ValueError("it has other settings than an evaluation")
        numbers += list(found["settings"].values())
        for entry in found["by_prompt"]:
            numbers += [value for key, value in entry.items() if key not in ("prompt", "id")]
            if not isinstance(entry["id"], str) or type(entry["completions"]) is not int or entry["completions"] < 1:
                raise ValueError("it has a prompt without id or completions")
    if type(found["step"]) is not int or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError("it has something else where a number belongs")


def _named(evaluation: Evaluation, run: Path, settings: Mapping[str, Any]) -> Path:
    name = "_".join([_step(evaluation), *(f"{key}-{value}" for key, value in settings.items())])
    return run / FOLDER / f"{name}.json"


def _step(evaluation: Evaluation) -> str:
    return f"step_{evaluation.step:06d}"


def _write(evaluation: Evaluation, file: Path) -> Path:
    run = file.parents[1]
    with writing_to(file.parent):
        file.parent.mkdir(exist_ok=True)
    text = strict_json_text(asdict(evaluation), str(file), indent=2) + "\n"
    if config_file.has_digests(run):
        digests.write_text(run, f"{FOLDER}/{file.name}", text)
    else:
        digests.write_atomically(file, text)
    return file
