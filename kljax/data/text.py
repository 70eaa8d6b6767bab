"""Rows of text or conversations: loaded through `datasets`, checked, and split: training, prompts, held out, test."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from kljax.config import DataConfig, GrammarSource, LettersSource, QuestionsSource, RandomWordsSource, TextSource
from kljax.data import conversations, files, grammar, letters, questions, random_words
from kljax.data.plain_files import COLUMNS, TEXT, Say
from kljax.errors import UserError, did_you_mean

Source = GrammarSource | LettersSource | RandomWordsSource | QuestionsSource | TextSource


def silent(sentence: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Splits:
    """Disjoint rows, each with its text or conversation in `column` and whatever columns the source has beside it."""

    train: datasets.Dataset  # for the base model
    prompts: datasets.Dataset  # for RL prompts; empty where data.prompt_fraction is 0
    held_out: datasets.Dataset  # for early stopping, held-out figures and analysis
    test: datasets.Dataset | None  # from a file of its own, looked at once
    column: str = TEXT


Apply = Callable[[datasets.Dataset, str], datasets.Dataset]
"""(rows, the field that they come from) → the rows as a task has them, with their prompts in the column PROMPT."""
PROMPT = "prompt"


def load_splits(config: DataConfig, say: Say = silent, task: Apply | None = None) -> Splits:
    """The share of the source's rows that the config asks for, shuffled by its seed and split by its fractions.

    Held-out and test rows that have a file of their own are all of that file's. `say` gets what was guessed or left out. Rows
    are made by `task`, where there is one.
    """
    source = config.source
    held_out, test = (source.held_out_path, source.test_path) if isinstance(source, TextSource) else (None, None)
    rows = load_rows(source, say=say, task=task)
    column = PROMPT if task else text_column(source, rows)
    parts = _parts(config, len(rows), own_held_out=held_out is not None)
    train, prompts, rest = (rows.select(part) for part in parts)

    seen = [("training", source.path)] if isinstance(source, TextSource) else []

    def of_file(path: str, name: str) -> datasets.Dataset:
        assert isinstance(source, TextSource)
        field = f"data.source.{name}_path"
        for title, other in seen:
            if common := _common(source, path, other, field):
                raise UserError(f"{field}: {common} is the file of the {title} rows, too; expected another, or null.")
        seen.append((name.replace("_", "-"), path))
        found = load_rows(replace(source, path=path, column=None if task else column), field, say, task)
        _check_alike(rows, found, column, field)
        if common := _shared(rows, found, column):
            say(f"{field}: {common} of {len(found)} rows of {path} have the text of a row of data.source.path, too.")
        return found

    return Splits(
        train=train,
        prompts=prompts,
        held_out=rest if held_out is None else of_file(held_out, "held_out"),
        test=None if test is None else of_file(test, "test"),
        column=column,
    )


def _common(source: TextSource, one: str, other: str | list[str], field: str) -> str | None:
    """Files that two paths of a source both name."""
    if not files.is_local(one) or not files.is_local(other):
        return one if one == other else None
    named = []
    for path in (one, other):
        saved = isinstance(path, str) and Path(path).expanduser().is_dir() and files.is_saved(Path(path).expanduser())
        found = [Path(str(path)).expanduser()] if saved else files.located(replace(source, path=path), field, silent)
        named.append({file.resolve() for file in found})
    return next((str(file) for file in sorted(named[0] & named[1])), None)


def _shared(rows: datasets.Dataset, others: datasets.Dataset, column: str) -> int:
    """How many of the others have a text, or a conversation, that one of the rows has."""
    there = set(map(repr, whole_column(rows, column)))
    return sum(repr(value) in there for value in whole_column(others, column))


def _check_alike(rows: datasets.Dataset, others: datasets.Dataset, column: str, field: str) -> None:
    """Refuse a file whose columns have the names of the training rows' and other types: rewards would get both."""
    for name in rows.column_names:
        if name in others.column_names:
            there, here = others.features[name], rows.features[name]
            if datasets.Value("null") in (there, here):  # nothing but None, which every column may have
                continue
            numbers = {str(datasets.Value(kind)) for kind in ("int64", "float64")}
            if there != here and not {str(there), str(here)} <= numbers:
                raise UserError(
                    f"{field}: column '{name}' is {there} there and {here} in the training rows; expected one type."
                )
    if is_conversation(whole_column(others, column)[0]) != is_conversation(whole_column(rows, column)[0]):
        raise UserError(f"{field}: its rows are not conversations, or the training rows are none; expected one kind.")


def load_rows(
    source: Source, field: str = "data.source.path", say: Say = silent, task: Apply | None = None
) -> datasets.Dataset:
    """The source's rows with all their columns, those without text left out. `field` is what errors speak of."""
    if task is not None:
        rows = task(_load(source, field, say) if isinstance(source, TextSource) else load_rows(source), field)
        _check_values(list(enumerate(whole_column(rows, PROMPT))), PROMPT, field)
        return rows
    match source:
        case GrammarSource():
            return datasets.Dataset.from_dict({TEXT: grammar.sample_sentences(source.sentences, source.seed)})
        case LettersSource():
            return datasets.Dataset.from_dict({TEXT: letters.sample_words(source.letters, source.sentences, source.seed)})
        case RandomWordsSource():
            sentences = random_words.sample_sentences(source.words, source.length, source.sentences, source.seed)
            return datasets.Dataset.from_dict({TEXT: sentences})
        case QuestionsSource():
            return datasets.Dataset.from_dict(questions.questions(source.largest))
    rows = _load(source, field, say)
    column = text_column(source, rows)
    if source.column is None and column != TEXT:
        say(f"data.source.column: the prompts are in the column '{column}' of {source.path}.")
    values = whole_column(rows, column)
    full = [i for i, value in enumerate(values) if value is not None and (not isinstance(value, str) or value.strip())]
    if not full:
        raise UserError(f"{field}: {source.path} has no text in column '{column}', expected at least one row.")
    _check_values([(i, values[i]) for i in full], column, str(source.path))
    if missing := len(values) - len(full):
        first = next(i for i in range(len(values)) if i == len(full) or full[i] != i)
        say(f"{field}: {missing} of {len(values)} rows of {source.path} have no text in column '{column}' and are left out, "
            f"the first of them row {first}.")  # fmt: skip
    return rows.select(full) if missing else rows


def text_column(source: Source, rows: datasets.Dataset) -> str:
    """The column that holds texts or conversations: the config's, or the one there is of the names that are usual."""
    if not isinstance(source, TextSource):
        return TEXT
    there = rows.column_names
    if source.column is None:
        usual = [name for name in COLUMNS if name in there]
        if len(usual) != 1:
            raise UserError(
                f"data.source.column: null stands for the one of {', '.join(COLUMNS)} that {source.path} has, and it has "
                f"{' and '.join(usual) or 'none'}; expected one of its columns: {', '.join(there)}."
            )
        return usual[0]
    if source.column not in there:
        raise UserError(
            f"data.source.column: {source.path} has no column '{source.column}'; it has: {', '.join(there)}."
            + did_you_mean(source.column, there)
        )
    return source.column


def is_conversation(value: Any) -> bool:
    """Whether a row's value is one, or else a text."""
    return not isinstance(value, str)


def _check_values(values: list[tuple[int, Any]], column: str, source: str) -> None:
    """All of them texts, or all of them conversations that can be read."""
    (first, example), *_ = values
    if isinstance(example, int | float | bool | dict | bytes):
        raise UserError(
            f"data.source.column: '{column}' of {source} holds {type(example).__name__} in row {first}, expected text or "
            "a list of messages."
        )
    for i, value in values:
        if is_conversation(value) != is_conversation(example):
            kind = "text" if isinstance(example, str) else "a list of messages"
            raise UserError(
                f"data.source.column: '{column}' of {source} holds {type(value).__name__} in row {i}, expected {kind}, as "
                f"in row {first}."
            )
        if is_conversation(value):
            try:
                conversations.messages(value)
            except ValueError as error:
                raise UserError(f"data.source.column: row {i} of {source} holds {error}.") from None


def whole_column(rows: datasets.Dataset, name: str = TEXT) -> list[Any]:
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


def _load(source: TextSource, field: str, say: Say) -> datasets.Dataset:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said here, once
    if files.is_local(source.path):
        return files.load(source, field, say)
    for name in ("separator", "encoding"):
        if getattr(source, name) is not None:
            raise UserError(f"data.source.{name}: got {getattr(source, name)!r} for a hub data set, expected null.")
    try:
        return datasets.load_dataset(source.path, source.subset, split=source.split, revision=source.revision)  # pyright: ignore
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{field}: cannot read the hub data set '{source.path}': {reason}") from None
