"""Rows of text: loaded through `datasets`, checked, and split: training, prompts, held out, test."""

import glob
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from kljax.config import DataConfig, GrammarSource, LettersSource, RandomWordsSource, TextSource
from kljax.data import grammar, letters, random_words
from kljax.errors import UserError, did_you_mean

Source = GrammarSource | LettersSource | RandomWordsSource | TextSource

LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}

SIGNS_OF_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""What `datasets` says of a file with a header, or blank lines, and nothing else."""


@dataclass(frozen=True)
class Splits:
    """Disjoint rows, each with the column `text` and whatever columns the source has beside it."""

    train: datasets.Dataset  # for the base model
    prompts: datasets.Dataset  # for RL prompts; empty where data.prompt_fraction is 0
    held_out: datasets.Dataset  # for early stopping, held-out figures and analysis
    test: datasets.Dataset | None  # from a file of its own, looked at once


def load_splits(config: DataConfig) -> Splits:
    """The share of the source's rows that the config asks for, shuffled by its seed and split by its fractions.

    Held-out and test rows that have a file of their own are all of that file's.
    """
    source = config.source
    held_out, test = (source.held_out_path, source.test_path) if isinstance(source, TextSource) else (None, None)
    rows = load_rows(source)
    parts = _parts(config, len(rows), own_held_out=held_out is not None)
    train, prompts, rest = (rows.select(part) for part in parts)
    return Splits(
        train=train,
        prompts=prompts,
        held_out=rest if held_out is None else _load_file(source, held_out, "data.source.held_out_path"),
        test=None if test is None else _load_file(source, test, "data.source.test_path"),
    )


def load_rows(source: Source, field: str = "data.source.path") -> datasets.Dataset:
    """The source's rows, its text in the column `text`, rows without text left out. `field` is what errors speak of."""
    if isinstance(source, GrammarSource):
        return datasets.Dataset.from_dict({"text": grammar.sample_sentences(source.sentences, source.seed)})
    if isinstance(source, LettersSource):
        return datasets.Dataset.from_dict({"text": letters.sample_words(source.letters, source.sentences, source.seed)})
    if isinstance(source, RandomWordsSource):
        sentences = random_words.sample_sentences(source.words, source.length, source.sentences, source.seed)
        return datasets.Dataset.from_dict({"text": sentences})
    rows = _load(source, field)
    columns = rows.column_names
    if source.column not in columns:
        raise UserError(
            f"data.source.column: {source.path} has no column '{source.column}'; it has: {', '.join(columns)}."
            + did_you_mean(source.column, columns)
        )
    texts = whole_column(rows, source.column)
    for i, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"data.source.column: '{source.column}' of {source.path} holds {type(text).__name__} in row {i}, expected text."
            )
    full = [i for i, text in enumerate(texts) if text and text.strip()]
    if not full:
        raise UserError(f"{field}: {source.path} has no text in column '{source.column}', expected at least one row.")
    rows = rows.select(full)
    if source.column == "text":
        return rows
    return rows.remove_columns([name for name in columns if name == "text"]).rename_column(source.column, "text")


def whole_column(rows: datasets.Dataset, name: str = "text") -> list[Any]:
    """A column as a list, read at once: iterating over `rows[name]` reads row by row, ten times as slowly."""
    return rows[name][:]


def _parts(config: DataConfig, rows: int, own_held_out: bool) -> list[np.ndarray]:
    """The rows of training, prompts and held-out text; of the last there are none where that has a file of its own."""
    first, last = (round(rows * place) for place in config.share)
    order = np.random.default_rng(config.seed).permutation(rows)[first : max(first, last)]
    prompts, held_out = (round(len(order) * part) for part in (config.prompt_fraction, config.held_out_fraction))
    held_out = 0 if own_held_out else held_out
    train = len(order) - prompts - held_out
    if train < 1 or (config.prompt_fraction and not prompts) or not (held_out or own_held_out):
        raise UserError(
            f"data.source: {len(order)} rows of text (data.share={list(config.share)}) cannot be split by "
            f"data.prompt_fraction={config.prompt_fraction} and data.held_out_fraction={config.held_out_fraction}; expected at "
            "least one row in each part."
        )
    return np.split(order, [train, train + prompts])


def _load_file(source: Source, path: str, field: str) -> datasets.Dataset:
    assert isinstance(source, TextSource)
    if path == source.path:
        raise UserError(f"{field}: {path} is the file of the training rows, too; expected another, or null.")
    return load_rows(replace(source, path=path), field)


def _load(source: TextSource, field: str) -> datasets.Dataset:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said below, once
    path = Path(source.path).expanduser()
    is_file = path.suffix in LOADERS or path.exists() or source.path.startswith((".", "/", "~"))
    if is_file and not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(
            f"{field}: no file '{source.path}' (looked in {path.parent.resolve()}).{did_you_mean(path.name, siblings)}"
        )
    if is_file and path.suffix not in LOADERS:
        raise UserError(f"{field}: '{source.path}' is of an unknown kind, expected one of {', '.join(LOADERS)}.")
    empty = UserError(f"{field}: {source.path} is empty, expected at least one row.")
    if is_file and path.stat().st_size == 0:
        raise empty
    try:
        if is_file:
            return datasets.load_dataset(LOADERS[path.suffix], data_files=glob.escape(str(path)), split="train")  # pyright: ignore
        return datasets.load_dataset(source.path, split=source.split)  # pyright: ignore
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if is_file and any(sign in reason for sign in SIGNS_OF_NO_ROWS):
            raise empty from None
        kind = "file" if is_file else "hub data set"
        raise UserError(f"{field}: cannot read the {kind} '{source.path}': {reason}") from None
