"""The config's reward terms, resolved by name or dotted path and checked at every call; the reward is their weighted sum."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kljax.config import RewardTerm
from kljax.errors import UserError, did_you_mean
from kljax.rewards.device import DEVICE_REWARDS, DeviceReward
from kljax.rewards.model import ModelReward
from kljax.rewards.text import PREPARATIONS, TEXT_REWARDS
from kljax.types import Params, Rollout, Tokenizer

Terms = dict[str, Float[Array | np.ndarray, "B"]]
"""Each term's value of every completion, before its weight."""

HostReward = Callable[[list[str], list[str], Mapping[str, list[Any]]], dict[str, Float[np.ndarray, "B"]]]


@dataclass(frozen=True)
class Reward:
    """Terms that are computed on the `device` (inside the compiled step) and on the `host` (between its two halves).

    `params` are those of reward models on the device: arguments of the step. `host` is None where no term needs it. A term of
    weight 0 is reported and not trained on.
    """

    weights: Mapping[str, float]
    params: dict[str, Params]
    device: Callable[[dict[str, Params], Rollout], Terms]
    host: HostReward | None

    def total(self, terms: Terms) -> Float[Array, "B"]:
        """Σ weight · term."""
        zero = jnp.zeros_like(next(iter(terms.values())))
        return jnp.asarray(sum((self.weights[name] * values for name, values in terms.items() if self.weights[name]), zero))


def build(terms: Mapping[str, RewardTerm], tokenizer: Tokenizer) -> Reward:
    """The reward of the config, or a `UserError` that names the term that cannot be found or made."""
    made = {name: _make(f"reward.{name}", term, tokenizer) for name, term in terms.items() if term.kind == "jax"}
    host = {name: (term, _bound(f"reward.{name}", term)) for name, term in terms.items() if term.kind == "python"}

    def device_terms(params: dict[str, Params], rollout: Rollout) -> Terms:
        return {name: _traced(f"reward.{name}", reward, params.get(name), rollout) for name, reward in made.items()}

    def host_terms(
        prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Float[np.ndarray, "B"]]:
        values = {
            name: _call(f"reward.{name}", function, prompts, completions, {**columns, **term.arguments})
            for name, (term, function) in host.items()
        }
        total = sum(terms[name].weight * value.astype(np.float64) for name, value in values.items())
        if not np.isfinite(np.asarray(total, np.float32)).all():
            raise UserError(f"reward: the weighted sum is too large for float32; lower a weight ({', '.join(terms)}).")
        return values

    params = {name: reward.params for name, reward in made.items() if isinstance(reward, ModelReward)}
    weights = {name: term.weight for name, term in terms.items()}
    return Reward(weights, params, device_terms, host_terms if host else None)


def _resolve(field: str, name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if "." not in name:
        if name not in table:
            raise UserError(
                f"{field}.function: no built-in reward '{name}' of this kind, expected one of {', '.join(table)}, or a dotted "
                f"path to your own.{did_you_mean(name, table)}"
            )
        return table[name]
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{field}.function: cannot import '{module_name}' ({_one_line(error)}).") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        others = [name for name, value in vars(module).items() if callable(value)]
        raise UserError(
            f"{field}.function: module '{module_name}' has no function '{attribute}'.{did_you_mean(attribute, others)}"
        )
    return function


def _make(field: str, term: RewardTerm, tokenizer: Tokenizer) -> DeviceReward | ModelReward:
    """The JAX function, or the model, that the term's factory makes."""
    factory = _resolve(field, term.function, DEVICE_REWARDS)
    try:
        reward: Any = factory(tokenizer, **term.arguments)
    except UserError as error:
        raise UserError(_named(field, error)) from None
    except TypeError as error:
        raise UserError(f"{field}.arguments: {_one_line(error)}{_raised_at(error)}.") from error
    except Exception as error:
        raise UserError(f"{field}: its factory '{term.function}' raised {_one_line(error)}{_raised_at(error)}.") from error
    if not callable(reward) and not isinstance(reward, ModelReward):
        raise UserError(
            f"{field}: its factory '{term.function}' returned {type(reward).__name__}, expected a function of a Rollout."
        )
    return reward  # pyright: ignore


def _bound(field: str, term: RewardTerm) -> Callable[..., Any]:
    """The Python function; that a built-in one has its arguments is checked here, before the first call."""
    function = _resolve(field, term.function, TEXT_REWARDS)
    if "." in term.function:
        return function  # a column of the data may supply what a user's function asks for
    parameters = inspect.signature(function).parameters
    for name in term.arguments:
        if name not in parameters:
            raise UserError(f"{field}.arguments: '{term.function}' takes no '{name}'.{did_you_mean(name, parameters)}")
    for name, parameter in parameters.items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and name not in term.arguments:
            raise UserError(f"{field}.arguments: '{term.function}' needs '{name}'; give it as +{field}.arguments.{name}=…")
    if term.function in PREPARATIONS:
        try:
            PREPARATIONS[term.function](**term.arguments)
        except UserError as error:
            raise UserError(_named(field, error)) from None
    return function


def _traced(field: str, reward: DeviceReward | ModelReward, params: Params, rollout: Rollout) -> Float[Array, "B"]:
    """One JAX reward, checked while it is traced: nothing remains of this in the compiled step."""
    expected = rollout.mask.shape[:1]
    try:
        values = jnp.asarray(reward.score(params, rollout) if isinstance(reward, ModelReward) else reward(rollout))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{field}: the reward function raised {_one_line(error)}{_raised_at(error)}.") from error
    if values.shape != expected or not jnp.issubdtype(values.dtype, jnp.floating):
        raise UserError(
            f"{field}: the reward function returned {values.dtype}{list(values.shape)}, expected float{list(expected)}, "
            "one number a completion."
        )
    return values.astype(jnp.float32)


def _call(field: str, function, prompts, completions, columns) -> Float[np.ndarray, "B"]:
    """The function's rewards, checked: as many as completions, each a finite number."""
    try:
        rewards = function(prompts, completions, **columns)
        if isinstance(rewards, Mapping | str) or not isinstance(rewards, Iterable):
            kind, count = type(rewards).__name__, len(completions)
            raise UserError(f"{field}: the reward function returned {kind}, expected a list of {count} numbers.")
        # An array's own scalars are better checked as Python's; a generator may still raise here.
        rewards = np.asarray(rewards).tolist() if isinstance(rewards, jax.Array | np.ndarray) else list(rewards)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{field}: the reward function raised {_one_line(error)}{_raised_at(error)}, given {len(completions)} completions."
        ) from error
    if len(rewards) != len(completions):
        raise UserError(
            f"{field}: the reward function returned {len(rewards)} rewards, expected {len(completions)}, one a completion."
        )
    numbers = [_number(reward) for reward in rewards]
    for i, number in enumerate(numbers):
        if not math.isfinite(number):
            raise UserError(
                f"{field}: the reward of sample {i} is {rewards[i]!r}, expected a finite number; its prompt is {prompts[i]!r}, "
                f"its completion {completions[i]!r}."
            )
    return np.asarray(numbers, np.float32)


def _number(reward: Any) -> float:
    """The reward as float32 will hold it; NaN for what is no number."""
    if isinstance(reward, jax.Array | np.ndarray) and reward.ndim == 0:
        reward = reward.item()
    if isinstance(reward, bool | np.bool_) or not isinstance(reward, Real):
        return math.nan
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(float(reward)))
    except OverflowError:
        return math.inf


def _named(field: str, error: UserError) -> str:
    """The sentence of a reward that does not know by what name the config calls it."""
    return f"{field}{'.' if str(error).startswith('arguments.') else ': '}{error}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _raised_at(error: BaseException) -> str:
    """Where in the user's file, if it was there."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code.co_filename == __file__:
        return ""
    return f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
