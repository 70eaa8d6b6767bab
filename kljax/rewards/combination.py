"""The weighted sum of the config's reward terms, resolved by name or dotted path and checked at every call."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from transformers import PreTrainedTokenizerBase

from kljax.config import RewardTerm
from kljax.errors import UserError, did_you_mean
from kljax.rewards.device import DEVICE_REWARDS, DeviceReward
from kljax.rewards.text import TEXT_REWARDS
from kljax.types import Rollout

HostReward = Callable[[list[str], list[str], Mapping[str, list[Any]]], Float[np.ndarray, "B"]]


@dataclass(frozen=True)
class Reward:
    """The sum of `device` (inside the compiled step) and `host` (between its two halves; None where no term needs it)."""

    device: DeviceReward
    host: HostReward | None


def build(terms: Mapping[str, RewardTerm], tokenizer: PreTrainedTokenizerBase) -> Reward:
    """The reward of the config, or a `UserError` that names the term that cannot be found or made."""
    device, host = [], []
    for name, term in terms.items():
        field = f"reward.{name}"
        if term.kind == "jax":
            factory = _resolve(field, term.function, DEVICE_REWARDS)
            try:
                device.append((term.weight, factory(tokenizer, **term.arguments)))
            except TypeError as error:
                raise UserError(f"{field}.arguments: {error}.") from None
        else:
            host.append((field, term, _resolve(field, term.function, TEXT_REWARDS)))

    def device_reward(rollout: Rollout) -> Float[Array, "B"]:
        zero = jnp.zeros(rollout.mask.shape[0], jnp.float32)
        return sum((weight * reward(rollout) for weight, reward in device), zero)

    def host_reward(prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]) -> Float[np.ndarray, "B"]:
        total = np.zeros(len(completions), np.float32)
        for field, term, function in host:
            total += np.float32(term.weight) * _call(field, function, prompts, completions, {**columns, **term.arguments})
        return total

    return Reward(device_reward, host_reward if host else None)


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
        raise UserError(f"{field}.function: cannot import '{module_name}' ({type(error).__name__}: {error}).") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(
            f"{field}.function: module '{module_name}' has no function '{attribute}'.{did_you_mean(attribute, dir(module))}"
        )
    return function


def _call(field: str, function, prompts, completions, columns) -> Float[np.ndarray, "B"]:
    """The function's rewards, checked: as many as completions, each a finite number."""
    try:
        rewards = function(prompts, completions, **columns)
    except UserError:
        raise
    except Exception as error:
        where = f"{type(error).__name__}: {error}"
        place = _raised_at(error)
        raise UserError(f"{field}: the reward function raised {where}{place}, given {len(completions)} completions.") from error
    try:
        rewards = list(rewards)
    except TypeError:
        raise UserError(
            f"{field}: the reward function returned {type(rewards).__name__}, expected a list of {len(completions)} numbers."
        ) from None
    if len(rewards) != len(completions):
        raise UserError(
            f"{field}: the reward function returned {len(rewards)} rewards, expected {len(completions)}, one a completion."
        )
    for i, reward in enumerate(rewards):
        if isinstance(reward, bool) or not isinstance(reward, Real | np.number) or not math.isfinite(float(reward)):
            raise UserError(
                f"{field}: the reward of sample {i} is {reward!r}, expected a finite number; its prompt is {prompts[i]!r}, "
                f"its completion {completions[i]!r}."
            )
    return np.asarray([float(reward) for reward in rewards], np.float32)


def _raised_at(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
