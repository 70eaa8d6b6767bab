"""Python functions as rewards, called by keyword as TRL calls them, and everything they can get wrong in one sentence.

    def reward(prompts, completions, completion_ids, answer, **kwargs): return [number or None for each completion]

A function gets what it names, or all of it where it has `**kwargs`: prompts, completions (texts, or lists of messages where the
data are conversations), completion_ids, trainer_state, log_metric, log_extra, every column of the data under its own name, and
the config's arguments. It may be a coroutine function, a partial or an object that can be called.
"""

import asyncio
import copy
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import islice
from numbers import Real
from threading import Thread
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from kljax.config import RewardTerm
from kljax.data.conversations import Message
from kljax.errors import UserError, did_you_mean
from kljax.rewards import built_in
from kljax.rewards.text import TEXT_REWARDS
from kljax.rewards.user_code import PASSED, named, one_line, raised_at, resolve

LOOKED_AT = 1000  # rows of a column, before anything compiles
MOST_DIGITS = 10**40  # the largest whole number that a message shows


@dataclass(frozen=True)
class TrainerState:
    """Where the run is; the names are those of transformers. `global_step` is the number of steps that are done."""

    global_step: int = 0
    max_steps: int = 0


class _Watched(TrainerState):
    """The same, which notes that a function has looked at `max_steps`: its rewards may be others in a longer run."""

    __qualname__ = "TrainerState"  # in its repr
    _note: Callable[[], None] | None = None

    @classmethod
    def of(cls, state: TrainerState, note: Callable[[], None]) -> "_Watched":
        watched = cls(state.global_step, state.max_steps)
        object.__setattr__(watched, "_note", note)
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name in ("max_steps", "__dict__") and (note := super().__getattribute__("_note")) is not None:
            note()
        if name == "__dict__":
            return {"global_step": self.global_step, "max_steps": self.max_steps}
        return super().__getattribute__(name)

    def __deepcopy__(self, memo: Any) -> "_Watched":
        return self  # it is frozen, and a copy would not be watched

    def __reduce__(self) -> Any:
        return TrainerState, (self.global_step, self.max_steps)


@dataclass(frozen=True)
class Samples:
    """Completions with all that a reward may ask of them: lists of one entry a completion."""

    prompts: Sequence[str | list[Message]]
    completions: Sequence[str | list[Message]]
    columns: Mapping[str, list[Any]]
    completion_ids: Sequence[list[int]] = ()
    state: TrainerState = TrainerState()


@dataclass(frozen=True)
class Logged:
    """Figures that functions have logged while they were called: numbers, and lists of one entry a completion."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, list[Any]] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """The mean of what was logged under each name, as metrics."""
        return {f"reward/logged/{name}": float(np.mean(values)) for name, values in self.metrics.items()}


@dataclass(frozen=True)
class Function:
    """A reward function, and the names under which it takes what: None for all of them."""

    name: str  # of the config's field, for messages
    call: Callable[..., Any]
    takes: frozenset[str] | None
    arguments: Mapping[str, Any]
    columns: Mapping[str, str] = field(default_factory=dict)  # of a built-in one: its parameter → the column that it reads


def bind(
    name: str, term: RewardTerm, columns: Collection[str] | None, own: Mapping[str, Callable[..., Any]] = MappingProxyType({})
) -> Function:
    """The term's function, or a `UserError` where a call would fail. `columns` are the data's; None: not known yet.

    `own` are functions of the task's, by names that stand for them.
    """
    function = own[term.function] if term.function in own else resolve(name, term.function, TEXT_REWARDS)
    if "." not in term.function and term.function not in own:
        reads, arguments = built_in.bound(name, term, function, columns)
        return Function(name, function, frozenset({"prompts", "completions", *reads.values()}), arguments, reads)
    if clash := next((argument for argument in term.arguments if argument in PASSED), None):
        raise UserError(f"{name}.arguments: '{clash}' is what kljax passes itself; expected another name.")
    if clash := next((column for column in columns or () if column in PASSED), None):
        raise UserError(
            f"data.source.path: the data have a column '{clash}', which is what rewards know the run's own {clash} by; rename "
            "that column in the file."
        )
    if clash := next((argument for argument in term.arguments if argument in (columns or ())), None):
        raise UserError(
            f"{name}.arguments: '{clash}' is a column of the data, too, and the function would get only one of them; expected "
            "another name for the argument."
        )
    takes = _parameters(name, term, function, columns)
    if str(getattr(function, "__module__", "")).startswith("kljax."):  # in a task: a column may have the name of an option
        parameters = inspect.signature(function).parameters.items()
        takes = frozenset(key for key, parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
    return Function(name, function, takes, term.arguments)


def try_columns(terms: Mapping[str, RewardTerm], rows: Any, own: Collection[str] = ()) -> None:
    """Give each built-in function the first of these rows with empty completions: a column that it cannot read is an error.

    `rows` are a `Dataset`. For what a reward says or refuses of a column before anything compiles, not in the midst of a run.
    Functions of the user's or of the task's (`own`) are not called.
    """
    for name, term in terms.items():
        if term.kind != "python" or "." in term.function or term.function in own:
            continue
        function = bind(f"reward.{name}", term, rows.column_names)
        if function.columns and len(rows):
            columns = rows.select_columns(list(dict.fromkeys(function.columns.values())))[:LOOKED_AT]
            empty = [""] * len(next(iter(columns.values())))
            call([function], Samples(empty, empty, columns), Logged())


def _parameters(
    name: str, term: RewardTerm, function: Callable[..., Any], columns: Collection[str] | None
) -> frozenset[str] | None:
    """Names that the function takes by keyword; None: everything."""
    try:
        parameters = parameters_of(function)
    except (TypeError, ValueError):  # of some functions written in C
        return None
    if inspect.isclass(function) or "self" in parameters:
        raise UserError(
            f"{name}.function: '{term.function}' is a class or a method of one, expected a function or an object's method."
        )
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    takes = {
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for key, parameter in parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise UserError(
                f"{name}.function: '{term.function}' takes '{key}' by position only; expected parameters with names."
            )
        needed = key in takes and parameter.default is parameter.empty
        if needed and columns is not None and key not in (*PASSED, *columns, *term.arguments):
            raise UserError(
                f"{name}.function: '{term.function}' asks for '{key}', which no column of the data has; they have: "
                f"{', '.join(columns)}. Rename it{_given(name, key)}{did_you_mean(key, columns)}"
            )
    if unknown := next((argument for argument in term.arguments if argument not in takes and not everything), None):
        raise UserError(f"{name}.arguments: '{term.function}' takes no '{unknown}'.{did_you_mean(unknown, takes)}")
    return None if everything else frozenset(takes)


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a call. Of what a user's decorator wraps not its own: it is the wrapper that is called."""
    ours = str(getattr(function, "__module__", "")).startswith("kljax.")
    return inspect.signature(function, follow_wrapped=ours).parameters


def call(
    functions: Iterable[Function], samples: Samples, logged: Logged, asked: set[str] | None = None
) -> dict[str, Float[np.ndarray, "B"]]:
    """Each function's rewards by its name, NaN where it said None. Coroutines run beside one another and beside the rest.

    The names of those that look at how long the run is (trainer_state.max_steps) are added to `asked`.
    """
    begun: list[tuple[Function, Any]] = []
    asked = set() if asked is None else asked
    try:
        for function in functions:
            begun.append((function, _begin(function, samples, logged, asked)))
        return {function.name: _checked(function, result, samples) for function, result in begun}
    finally:
        for _, result in begun:
            if isinstance(result, Future):
                result.cancel()


def _begin(function: Function, samples: Samples, logged: Logged, asked: set[str]) -> Any:
    """The function's result; of a coroutine, its future."""
    given = {
        **samples.columns,
        "prompts": samples.prompts,
        "completions": samples.completions,
        "completion_ids": samples.completion_ids,
        "trainer_state": _Watched.of(samples.state, lambda: asked.add(function.name)),
        "log_metric": lambda name, value: _log_metric(logged, name, value),
        "log_extra": lambda column, values: _log_extra(logged, column, values, len(samples.completions)),
    }
    passed = given if function.takes is None else {key: value for key, value in given.items() if key in function.takes}
    for parameter, column in function.columns.items():
        if column not in passed:
            raise UserError(f"{function.name}: reads its {parameter} from the column '{column}', which these data do not have.")
    read = {parameter: passed[column] for parameter, column in function.columns.items()}
    passed = {key: value for key, value in passed.items() if key not in function.columns.values()} | read
    # Copies: what a function does to its lists, others and later steps must not see.
    passed, arguments = ({key: copy.deepcopy(value) for key, value in of.items()} for of in (passed, function.arguments))
    try:
        result = function.call(**passed, **arguments)
    except UserError as error:
        raise UserError(named(function.name, error)) from None
    except (Exception, SystemExit) as error:
        raise _raised(function, error, samples) from error
    return asyncio.run_coroutine_threadsafe(_awaited(result), _loop()) if inspect.isawaitable(result) else result


@dataclass(frozen=True)
class _Failed:
    """An error of a coroutine, as a value: on its way through a future it can lose its place, or end the loop."""

    error: BaseException


async def _awaited(result: Any) -> Any:
    try:
        return await result
    except (Exception, SystemExit) as error:
        return _Failed(error)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop in a thread of its own, for as long as the process lives: a user's HTTP session belongs to a loop."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop


def _raised(function: Function, error: BaseException, samples: Samples) -> UserError:
    return UserError(
        f"{function.name}: the {_kind(function.name)} raised {one_line(error)}{raised_at(error, function.call)}, given "
        f"{len(samples.completions)} completions."
    )


def _checked(function: Function, result: Any, samples: Samples) -> Float[np.ndarray, "B"]:
    """The function's rewards, float32: as many as completions, each a finite number or None, which is NaN here."""
    name, count = function.name, len(samples.completions)
    try:
        result = result.result() if isinstance(result, Future) else result
        if isinstance(result, _Failed):
            raise result.error
        rewards = _listed(name, result, count)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(name) else named(name, error)) from None
    except (Exception, SystemExit) as error:
        raise _raised(function, error, samples) from error
    if len(rewards) != count:
        raise UserError(
            f"{name}: the {_kind(name)} returned {len(rewards)} {_numbers(name)}, expected {count}, one a completion."
        )
    numbers = [math.nan if reward is None else _number(reward) for reward in rewards]
    for i, (reward, number) in enumerate(zip(rewards, numbers, strict=True)):
        if reward is not None and not math.isfinite(number):
            large = ", which float32 cannot hold" if math.isinf(number) and not _is_infinite(reward) else ""
            texts = f"its prompt is {samples.prompts[i]!r}, its completion {samples.completions[i]!r}"
            raise UserError(
                f"{name}: the {_kind(name).split()[0]} of sample {i} is {_shown(reward)}{large}, expected a finite number, or "
                f"None where it does not apply; {texts}."
            )
    return np.asarray(numbers, np.float32)


def _kind(name: str) -> str:
    """The word for a function in messages: a task's metrics are called as rewards are."""
    return "metric" if name.startswith("task.") else "reward function"


def _numbers(name: str) -> str:
    return "numbers" if name.startswith("task.") else "rewards"


def _given(name: str, key: str) -> str:
    """The other way out of a parameter that no column fills: a task's metrics have no arguments in the config."""
    return f", or give it as +{name}.arguments.{key}=…" if name.startswith("reward.") else ", or give it a default."


def _listed(name: str, rewards: Any, count: int) -> list[Any]:
    """The function's result as a list. Of something without end only the first few are looked at."""
    kind = type(rewards).__name__
    if hasattr(rewards, "tolist"):  # of NumPy, JAX, PyTorch, pandas: their scalars as Python's
        rewards = rewards.tolist()
    table = hasattr(rewards, "columns")  # whose entries are its columns' names
    if isinstance(rewards, Mapping | Set | str | bytes | bytearray) or not isinstance(rewards, Iterable) or table:
        raise UserError(f"{name}: the {_kind(name)} returned {kind}, expected a list of {count} numbers.")
    return list(rewards) if isinstance(rewards, Sequence) else list(islice(rewards, count + 1))


def _number(reward: Any) -> float:
    """The reward as float32 will hold it; NaN for what is no number."""
    if getattr(reward, "shape", None) == () and hasattr(reward, "item"):
        reward = reward.item()
    if not isinstance(reward, Real | Decimal):
        return math.nan
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(float(reward)))
    except OverflowError:
        return math.inf
    except ValueError:  # Decimal's signalling NaN
        return math.nan


def _is_infinite(reward: Any) -> bool:
    """Whether the number is infinite as it was given, and not only where it is made a float32."""
    try:
        return math.isinf(reward)
    except OverflowError:  # a whole number beyond every float
        return False


def _shown(reward: Any) -> str:
    """The number in a message: a whole one may have more digits than anyone reads, or Python writes."""
    if isinstance(reward, int) and abs(reward) > MOST_DIGITS:
        return f"a whole number of {reward.bit_length()} bits"
    return repr(reward)


def _log_metric(logged: Logged, name: Any, value: Any) -> None:
    number = _number(value)
    if not isinstance(name, str) or not name or not math.isfinite(number):
        raise UserError(f"log_metric got ({name!r}, {_shown(value)}), expected a name and a number that float32 can hold.")
    logged.metrics.setdefault(name, []).append(number)


def _log_extra(logged: Logged, column: Any, values: Any, count: int) -> None:
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(column, str) or not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list | tuple) else type(values).__name__
        raise UserError(f"log_extra got {got} for {column!r}, expected a name and a list of {count}, one a completion.")
    if column in logged.extras:
        raise UserError(f"log_extra got {column!r} twice in one step, expected a name of its own for each list.")
    logged.extras[column] = [_writable(value) for value in values]


def _writable(value: Any) -> Any:
    """The part of a value that samples.jsonl can hold: JSON has no NaN, and no half of a character."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _writable(one) for key, one in value.items()}
    return str(value).encode("utf-8", "replace").decode()
