"""Which files a source names (one, several, a pattern, a directory), and their rows through `datasets`."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import datasets
from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns
from datasets.exceptions import DatasetsError
from pyarrow import ArrowException

from kljax.config import TextSource
from kljax.data.csv_files import load_csv
from kljax.data.json_files import load_json
from kljax.data.plain_files import Say, load_text, through_datasets
from kljax.errors import UserError, did_you_mean

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
PLAIN = ("json", "csv", "text")
"""Formats of characters, which have an encoding and may be compressed (.gz)."""

SIGNS_OF_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""What `datasets` says of a file with a header, or blank lines, and nothing else."""


def is_local(path: str | Sequence[str]) -> bool:
    """Whether this names files of this machine, or else a data set on the hub."""
    if not isinstance(path, str):
        return True
    return (
        _format(Path(path)) is not None or Path(path).expanduser().exists() or path.startswith((".", "/", "~")) or "*" in path
    )


def load(source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """All rows of the source's file, files, pattern or directory. `field` is what errors speak of."""
    if source.subset is not None or source.revision is not None:
        name = "subset" if source.subset is not None else "revision"
        raise UserError(
            f"data.source.{name}: got {getattr(source, name)!r} for a file, expected null: hub data sets have them."
        )
    paths = [source.path] if isinstance(source.path, str) else list(source.path)
    if len(paths) == 1 and (folder := Path(paths[0]).expanduser()).is_dir() and _is_saved(folder):
        return _load_saved(folder, source, field)
    files = [file for path in paths for file in _files(path, source, field, say)]
    kinds = {str(_format(file)) for file in files}
    if len(kinds) > 1:
        raise UserError(f"{field}: the files are of several kinds ({', '.join(sorted(kinds))}), expected one.")
    kind = kinds.pop()
    _check_options(source, kind)
    if all(file.stat().st_size == 0 for file in files):
        raise UserError(f"{field}: {source.path} is empty, expected at least one row.")
    try:
        match kind:
            case "csv":
                return load_csv(files, source, field, say)
            case "json":
                return load_json(files, source, field, say)
            case "text":
                return load_text(files, source, field, say)
            case _:
                return through_datasets(kind, files)
    except (OSError, ValueError, DatasetsError, ArrowException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if any(sign in reason for sign in SIGNS_OF_NO_ROWS):
            raise UserError(f"{field}: {source.path} is empty, expected at least one row.") from None
        raise UserError(f"{field}: cannot read the file '{source.path}': {reason}") from None


def _format(file: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"]:
        found = FORMATS.get("".join(suffixes[-2:-1]))
        return found if found in PLAIN else None
    return FORMATS.get("".join(suffixes[-1:]))


def _check_options(source: TextSource, kind: str) -> None:
    """Refuse what these files have no use for: it would be passed over."""
    if source.separator is not None and kind != "csv":
        raise UserError(
            f"data.source.separator: got {source.separator!r} for a {kind} file, expected null: CSV files have one."
        )
    if source.encoding is not None and kind not in PLAIN:
        raise UserError(f"data.source.encoding: got {source.encoding!r} for a {kind} file, expected null: it has no encoding.")


def _files(path: str, source: TextSource, field: str, say: Say) -> list[Path]:
    """The files that one path names: itself, those of a directory, or those that a pattern matches."""
    file = Path(path).expanduser()
    if file.is_dir():
        return _files_of(file, source, field, say)
    found = [file] if file.exists() else sorted(map(Path, glob(str(file), recursive=True)))
    if not found:
        siblings = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise UserError(f"{field}: no file '{path}' (looked in {file.parent.resolve()}).{did_you_mean(file.name, siblings)}")
    if unknown := next((one for one in found if _format(one) is None), None):
        raise UserError(f"{field}: '{unknown}' is of an unknown kind, expected one of {', '.join(FORMATS)}.")
    if source.split != "train":
        raise UserError(f"data.source.split: got {source.split!r} for a file, expected train: a file is one split.")
    return found


def _files_of(folder: Path, source: TextSource, field: str, say: Say) -> list[Path]:
    """The files of one split of a directory: as in train-0.parquet or test/0.parquet; without such names all are train."""
    there = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(folder))]
    data = [file for file in there if _format(file) is not None]
    if not data:
        raise UserError(f"{field}: '{folder}' is a directory without data files, expected some of {', '.join(FORMATS)}.")
    splits = _splits_of(folder, data)
    if source.split not in splits:
        raise UserError(
            f"data.source.split: '{folder}' has no files of a split '{source.split}'; it has: {', '.join(splits)}."
            + did_you_mean(source.split, splits)
        )
    chosen = splits[source.split]
    if left := [str(file.relative_to(folder)) for file in there if file not in chosen]:
        say(f"{field}: {len(chosen)} files of '{folder}' are the split {source.split}; not read: {_few(left)}.")
    return chosen


def _splits_of(folder: Path, data: Sequence[Path]) -> dict[str, list[Path]]:
    """The data files by the splits that their names tell, by the rules of `datasets`."""
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    except (EmptyDatasetError, FileNotFoundError):
        return {"train": list(data)}
    resolved = {str(file.resolve()): file for file in data}
    splits = {str(split): [resolved[name] for name in map(str, names) if name in resolved] for split, names in found.items()}
    return {split: files for split, files in splits.items() if files}


def _is_hidden(file: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


def _load_saved(folder: Path, source: TextSource, field: str) -> datasets.Dataset:
    """What `save_to_disk` wrote."""
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, DatasetsError, ArrowException) as error:
        raise UserError(f"{field}: cannot read '{folder}', which save_to_disk wrote: {error}") from None
    if isinstance(found, datasets.Dataset):
        if source.split != "train":
            raise UserError(f"data.source.split: got {source.split!r}, but '{folder}' has no splits; expected train.")
        return found
    if source.split not in found:
        raise UserError(f"data.source.split: '{folder}' has no split '{source.split}'; it has: {', '.join(map(str, found))}.")
    return found[source.split]
