"""Which files a source names (one, several, a pattern, a directory), and their rows, as they are there now.

Nothing goes through the cache of `datasets`, which knows a file by its path and time alone.
"""

from collections.abc import Sequence
from glob import escape, glob
from pathlib import Path

import datasets
import pyarrow
from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable
from pyarrow import parquet

from kljax.config import TextSource
from kljax.data.csv_files import load_csv
from kljax.data.json_files import load_json
from kljax.data.plain_files import Say, load_text
from kljax.errors import UserError, did_you_mean
from kljax.reading import check_file

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


def is_local(path: str | Sequence[str]) -> bool:
    """Whether this names files of this machine, or else a data set on the hub."""
    if not isinstance(path, str):
        return True
    looks = path.startswith((".", "/", "~")) or any(character in path for character in "*?[") or not path.strip()
    return looks or any(suffix.lower() in FORMATS for suffix in Path(path).suffixes) or Path(path).expanduser().exists()


def load(source: TextSource, field: str, say: Say) -> datasets.Dataset:
    """All rows of the source's file, files, pattern or directory. `field` is what errors speak of."""
    for name in ("subset", "revision"):
        if (given := getattr(source, name)) is not None:
            raise UserError(f"data.source.{name}: got {given!r} for a file, expected null: hub data sets have them.")
    if (folder := _saved(source)) is not None:
        _check_options(source, "save_to_disk")
        return _load_saved(folder, source, field)
    files = located(source, field, say)
    for file in files:
        try:
            check_file(file)
        except (ValueError, OSError) as error:
            raise UserError(f"{field}: cannot read the file '{file}': {error}.") from None
    kinds = {str(_format(file)) for file in files}
    if len(kinds) > 1:
        raise UserError(f"{field}: the files are of several kinds ({', '.join(sorted(kinds))}), expected one.")
    kind = kinds.pop()
    _check_options(source, kind)
    if all(file.stat().st_size == 0 for file in files):
        raise UserError(f"{field}: {source.path} is empty, expected at least one row.")
    try:
        if kind in PLAIN:
            return {"csv": load_csv, "json": load_json, "text": load_text}[kind](files, source, field, say)
        return _load_tables(files, kind, field)
    except (OSError, ValueError, DatasetsError, pyarrow.ArrowException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{field}: cannot read the file '{source.path}': {reason}") from None


def located(source: TextSource, field: str, say: Say) -> list[Path]:
    """The files that the source's path or paths name."""
    paths = [source.path] if isinstance(source.path, str) else list(source.path)
    return [file for path in paths for file in _files(path, source, field, say)]


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
    if not path.strip():
        raise UserError(f"{field}: got an empty path, expected a file, a directory, a pattern or a hub name.")
    file = Path(path).expanduser()
    found = [file] if file.exists() else sorted(map(Path, glob(str(file), recursive=True)))
    if not found:
        siblings = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise UserError(f"{field}: no file '{path}' (looked in {file.parent.resolve()}).{did_you_mean(file.name, siblings)}")
    folders = [one for one in found if one.is_dir()]
    if unknown := next((one for one in found if one not in folders and _format(one) is None), None):
        raise UserError(f"{field}: '{unknown}' is of an unknown kind, expected one of {', '.join(FORMATS)}.")
    if source.split != "train" and not folders:
        raise UserError(f"data.source.split: got {source.split!r} for a file, expected train: a file is one split.")
    return [one for each in found for one in (_files_of(each, source, field, say) if each in folders else [each])]


def _files_of(folder: Path, source: TextSource, field: str, say: Say) -> list[Path]:
    """The files of one split of a directory: as in train-0.parquet or test/0.parquet; without such names all are train."""
    if is_saved(folder):
        raise UserError(f"{field}: '{folder}' was written by save_to_disk, expected it alone, in no list or pattern.")
    there = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    data = [file for file in there if _format(file) is not None and not _is_hidden(file.relative_to(folder))]
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
        base = escape(str(folder))
        found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except (EmptyDatasetError, FileNotFoundError):
        return {"train": list(data)}
    resolved = {str(file.resolve()): file for file in data}
    names = {str(split): [str(Path(name).resolve()) for name in map(str, of)] for split, of in found.items()}
    splits = {split: [resolved[name] for name in of if name in resolved] for split, of in names.items()}
    return {split: files for split, files in splits.items() if files} or {"train": list(data)}


def _is_hidden(file: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _load_tables(files: Sequence[Path], kind: str, field: str) -> datasets.Dataset:
    """Parquet or Arrow files, of one schema."""
    tables = [_read_table(file, kind) for file in files]
    for file, table in zip(files, tables, strict=True):
        there, first = ({one.name: str(one.type) for one in of.schema} for of in (table, tables[0]))
        if other := next((name for name in first | there if first.get(name) != there.get(name)), None):
            raise UserError(
                f"{field}: column '{other}' is {there.get(other, 'not there')} in '{file}', {first.get(other, 'not there')} in "
                f"'{files[0]}'; expected files of the same columns."
            )
    return datasets.concatenate_datasets([datasets.Dataset(InMemoryTable(table)) for table in tables])


def _read_table(file: Path, kind: str) -> pyarrow.Table:
    if kind == "parquet":
        return parquet.ParquetFile(file).read()  # not read_table, which makes columns of folders' names
    with pyarrow.memory_map(str(file)) as stream:
        return pyarrow.ipc.open_stream(stream).read_all()


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote it."""
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


def _saved(source: TextSource) -> Path | None:
    """The one folder that the source names, if save_to_disk wrote it."""
    paths = [source.path] if isinstance(source.path, str) else list(source.path)
    folder = Path(paths[0]).expanduser()
    return folder if len(paths) == 1 and paths[0].strip() and folder.is_dir() and is_saved(folder) else None


def _load_saved(folder: Path, source: TextSource, field: str) -> datasets.Dataset:
    """The data set that `save_to_disk` wrote, without the format that it may have had for its author."""
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, DatasetsError, pyarrow.ArrowException) as error:
        raise UserError(f"{field}: cannot read '{folder}', which save_to_disk wrote: {error}") from None
    if isinstance(found, datasets.DatasetDict):
        if source.split not in found:
            raise UserError(
                f"data.source.split: '{folder}' has no split '{source.split}'; it has: {', '.join(map(str, found))}."
            )
        found = found[source.split]
    elif source.split != "train":
        raise UserError(f"data.source.split: got {source.split!r}, but '{folder}' has no splits; expected train.")
    return found.with_format(None)
