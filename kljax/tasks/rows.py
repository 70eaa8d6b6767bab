"""The config's task, found and applied: each row of the data gets the columns that the task makes of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from kljax.config import Config, TextTask
from kljax.data.conversations import messages
from kljax.data.plain_files import Say
from kljax.errors import UserError, did_you_mean
from kljax.rewards.functions import PASSED
from kljax.rewards.user_code import find, one_line, raised_at
from kljax.tasks.table import TASKS
from kljax.tasks.task import Task

PROMPT, TARGET = "prompt", "target"
FIELD = "task.function"
READ_AT_ONCE = 1000  # rows


def task_of(config: Config) -> Task | None:
    """The config's task; None where it has none. UserError where it cannot be found or made."""
    chosen = config.task
    if not isinstance(chosen, TextTask):
        return None
    found = find("task", chosen.function, TASKS, "task", lambda it: isinstance(it, Task) or callable(it), "task")
    if isinstance(found, Task):
        if chosen.arguments:
            raise UserError(f"task.arguments: '{chosen.function}' is a Task and takes none; expected {{}}.")
        return found
    return _made(chosen, found)


def _made(chosen: TextTask, factory: Callable[..., Any]) -> Task:
    try:
        inspect.signature(factory).bind(**chosen.arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(factory).parameters) or "none"
        no_task = "" if chosen.function in TASKS else " Expected: a Task, or a function of task.arguments that makes one."
        raise UserError(f"task.arguments: {error} for '{chosen.function}', which takes {takes}.{no_task}") from None
    try:
        task = factory(**chosen.arguments)
    except UserError as error:
        where = "task." if str(error).startswith("arguments") else f"{FIELD}: '{chosen.function}': "
        raise UserError(f"{where}{error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{FIELD}: '{chosen.function}' raised {one_line(error)}{raised_at(error, factory)}.") from error
    if not isinstance(task, Task):
        raise UserError(f"{FIELD}: '{chosen.function}' returned {type(task).__name__}, expected a kljax.tasks.Task.")
    return task


def is_own(config: Config) -> bool:
    """Whether the config's task is code of the user's: it is not imported unasked."""
    return isinstance(config.task, TextTask) and "." in config.task.function


class _Row(dict[str, Any]):
    """A row that says which columns there are, where it is asked for another."""

    def __missing__(self, name: str) -> Any:
        raise _NoColumn(name)


class _NoColumn(KeyError):
    """A column that the data have not. A task may catch it, as it may the KeyError of another dictionary."""


def apply(task: Task, name: str, rows: datasets.Dataset, field: str, say: Say) -> datasets.Dataset:
    """The rows with the task's columns in the place of those that have their names; rows of which it makes none are left out.

    `field` is where the rows come from, for messages.

    Raises:
        UserError: where the task fails, makes no prompt, or makes other columns of one row than of another.
    """
    made: dict[str, list[Any]] = {}
    kept: list[int] = []
    for i, row in _each(rows):
        new = _made_of(task, name, i, row, rows.column_names)
        if new is None:
            continue
        if not kept:
            _check_columns(name, new)
            made = {column: [] for column in new}
        elif new.keys() != made.keys():
            raise UserError(
                f"task: '{name}' makes the columns {', '.join(map(str, new))} of row {i} and {', '.join(made)} of row "
                f"{kept[0]}, expected the same of every row."
            )
        for column, values in made.items():
            values.append(new[column])
        kept.append(i)
    if not kept:
        raise UserError(f"{field}: the task '{name}' makes no prompt of any of the {len(rows)} rows.")
    if lacking := len(rows) - len(kept):
        first = next(i for i in range(len(rows)) if i == len(kept) or kept[i] != i)
        say(f"task: '{name}' makes no prompt of {lacking} of {len(rows)} rows, left out, row {first} first.")
    if hidden := [column for column in made if column in rows.column_names]:
        say(f"task: '{name}' makes its own {' and '.join(hidden)} in the place of the data's.")
    others = rows.select(kept).remove_columns(hidden)
    columns = {}
    for column, values in made.items():
        try:
            columns[column] = datasets.Dataset.from_dict({column: values})
        except (DatasetsError, ValueError, TypeError, OverflowError) as error:  # Arrow's are ValueErrors
            raise UserError(
                f"task: the column '{column}' that '{name}' makes of the rows is no column of a table, whose values are all of "
                f"one type: {one_line(error)}."
            ) from None
    return datasets.concatenate_datasets([others, *columns.values()], axis=1)


def _each(rows: datasets.Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number. Read in blocks: one by one, `datasets` takes ten times as long."""
    place = 0
    for block in rows.iter(READ_AT_ONCE):
        for values in zip(*block.values(), strict=True):  # pyright: ignore
            yield place, dict(zip(block, values, strict=True))
            place += 1


def _check_columns(name: str, made: Mapping[Any, Any]) -> None:
    """Refuse names that no column can have, or that say something else to a metric."""
    for column in made:
        if not isinstance(column, str) or not column:
            raise UserError(f"task: '{name}' makes a column of the name {column!r}, expected a text.")
        if column in PASSED:
            raise UserError(
                f"task: '{name}' makes a column '{column}', which is what metrics and rewards know the run's own {column} by; "
                "expected another name."
            )


def _made_of(task: Task, name: str, i: int, row: Mapping[str, Any], columns: list[str]) -> dict[str, Any] | None:
    """The new columns of row `i`; None where it has no prompt."""
    try:
        made = task.row(_Row(row))
    except _NoColumn as error:
        asked = str(error.args[0])
        raise UserError(
            f"task: '{name}' asks for the column '{asked}', which the data do not have; they have: {', '.join(columns)}. A "
            f"task may take the names of columns in task.arguments.{did_you_mean(asked, columns)}"
        ) from None
    except UserError as error:
        raise UserError(f"{error} It is row {i}.") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"task: '{name}' raised {one_line(error)}{raised_at(error, task.row)} of row {i}.") from error
    if made is None:
        return None
    if not isinstance(made, Mapping) or PROMPT not in made:
        has = f"{type(made).__name__}" if not isinstance(made, Mapping) else f"columns {', '.join(map(repr, made)) or 'none'}"
        raise UserError(f"task: '{name}' makes {has} of row {i}, expected a dictionary with a 'prompt', or None.")
    target = made.get(TARGET)
    if target is not None and not isinstance(target, str):
        raise UserError(f"task: '{name}' makes the target {target!r} of row {i}, expected a text.")
    return dict(made) if _is_prompt(name, i, made[PROMPT]) else None


def _is_prompt(name: str, i: int, prompt: Any) -> bool:
    """Whether there is something in a prompt. UserError where it is neither a text nor messages."""
    if isinstance(prompt, str):
        return bool(prompt.strip())
    try:
        if not isinstance(prompt, list):
            raise ValueError(f"{prompt!r}, expected a text or a list of messages")
        return bool(prompt) and bool(messages(prompt))
    except ValueError as error:
        raise UserError(f"task: '{name}' makes the prompt of row {i}: {error}.") from None
