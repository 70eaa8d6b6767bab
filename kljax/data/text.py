"""Rows of text: loaded through `datasets`, checked, and split in three."""

import glob
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from kljax.config import DataConfig, GrammarSource, LettersSource, TextSource
from kljax.data import grammar, letters
from kljax.errors import UserError, did_you_mean

LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}

SIGNS_OF_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""What `datasets` says of a file with a header, or blank lines, and nothing else."""


@dataclass(frozen=True)
class Splits:
    """Disjoint rows, each with the column `text` and whatever columns the source has beside it."""

    train: datasets.Dataset  # for the base model
    prompts: datasets.Dataset  # for RL prompts
    held_out: datasets.Dataset  # for early stopping, held-out figures and analysis


def load_splits(config: DataConfig) -> Splits:
    """All rows of the source that hold text, shuffled by `config.seed` and split by its fractions."""
    rows = load_rows(config.source)
    order = np.random.default_rng(config.seed).permutation(len(rows))
    prompts, held_out = (round(len(rows) * f) for f in (config.prompt_fraction, config.held_out_fraction))
    train = len(rows) - prompts - held_out
    if min(prompts, held_out, train) < 1:
        raise UserError(
            f"data.source: {len(rows)} rows of text cannot be split by data.prompt_fraction={config.prompt_fraction} and "
            f"data.held_out_fraction={config.held_out_fraction}; expected at least one row in each part."
        )
    parts = np.split(order, [train, train + prompts])
    return Splits(*(rows.select(part) for part in parts))


def load_rows(source: GrammarSource | LettersSource | TextSource) -> datasets.Dataset:
    """The source's rows, its text in the column `text`, rows without text left out."""
    if isinstance(source, GrammarSource):
        return datasets.Dataset.from_dict({"text": grammar.sample_sentences(source.sentences, source.seed)})
    if isinstance(source, LettersSource):
        return datasets.Dataset.from_dict({"text": letters.sample_words(source.letters, source.sentences, source.seed)})
    rows = _load(source)
    columns = rows.column_names
    if source.column not in columns:
        raise UserError(
            f"data.source.column: {source.path} has no column '{source.column}'; it has: {', '.join(columns)}."
            + did_you_mean(source.column, columns)
        )
    texts = rows[source.column]
    for i, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"data.source.column: '{source.column}' of {source.path} holds {type(text).__name__} in row {i}, expected text."
            )
    full = [i for i, text in enumerate(texts) if text and text.strip()]
    if not full:
        raise UserError(f"data.source.path: {source.path} has no text in column '{source.column}', expected at least one row.")
    rows = rows.select(full)
    if source.column == "text":
        return rows
    return rows.remove_columns([name for name in columns if name == "text"]).rename_column(source.column, "text")


def _load(source: TextSource) -> datasets.Dataset:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said below, once
    path = Path(source.path).expanduser()
    is_file = path.suffix in LOADERS or path.exists() or source.path.startswith((".", "/", "~"))
    if is_file and not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(
            f"data.source.path: no file '{source.path}' (looked in {path.parent.resolve()}).{did_you_mean(path.name, siblings)}"
        )
    if is_file and path.suffix not in LOADERS:
        raise UserError(f"data.source.path: '{source.path}' is of an unknown kind, expected one of {', '.join(LOADERS)}.")
    empty = UserError(f"data.source.path: {source.path} is empty, expected at least one row.")
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
        raise UserError(f"data.source.path: cannot read the {kind} '{source.path}': {reason}") from None
