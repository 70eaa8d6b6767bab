"""The arguments of a built-in function of texts: columns of the data, and the config's arguments."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from kljax.config import RewardTerm
from kljax.errors import UserError, did_you_mean
from kljax.rewards.text import PREPARATIONS
from kljax.rewards.user_code import PASSED, named


def bound(
    name: str, term: RewardTerm, function: Callable[..., Any], columns: Collection[str] | None
) -> tuple[dict[str, str], dict[str, Any]]:
    """The columns that a function of kljax's own reads, by its parameters, and its other arguments; `UserError` at launch.

    What it takes by position beside prompts and completions are columns, of that name or of the one that an argument gives.
    """
    parameters = inspect.signature(function).parameters
    for argument in term.arguments:
        if argument not in parameters or argument in PASSED:
            raise UserError(f"{name}.arguments: '{term.function}' takes no '{argument}'.{did_you_mean(argument, parameters)}")
    for argument, parameter in parameters.items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and argument not in term.arguments:
            raise UserError(
                f"{name}.arguments: '{term.function}' needs '{argument}'; give it as +{name}.arguments.{argument}=…"
            )
    asked = [key for key, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    reads = {key: term.arguments.get(key, key) for key in asked if key not in PASSED}
    for parameter, column in reads.items():
        _check_column(name, term, parameter, column, columns)
    arguments = {key: value for key, value in term.arguments.items() if key not in reads}
    try:
        PREPARATIONS[term.function](**arguments)
    except UserError as error:
        raise UserError(named(name, error)) from None
    return reads, arguments


def _check_column(name: str, term: RewardTerm, parameter: str, column: Any, columns: Collection[str] | None) -> None:
    field = f"{name}.arguments.{parameter}"
    if not isinstance(column, str) or column in PASSED:
        raise UserError(f"{field}: got {column!r}, expected the name of a column of the data, which is its {parameter}.")
    if columns is not None and column not in columns:
        add = "" if parameter in term.arguments else "+"
        raise UserError(
            f"{name}.function: '{term.function}' reads its {parameter} from the column '{column}', which the data do not have; "
            f"they have: {', '.join(columns)}. Give the name of another as {add}{field}=…{did_you_mean(column, columns)}"
        )
