"""The contents of a folder: runs and fits, how far each is, what it says of itself, and what can be seen to be broken in it.

A few milliseconds a run: of checkpoints only names and sizes are looked at. JAX-free, and writes nothing.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kljax.errors import UserError, did_you_mean
from kljax.runs import digests
from kljax.runs.best import BEST_FILE, HELD_OUT, best_of, read
from kljax.runs.config_file import BEFORE_A_RUN, CONFIG, HOLDER, LOCK, RL, has_digests, kind_of, read_config, read_fit

State = Literal["running", "stopped", "finished", "damaged"]

MARKS, RESTS = {CONFIG, HOLDER}, {"environment.json", "model.json", "metrics.jsonl", "checkpoints"}
"""By any of the former, or two of the latter, a directory is a run's or a fit's, whole or not."""

OF_A_STATE = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "about/metadata")
OF_PARAMETERS = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")
"""Files that are in every checkpoint, and in every folder of parameters that do not change. None is empty."""

TAIL = 1 << 16  # bytes that the last line of metrics.jsonl is looked for in, at first
REWARD, KL = "reward/mean", "kl/reverse_exact_seq"


@dataclass(frozen=True)
class Figures:
    """Reward and KL in nats per sequence, or what a fit says in their place, and from where."""

    source: str
    reward: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Run:
    """A run or a fit (or what is left of one: then its kind or its config is None).

    `step` is that of the last checkpoint (of a running one the last that it has logged, if that is later), `steps` what it is
    to have, `note` why it is damaged or who is running it, `changed` the time of its youngest file, in seconds since 1970,
    `best` the best of its saved steps, where it was looked at while it trained.
    """

    path: Path
    kind: Literal["run", "fit"] | None
    config: Mapping[str, Any] | None
    state: State
    note: str | None
    step: int
    steps: int | None
    figures: Figures | None
    changed: float
    size: int  # bytes
    best: int | None = None


def find(paths: Sequence[Path]) -> list[Path]:
    """Every directory of a run or a fit at or below the paths, in order; nothing is looked for inside of one."""
    found = set()
    for path in paths:
        if not path.is_dir():
            what = "is no directory" if path.exists() else "no such directory"
            beside = [str(one) for one in path.parent.glob("*") if one.is_dir()] if path.parent.is_dir() else []
            raise UserError(f"{path}: {what}; expected runs, or folders that hold some.{did_you_mean(str(path), beside)}")
        for folder, below, files in os.walk(path):
            if MARKS & {*files} or len(RESTS & {*below, *files}) > 1:
                found.add(Path(folder))
                below.clear()
            below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def look(path: Path) -> Run:
    """One of them, as it is now. Nothing in it that is broken is an error."""
    files = dict(_files(path))
    changed, size = max((file.st_mtime for file in files.values()), default=0.0), sum(file.st_size for file in files.values())
    steps = _saved(files)
    who = holder(path)
    try:
        config: Mapping[str, Any] = read_config(path)
        kind = "run" if kind_of(path) == RL else "fit"
        if kind == "fit" and has_digests(path):
            config = {key: value for key, value in read_fit(path).items() if isinstance(value, dict)}  # what it depends on
        planned = int(config["steps"] if kind == "run" else config["pretrain"]["steps"])
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        if not files.keys() - BEFORE_A_RUN:  # a launch that has not come, or did not come, as far as its config.yaml
            note = who or f"stopped before {path / CONFIG} was written"
            return Run(path, None, None, "running" if who else "stopped", note, 0, None, None, changed, size)
        reason = str(error).removeprefix("run: ") if isinstance(error, UserError) else f"{path / CONFIG} says no steps"
        if not (path / CONFIG).exists():
            reason = f"{path / CONFIG} is missing"
        return Run(path, None, None, "damaged", reason, max(steps, default=0), None, None, changed, size)
    step, note, best = max(steps, default=0), None, None
    logged = _last_line(path / "metrics.jsonl", _entry)
    try:
        figures = (
            _of_run(path, files, logged, config)
            if kind == "run"
            else (_of_evaluation(path, files, kept(path)) or _of_fit(path))
        )
        note = _broken(path, kind, files, steps)
        best = _best(path, steps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        figures, note = None, str(error) if isinstance(error, _Broken) else f"{path}: {type(error).__name__} ({error})"
    if who:
        step = max(step, int(logged["step"]) + 1 if logged else 0)
        return Run(path, kind, config, "running", who, step, planned, figures, changed, size, best)
    done = step >= planned if kind == "run" else (path / "result.json").exists()
    state = "damaged" if note else "finished" if done else "stopped"
    return Run(path, kind, config, state, note, step, planned, figures, changed, size, best)


def steps(path: Path) -> list[int]:
    """The steps of a run that have a whole checkpoint, as far as names and sizes say."""
    return _saved(dict(_files(path)))


def holder(path: Path) -> str | None:
    """Which process is writing this directory, in words; None where none is. Nobody is kept from the lock meanwhile.

    What a killed process has left in HOLDER counts for nothing: its lock went with it.
    """
    try:
        who = json.loads((path / HOLDER).read_bytes())
        words = f"process {who['pid']} on {who['host']}, since {who['since']}"
        import fcntl  # of no other systems than Unix

        with (path / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return words
    except (ImportError, OSError, ValueError, KeyError, TypeError):
        pass
    return None


class _Broken(ValueError):
    """Damage of a directory, as a sentence."""


def _files(path: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every file below, by its relative name with slashes; one that goes while they are listed is none."""
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat(follow_symlinks=False)
        except OSError:
            continue


def _saved(files: Mapping[str, os.stat_result]) -> list[int]:
    """The steps that have a finished checkpoint; of an older run, which has no manifests, those that have a folder."""
    if whole := [name.split("/")[1] for name in files if re.fullmatch(r"checkpoints/\d+/manifest\.json", name)]:
        return sorted(map(int, whole))
    folders = {name.split("/")[1] for name in files if name.startswith("checkpoints/") and name.count("/") > 1}
    return sorted(int(name) for name in folders if name.isdecimal() and digests.MANIFEST not in files)


def _broken(path: Path, kind: str, files: Mapping[str, os.stat_result], steps: Sequence[int]) -> str | None:
    """Parts of a run that nobody writes which are seen to be missing or cut off."""
    needed = [f"checkpoints/{step}/{name}" for step in steps for name in OF_A_STATE]
    if kind == "run" and steps:
        needed += ["model.json", "environment.json", *(["metrics.jsonl"] if steps[-1] else [])]
        needed += [f"checkpoints/reference/{name}" for name in OF_PARAMETERS]
    for name in needed:
        if name not in files or not files[name].st_size:
            return f"{path / name} is {'empty' if name in files else 'missing'}"
    manifests = [name for name in files if re.fullmatch(r"checkpoints/[^/]+/manifest\.json", name)]
    return next((wrong for name in manifests if (wrong := _unlike_manifest(path, name, files))), None)


def _unlike_manifest(path: Path, manifest: str, files: Mapping[str, os.stat_result]) -> str | None:
    """The first file of a checkpoint that has not the size which its manifest.json says."""
    try:
        listed = {name: int(one["bytes"]) for name, one in json.loads((path / manifest).read_bytes())["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{path / manifest} cannot be read"
    folder = manifest.rpartition("/")[0]
    for name, size in listed.items():
        found = files.get(f"{folder}/{name}")
        if found is None:
            return f"{path / folder / name} is missing"
        if found.st_size != size:
            return f"{path / folder / name} has {found.st_size:,} bytes, and had {size:,}"
    return None


def kept(path: Path) -> int | None:
    """The step of the model that a finished fit has kept, which RL starts from; later steps may have been looked at, too."""
    step = _result(path).get("best_step")
    return step if type(step) is int else None


def _of_run(
    path: Path, files: Mapping[str, os.stat_result], logged: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> Figures | None:
    """Of its own evaluation of the latest step, or a look at a later one; where there is none, of the last step that it logged.

    A look before the first step is none: it is of no policy that was trained.
    """
    found = _of_evaluation(path, files)
    look = _last_line(path / "metrics.jsonl", _look) if config["evaluation"].get("every") else None
    if look is not None and look["step"] > max(_own(files), default=0):
        figures = (_number(look.get(f"{HELD_OUT}{name}")) for name in (REWARD, KL))
        return Figures(f"held out, step {int(look['step'])}", *figures)
    if found is not None:
        return found
    if logged is None:
        return None
    return Figures(f"training, step {int(logged['step']) + 1}", _number(logged.get(REWARD)), _number(logged.get(KL)))


def _own(files: Iterable[str]) -> dict[int, str]:
    """The files of its own evaluations by step."""
    return {int(found[1]): name for name in files if (found := re.fullmatch(r"evaluation/step_(\d+)\.json", name))}


def _of_evaluation(path: Path, files: Mapping[str, os.stat_result], step: int | None = None) -> Figures | None:
    """Its own evaluation of the latest step, or of this one; other names say in what one differs from the run's own."""
    own = _own(files)
    step = max(own, default=None) if step is None else step
    if step is None or step not in own:
        return None
    _check(path, own[step])
    try:
        metrics = json.loads((path / own[step]).read_bytes())["metrics"]
        return Figures(f"held out, step {step}", _number(metrics.get(REWARD)), _number(metrics.get(KL)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _Broken(f"{path / own[step]} cannot be read as an evaluation") from None


def _best(path: Path, steps: Sequence[int]) -> int | None:
    """The best of its saved steps by held-out figures, where it has such."""
    if not (path / BEST_FILE).exists():
        return None
    _check(path, BEST_FILE)
    found = best_of(read(path), steps)
    return None if found is None else found.step


def _result(path: Path) -> dict[str, Any]:
    """The notes of a finished fit; {} before."""
    if not (file := path / "result.json").exists():
        return {}
    _check(path, file.name)
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise _Broken(f"{file} cannot be read")
    return found


def _of_fit(path: Path) -> Figures | None:
    """The first held-out figure of its result."""
    held_out = {key.removeprefix("held_out_"): value for key, value in _result(path).items() if _held_out(key)}
    try:
        return next((Figures(f"{name} {float(value):.4g}, held out") for name, value in held_out.items()), None)
    except (ValueError, TypeError):
        raise _Broken(f"{path / 'result.json'} cannot be read") from None


def _check(path: Path, name: str) -> None:
    """Raise where a file is not what was written."""
    try:
        if has_digests(path):
            digests.check(path, name)
    except UserError as damage:
        raise _Broken(str(damage).removeprefix("run: ").partition(";")[0]) from None


def _held_out(key: str) -> bool:
    return key.startswith("held_out_") and key != "held_out_rows"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _last_line(file: Path, read: Callable[[bytes], Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """The last whole entry of a log that `read` takes; a killed process may have left half a one after it."""
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            length = TAIL
            while True:
                start = max(end - length, 0)
                stream.seek(start)
                lines = stream.read(end - start).split(b"\n")
                for line in reversed(lines if start == 0 else lines[1:]):
                    if (entry := read(line)) is not None:
                        return entry
                if start == 0:
                    return None
                length *= 8
    except OSError:
        return None


def _look(line: bytes) -> Mapping[str, Any] | None:
    """The entry of a line that has held-out figures."""
    if f'"{HELD_OUT}'.encode() not in line:
        return None
    try:
        entry = json.loads(line)
        return entry if type(entry["step"]) is int else None
    except (ValueError, KeyError, TypeError):
        return None


def _entry(line: bytes) -> Mapping[str, Any] | None:
    try:
        entry = json.loads(line)
        int(entry["step"])
        if REWARD not in entry and any(name.startswith(HELD_OUT) for name in entry):
            return None  # of the policy after the last step, which is no step
    except (ValueError, KeyError, TypeError):
        return None
    return entry
