"""The config's task, found and applied: each row of the data gets the columns that the task makes of it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from kljax.config import Config, TextTask
from kljax.data.plain_files import Say
from kljax.errors import UserError, did_you_mean
from kljax.rewards.user_code import find, one_line, raised_at
from kljax.tasks.table import TASKS
from kljax.tasks.task import Task

PROMPT, TARGET = "prompt", "target"
FIELD = "task.function"


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
        raise UserError(f"task.arguments: {error} for '{chosen.function}', which takes {takes}.") from None
    try:
        task = factory(**chosen.arguments)
    except UserError as error:
        where = "task." if str(error).startswith("arguments") else f"{FIELD}: '{chosen.function}': "
        raise UserError(f"{where}{error}") from None
    except Exception as error:
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


class _NoColumn(Exception):
    """A column that the data have not."""


def apply(task: Task, name: str, rows: datasets.Dataset, field: str, say: Say) -> datasets.Dataset:
    """The rows with the task's columns in the place of those that have their names; rows of which it makes none are left out.

    `field` is where the rows come from, for messages.

    Raises:
        UserError: where the task fails, makes no prompt, or makes other columns of one row than of another.
    """
    made, kept = [], []
    for i, row in enumerate(rows):
        new = _made_of(task, name, i, row, rows.column_names)  # pyright: ignore
        if new is not None:
            if made and new.keys() != made[0].keys():
                raise UserError(
                    f"task: '{name}' makes the columns {', '.join(new)} of row {i} and {', '.join(made[0])} of row {kept[0]}, "
                    "expected the same of every row."
                )
            made.append(new)
            kept.append(i)
    if not kept:
        raise UserError(f"{field}: the task '{name}' makes no prompt of any of the {len(rows)} rows.")
    if lacking := len(rows) - len(kept):
        first = next(i for i in range(len(rows)) if i == len(kept) or kept[i] != i)
        say(f"task: '{name}' makes no prompt of {lacking} of {len(rows)} rows, left out, row {first} first.")
    if hidden := [column for column in made[0] if column in rows.column_names]:
        say(f"task: '{name}' makes its own {' and '.join(hidden)} in the place of the data's.")
    others = rows.select(kept).remove_columns(hidden)
    columns = {key: [row[key] for row in made] for key in made[0]}
    try:
        return datasets.concatenate_datasets([others, datasets.Dataset.from_dict(columns)], axis=1)
    except (DatasetsError, ValueError, TypeError, OverflowError) as error:  # Arrow's are ValueErrors
        raise UserError(f"task: what '{name}' makes of the rows is no table: {one_line(error)}.") from None


def _made_of(task: Task, name: str, i: int, row: Mapping[str, Any], columns: list[str]) -> dict[str, Any] | None:
    """The new columns of row `i`; None where it has no prompt."""
    try:
        made = task.row(_Row(row))
    except _NoColumn as error:
        raise UserError(
            f"task: '{name}' asks for the column '{error}', which the data do not have; they have: {', '.join(columns)}. A "
            f"task may take the names of columns in task.arguments.{did_you_mean(str(error), columns)}"
        ) from None
    except UserError as error:
        raise UserError(f"{error} It is row {i}.") from None
    except Exception as error:
        raise UserError(f"task: '{name}' raised {one_line(error)}{raised_at(error, task.row)} of row {i}.") from error
    if made is None:
        return None
    if not isinstance(made, Mapping) or PROMPT not in made:
        has = f"{type(made).__name__}" if not isinstance(made, Mapping) else f"columns {', '.join(map(repr, made)) or 'none'}"
        raise UserError(f"task: '{name}' makes {has} of row {i}, expected a dictionary with a 'prompt', or None.")
    target = made.get(TARGET)
    if target is not None and not isinstance(target, str):
        raise UserError(f"task: '{name}' makes the target {target!r} of row {i}, expected a text.")
    prompt = made[PROMPT]
    if not isinstance(prompt, str | list):
        raise UserError(f"task: '{name}' makes the prompt {prompt!r} of row {i}, expected a text or a list of messages.")
    return dict(made) if not isinstance(prompt, str) or prompt.strip() else None
