"""The data of a run, in its directory: a fingerprint of its prompts, by which other data are refused, and held-out prompts.

data.json            rows, tokens and SHA-256 of the prompts and of the held-out prompts; the types of the columns
data/rows.npz        a digest of each row's tokens and one of its columns, so that a difference can be named
data/held_out.*      the held-out prompts with their columns: an evaluation needs nothing else
data/prompts.*       the prompts, too, where run.oracle_every lists their completions
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from jaxtyping import UInt64

from kljax.data.batches import PromptRows
from kljax.data.conversations import messages
from kljax.disk import writing_to
from kljax.errors import UserError
from kljax.json_text import json_text, key_text
from kljax.reading import check_file, read_arrays, read_bytes, strict_json
from kljax.runs import damaged, digests
from kljax.runs.digests import write_atomically
from kljax.runs.directory import check_written

RECORD, FOLDER = "data.json", "data"
KEPT = 2**29  # bytes of conversations that are kept, at most
AT_ONCE = 1000  # rows: one by one, `datasets` takes ten times as long
KINDS = ("tokens", "columns")

Digests = UInt64[np.ndarray, "rows 2"]
"""Of each prompt's tokens, and of its row's columns."""


def record(path: Path, parts: Mapping[str, PromptRows], found: Mapping[str, Digests], whole: tuple[str, ...]) -> None:
    """Note the prompts of each part, or refuse the directory where it was made of others; `whole` parts are kept.

    `found` is what `check` has returned of them. Where something differs, UserError says which row and how. Nothing is written
    twice.
    """
    if (path / RECORD).exists():
        _check(path, parts, found)
        return
    folder = path / FOLDER
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "rows.npz", **found)  # pyright: ignore
        for name in whole:
            _write(folder, name, parts[name])
    features = next(iter(parts.values())).rows.features
    about = {name: _summary(parts[name], of_rows) for name, of_rows in found.items()}
    about["columns"] = {name: str(kind) for name, kind in features.items()}
    digests.note(path, [FOLDER])
    digests.write_text(path, RECORD, json_text(about, indent=2) + "\n")


def check(path: Path, parts: Mapping[str, PromptRows]) -> dict[str, Digests]:
    """Refuse a run directory that was made of other prompts, before anything is computed; their digests. Writes nothing."""
    found = {name: _digests(rows) for name, rows in parts.items()}
    if (path / RECORD).exists():
        _check(path, parts, found)
    return found


def read(path: Path, name: str) -> PromptRows | None:
    """The prompts of a part that the run has kept; None where it has not."""
    folder = path / FOLDER
    if digests.lists(path, f"{FOLDER}/{name}.npz"):
        check_written(path, FOLDER, _way_out(path))
    elif not (folder / f"{name}.npz").exists():
        return None
    datasets.disable_progress_bars()
    try:
        arrays = read_arrays(folder / f"{name}.npz")
        tokens, mask = arrays["tokens"], arrays["mask"]
        check_file(folder / f"{name}.parquet")
        rows = datasets.Dataset.from_parquet(str(folder / f"{name}.parquet"), keep_in_memory=True)
        spoken = strict_json(read_bytes(folder / f"{name}.json", KEPT))
        _check_kept(tokens, mask, rows, spoken)
    except Exception as error:  # Arrow's errors, those of `datasets` and of zip files have nothing in common
        raise UserError(
            f"run: cannot read the prompts in {folder}: {error}. One of {name}.npz, .parquet and .json is missing or was "
            "cut off; restore it from a copy, or run it anew (name=…)."
        ) from None
    return PromptRows(tokens, mask, rows, spoken["conversations"], spoken["targets"])  # pyright: ignore


def _way_out(path: Path) -> str:
    return f"restore it from a copy, or delete {path / RECORD}: the command that began the run then notes its prompts again"


def _check_kept(tokens: Any, mask: Any, rows: datasets.Dataset, spoken: Any) -> None:
    """ValueError where the three files are not of the same prompts."""
    if tokens.ndim != 2 or tokens.shape != mask.shape or tokens.dtype.kind not in "iu" or mask.dtype != bool or not tokens.size:
        raise ValueError("its tokens are no table of numbers with a mask")
    if not isinstance(spoken, dict) or {"conversations", "targets"} - spoken.keys():
        raise ValueError("it does not say which prompts are conversations")
    lists = [spoken[key] for key in ("conversations", "targets") if spoken[key] is not None]
    if not all(isinstance(each, list) for each in lists) or {len(tokens)} != {len(rows), *map(len, lists), len(tokens)}:
        raise ValueError("its files have different numbers of prompts")
    for conversation in spoken["conversations"] or ():
        messages(conversation)
    if not mask.any(axis=1).all():
        raise ValueError("a prompt has no token")


def _write(folder: Path, name: str, prompts: PromptRows) -> None:
    datasets.disable_progress_bars()
    prompts.rows.to_parquet(str(folder / f"{name}.parquet"))
    spoken = {"conversations": prompts.conversations, "targets": prompts.targets}
    write_atomically(folder / f"{name}.json", json_text(spoken) + "\n")
    np.savez_compressed(folder / f"{name}.npz", tokens=prompts.tokens, mask=prompts.mask)  # last: what `read` looks for


def _summary(prompts: PromptRows, digests: Digests) -> dict[str, Any]:
    return {
        "rows": len(prompts.tokens),
        "tokens": int(prompts.mask.sum()),
        "sha256": hashlib.sha256(digests.tobytes()).hexdigest(),
    }


def _digests(prompts: PromptRows) -> Digests:
    tokens = [row[mask].tobytes() for row, mask in zip(prompts.tokens, prompts.mask, strict=True)]
    return np.array([[_digest(t), _digest(c)] for t, c in zip(tokens, _columns(prompts.rows), strict=True)], np.uint64)


def _columns(rows: datasets.Dataset) -> Iterator[bytes]:
    for some in rows.with_format("arrow").iter(AT_ONCE):  # as they are stored: an image by its bytes, not as an object
        table: Any = some
        for row in table.to_pylist():
            yield key_text(row, default=repr).encode()


def _digest(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _check(path: Path, parts: Mapping[str, PromptRows], found: Mapping[str, Digests]) -> None:
    file = path / FOLDER / "rows.npz"
    check_written(path, RECORD)
    check_written(path, FOLDER, _way_out(path))
    way_out = f"restore it from a copy, or delete {path / RECORD}: the prompts are then noted again, and not compared"
    with damaged.reading(file, way_out):
        before = read_arrays(file)
    for name, of_rows in found.items():
        title = "prompts" if name == "prompts" else "held-out prompts"
        if len(of_rows) != len(before[name]):
            raise _other(path, f"it had {len(before[name])} {title}, now there are {len(of_rows)}")
        for kind, others in zip(KINDS, (of_rows != before[name]).T, strict=True):
            if others.any():
                row = int(np.flatnonzero(others)[0])
                now = _short(parts[name].rows[row])
                raise _other(path, f"{others.sum()} of the {title} have other {kind}; row {row} is now {now}")


def _short(value: Mapping[str, Any]) -> str:
    text = repr(dict(value))
    return text if len(text) <= 200 else f"{text[:200]}…"


def _other(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} was made of other data: {what}. A run goes on with the same rows alone: restore the file (or, if it is a chat "
        "template that tells the date, give the tokenizer another), or choose another name=…."
    )
