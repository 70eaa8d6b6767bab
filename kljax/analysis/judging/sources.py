"""Completions that are to be judged: of a step of a run, of its reference or base, or of a file of another library's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from kljax.errors import UserError, did_you_mean
from kljax.json_text import key_text, shown
from kljax.progress import say
from kljax.reading import read_bytes, strict_json
from kljax.runs import index
from kljax.runs.config_file import BEST, FIT, Step, kind_of, read_config, read_run_config, run_and_step

OF_A_RUN = ("reference", "base")
"""Models of a run beside its policy, by which a or b names that of the other's."""
KEYS = ("prompt", "completion")
LARGEST = 2**28  # bytes of a file of completions
Place = tuple[str, int]
"""A prompt, and how many of the same prompt come before it: the k-th completion of a prompt goes with the other's k-th."""

OfRun = tuple[Path, Step]


@dataclass(frozen=True)
class Written:
    """A completion, and what is known of it: its reward and metrics by name."""

    text: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where completions come from, in words, and the completions by prompt."""

    name: str
    how: str
    texts: dict[Place, Written]


@dataclass(frozen=True)
class Asked:
    """The thing that a or b names: a model of a step of a run (`who`: policy, reference or base), or a file (no step)."""

    key: str
    path: Path
    step: Step | None
    who: str = "policy"

    @property
    def name(self) -> str:
        """As a person would call it."""
        if self.step is None:
            return str(self.path)
        at = f"{self.path}@{self.step}"
        return at if self.who == "policy" else f"{self.who} of {at}"


def named(a: str, b: str) -> tuple[Asked, Asked]:
    """The things that a and b name. UserError where there is no such thing, or both are one. Nothing large is imported."""
    if a in OF_A_RUN and b in OF_A_RUN:
        raise UserError(f"a: got {a!r} beside b={b}, expected a run in one of the two, whose {a} it is.")
    if a in OF_A_RUN:
        other = _one("b", b)
        return _of_other("a", a, other), other
    first = _one("a", a)
    second = _of_other("b", b, first) if b in OF_A_RUN else _one("b", b)
    if replace(first, key="") == replace(second, key=""):
        raise UserError(
            f"b: got {b!r}, which is a, too; expected another run, step or file (of a run's step also b=reference)."
        )
    return first, second


def _of_other(key: str, who: str, other: Asked) -> Asked:
    if other.step is None:
        raise UserError(
            f"{key}: got {who!r}, the model of a run, but {other.key} is the file {other.path}; expected a run or a file "
            f"(one that is called so is ./{who})."
        )
    return Asked(key, other.path, other.step, who)


def _one(key: str, given: str) -> Asked:
    if (found := run_and_step(given, key)) is not None:
        read_run_config(found[0])
        return Asked(key, found[0], _numbered(key, *found))
    file = Path(given).expanduser()
    if file.is_file():
        return Asked(key, file, None)
    try:
        read_config(file)
    except UserError as error:
        near = did_you_mean(given, OF_A_RUN) if "/" not in given else ""
        said = str(error).removeprefix("run: ").rstrip(".")
        raise UserError(
            f"{key}: {said}{'.' if not said.endswith('?') else ''}{near} Expected a run (runs/x@40 is its step 40), a file of "
            "JSON Lines with prompt and completion, or 'reference' (that of the other)."
        ) from None
    raise UserError(f"{key}: got {given!r}, expected a run or a file.")


def _numbered(key: str, path: Path, step: Step) -> Step:
    """The step by its number; of a fit latest and best are the model that it kept, from which RL starts."""
    if isinstance(step, int):
        return step
    if kind_of(path) == FIT:
        try:
            kept = index.kept(path)
        except ValueError as damage:
            raise UserError(f"{key}: {damage}.") from None
        if kept is None:
            raise UserError(f"{key}: {path} is a fit that is not finished; the command that began it goes on with it.")
        return kept
    from kljax.runs.best import best_step

    saved = index.steps(path)
    if not saved:
        raise UserError(f"{key}: {path} has no checkpoint yet; expected a run with one (kljax runs {path} says how far it is).")
    return best_step(path, saved, key) if step == BEST else saved[-1]


def read(a: Asked, b: Asked) -> tuple[Source, Source]:
    """The completions of both. An evaluation that is there is used; else the step is evaluated, and the figures kept.

    Two runs are compared by evaluations of the same settings where they have such; otherwise that which lacks one is
    evaluated as the other was.
    """
    of_runs = [one for one in (a, b) if one.step is not None]
    evaluations = _evaluations(of_runs)
    return _source(a, evaluations), _source(b, evaluations)


def _source(asked: Asked, evaluations: Mapping[OfRun, Mapping[str, Any]]) -> Source:
    if asked.step is None:
        return of_file(asked)
    found = evaluations[asked.path, asked.step]
    rows = [(row["prompt"], Written(row[asked.who], _figures(row, asked.who))) for row in _rows(asked, found)]
    settings = " ".join(f"{name}={value}" for name, value in found["settings"].items())
    name = f"{asked.path}@{found['step']}"
    name = name if asked.who == "policy" else f"{asked.who} of {name}"
    return Source(name, f"{name}, evaluated with {settings}", _placed(rows))


def _rows(asked: Asked, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = evaluation["samples"]
    if rows and asked.who not in rows[0] and asked.who == "base":
        raise UserError(
            f"{asked.key}: got 'base', but the policy of {asked.path} started from its reference; expected 'reference'."
        )
    return rows


def _figures(row: Mapping[str, Any], who: str) -> dict[str, float]:
    """The evaluation's figures of this completion: policy_reward is the policy's reward."""
    found = {key.removeprefix(f"{who}_"): value for key, value in row.items() if key.startswith(f"{who}_")}
    return {key: float(value) for key, value in found.items() if type(value) in (int, float)}


def _evaluations(asked: list[Asked]) -> dict[OfRun, Mapping[str, Any]]:
    """An evaluation for each step, of the same settings where that can be."""
    steps: list[OfRun] = list(dict.fromkeys((one.path, one.step) for one in asked if one.step is not None))
    there = {step: _there(*step) for step in steps}
    known = [{key_text(one["settings"]): len(one["samples"]) for one in found} for found in there.values()]
    if common := set.intersection(*map(set, known)) if known else set():
        best = max(common, key=lambda settings: (known[0][settings], settings))  # of the most prompts
        return {step: next(one for one in found if key_text(one["settings"]) == best) for step, found in there.items()}
    chosen: dict[OfRun, Mapping[str, Any]] = {step: found[0] for step, found in there.items() if found}
    for path, step in steps:
        if (path, step) not in chosen:
            settings = next((one["settings"] for one in chosen.values()), None)
            chosen[path, step] = _evaluate(path, step, settings)
    _say_where_they_differ(chosen)
    return chosen


def _say_where_they_differ(chosen: Mapping[OfRun, Mapping[str, Any]]) -> None:
    for (_, first), ((path, _), other) in pairwise(chosen.items()):
        if first["settings"] != other["settings"]:
            asked = " ".join(f"{name}={value}" for name, value in first["settings"].items())
            say(f"Evaluated with other settings: {path}; for the same: kljax analyze run={path} step={other['step']} {asked}")


def _there(path: Path, step: Step) -> list[dict[str, Any]]:
    """The evaluations of this step that have its completions, the run's own first."""
    from kljax.runs.evaluation_files import load_all

    found = [one for one in load_all(path) if one["step"] == step and "settings" in one]
    return [one for one in found if _has_samples(one)]


def _has_samples(evaluation: Mapping[str, Any]) -> bool:
    rows = evaluation.get("samples")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return False
    whole = {"prompt", "policy", "reference"} | ({"base"} if "base" in rows[0] else set())
    return all(all(isinstance(row.get(name), str) for name in whole) for row in rows)


def _prompts(evaluation: Mapping[str, Any]) -> int:
    return len(evaluation["samples"])


def _evaluate(path: Path, step: Step, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """As kljax analyze does, and kept where it would keep it."""
    from kljax.analysis.opened import ALONE
    from kljax.runs import evaluation, evaluation_files
    from kljax.runs.restore import restore

    restored = restore(path, step, ALONE)
    own = restored.setup.config.evaluation
    without = evaluation.left_out(restored, custom=False)
    say(f"{path} has no evaluation of step {restored.step} yet; its held-out prompts are completed now.")
    result = evaluation.evaluate(restored, replace(own, **settings) if settings else own, without)
    if not without:
        try:
            say(f"The evaluation is in {evaluation_files.save_analysis(result, path, own)}")
        except UserError as error:  # somebody else's run, say: what is judged lies in the key, too
            say(f"The evaluation is not kept: {error}")
    return {"step": result.step, "settings": result.settings, "samples": result.samples}


def of_file(asked: Asked) -> Source:
    """The rows of JSON Lines, or of a list of objects: prompt and completion, both text; any other number is a figure."""
    try:
        text = read_bytes(asked.path, LARGEST).decode("utf-8-sig")
        whole = strict_json(text) if text.lstrip().startswith("[") else None
    except (ValueError, OSError) as error:
        raise UserError(f"{asked.key}: '{asked.path}' cannot be read ({error}); expected JSON Lines in UTF-8.") from None
    entries = _lines(asked, text) if whole is None else [(f"entry {i}", row) for i, row in enumerate(whole)]
    rows = [(row["prompt"], _written(row)) for place, row in entries if _checked(asked, place, row)]
    if not rows:
        raise UserError(f"{asked.key}: '{asked.path}' is empty, expected at least one row with prompt and completion.")
    unused = dict.fromkeys(key for _, row in entries for key, value in row.items() if key not in KEYS and not _is_number(value))
    if unused:
        say(f"{asked.path}: not used, since they are no numbers in each row: {', '.join(unused)}.")
    return Source(str(asked.path), f"{asked.path}, {len(rows)} rows", _placed(rows))


def _lines(asked: Asked, text: str) -> list[tuple[str, Any]]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append((f"line {number}", strict_json(line)))
            except ValueError as error:
                raise UserError(
                    f"{asked.key}: line {number} of '{asked.path}' is no JSON ({error}); expected an object with prompt and "
                    "completion a line, or a run directory."
                ) from None
    return found


def _checked(asked: Asked, place: str, row: Any) -> bool:
    where = f"{asked.key}: {place} of '{asked.path}'"
    if not isinstance(row, dict):
        raise UserError(f"{where} is {shown(row, 60)}, expected an object with prompt and completion.")
    for key in KEYS:
        if key not in row:
            raise UserError(f"{where} has no {key!r}; it has: {', '.join(row)}.{did_you_mean(key, row)}")
        if not isinstance(row[key], str):
            raise UserError(f"{where} has {key} {shown(row[key], 60)}, expected text.")
    return True


def _written(row: Mapping[str, Any]) -> Written:
    return Written(
        row["completion"], {key: float(value) for key, value in row.items() if key not in KEYS and _is_number(value)}
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _placed(rows: list[tuple[str, Written]]) -> dict[Place, Written]:
    seen: Counter[str] = Counter()
    found = {}
    for prompt, written in rows:
        found[prompt, seen[prompt]] = written
        seen[prompt] += 1
    return found
