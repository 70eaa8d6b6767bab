"""Code of the user's: found by its dotted path, and told where in their own file an error arose."""

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from kljax.config import RewardTerm
from kljax.errors import UserError, did_you_mean

OURS = str(Path(__file__).parents[1])
LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})

PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
"""Names that every function may ask for, beside the columns."""


def resolve(field: str, name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The built-in reward of this name, or what a dotted path leads to: a module's function, or an attribute of a class."""
    return find(field, name, table, "reward", callable, "function")


def find(field: str, name: str, table: Mapping[str, Any], kind: str, fits: Callable[[Any], bool], expected: str) -> Any:
    """The thing that a built-in name stands for, or that a dotted path leads to, which `fits` accepts as the `expected`."""
    if "." not in name:
        if name not in table:
            if ":" in name:
                raise UserError(f"{field}.function: got '{name}', expected a dotted path: '{name.replace(':', '.')}'.")
            raise UserError(
                f"{field}.function: no built-in {kind} '{name}' of this kind, expected one of {', '.join(table)}, or a dotted "
                f"path to your own.{did_you_mean(name, table)}"
            )
        return table[name]
    *parents, attribute = name.split(".")
    owner = _import(field, parents)
    found = getattr(owner, attribute, None)
    if not fits(found):
        others = [name for name, value in vars(owner).items() if fits(value)]
        raise UserError(
            f"{field}.function: module '{'.'.join(parents)}' has no {expected} '{attribute}'.{did_you_mean(attribute, others)}"
        )
    return found


def custom_terms(terms: Mapping[str, RewardTerm]) -> dict[str, str]:
    """The terms whose functions are not kljax's own, and what would be imported for each, in words. Nothing is."""
    own = {name: f"{term.function}{_found(term.function)}" for name, term in terms.items() if "." in term.function}
    because = "which is imported and run with rewards=custom alone."
    return {name: f"it is code of the run's own, {function}, {because}" for name, function in own.items()}


def _found(function: str) -> str:
    """Where the first module of a dotted path lies."""
    try:
        spec = PathFinder.find_spec(function.partition(".")[0], [str(Path.cwd()), *sys.path])
    except (ImportError, ValueError):
        spec = None
    return f" from {spec.origin}" if spec is not None and spec.origin else ""


def _import(field: str, parents: list[str]) -> Any:
    """The module of this path; where its last words are no module, what they lead to inside the one before."""
    path = ".".join(parents)
    try:
        with current_directory_first():
            return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path and len(parents) > 1:
            owner = _import(field, parents[:-1])
            if hasattr(owner, parents[-1]):
                return getattr(owner, parents[-1])
        raise UserError(f"{field}.function: cannot import '{path}' ({one_line(error)}).{_where(error, path)}") from None
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{field}.function: cannot import '{path}' ({one_line(error)}{raised_at(error)}).") from None


def _where(error: ModuleNotFoundError, path: str) -> str:
    """A way out: where modules are looked for, if it is the user's own that is not there."""
    if error.name is None or not f"{path}.".startswith(f"{error.name}."):
        return ""
    return f" Modules are looked for in {Path.cwd()} and in what PYTHONPATH names."


@contextmanager
def current_directory_first() -> Iterator[None]:
    """Modules in the current directory, as with `python -m`; later imports of theirs look there last."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def one_line(error: BaseException) -> str:
    """The error's class and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def raised_at(error: BaseException, function: Callable[..., Any] | None = None) -> str:
    """` at file:line`, of the innermost frame in the user's code; nothing where the error never was in it.

    The user's code is what lies neither in kljax nor in an installed library, and the file of `function` wherever that lies.
    """
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = _file_of(function)
    theirs = [f"{file}:{line}" for file, line in frames if file == own or not file.startswith((OURS, *LIBRARIES, "<"))]
    return f" at {theirs[-1]}" if theirs else ""


def _file_of(function: Callable[..., Any] | None) -> str | None:
    while hasattr(function, "func"):  # functools.partial
        function = function.func  # pyright: ignore
    for thing in (function, type(function)):
        try:
            return inspect.getsourcefile(inspect.unwrap(thing))  # pyright: ignore
        except TypeError:
            continue
    return None


def named(name: str, error: UserError) -> str:
    """The sentence of a reward that does not know by what name the config calls it."""
    return f"{name}{'.' if str(error).startswith('arguments.') else ': '}{error}"
