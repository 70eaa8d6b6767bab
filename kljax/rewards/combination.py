"""The config's reward terms, resolved by name or dotted path and checked at every call; the reward is their weighted sum."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kljax.config import RewardTerm
from kljax.data.batches import PromptRows
from kljax.data.tokenizers import completion_ids
from kljax.errors import UserError
from kljax.rewards import model
from kljax.rewards.device import DEVICE_REWARDS, DeviceReward
from kljax.rewards.functions import Logged, Samples, TrainerState, bind, call
from kljax.rewards.model import ModelReward
from kljax.rewards.user_code import PASSED, named, one_line, raised_at, resolve
from kljax.types import Params, Rollout, Tokenizer

LARGEST = float(np.finfo(np.float32).max)

Terms = dict[str, Float[Array | np.ndarray, "B"]]
"""Each term's value of every completion, before its weight; NaN where a Python function said None."""


HostReward = Callable[..., dict[str, Float[np.ndarray, "B"]]]
"""(prompts, completions, columns, *, completion_ids, state, logged) → the Python terms of these completions."""


@dataclass(frozen=True)
class Reward:
    """Terms that are computed on the `device` (inside the compiled step) and on the `host` (between its two halves).

    `params` are those of reward models on the device: arguments of the step. `host` is None where no term needs it; `on_host`
    are its terms' names. A term of weight 0 is reported and not trained on.
    """

    weights: Mapping[str, float]
    params: dict[str, Params]
    device: Callable[[dict[str, Params], Rollout], Terms]
    host: HostReward | None
    on_host: frozenset[str] = frozenset()
    models: Mapping[str, str] = field(default_factory=dict)  # fingerprints of the terms that are reward models
    reads_columns: bool = False  # a Python function gets columns of the data: rows with one prompt may be rewarded otherwise
    may_ask: frozenset[str] = frozenset()  # Python functions that get trainer_state, and with it how long the run is
    asked: set[str] = field(default_factory=set)  # those of them that have looked at that, so far

    def applies(self, name: str, values: Float[Array | np.ndarray, "B"]) -> Bool[Array, "B"]:
        """Where the term has a value: everywhere, unless a Python function said None."""
        return ~jnp.isnan(values) if name in self.on_host else jnp.ones(values.shape, bool)

    def total(self, terms: Terms) -> Float[Array, "B"]:
        """Σ weight · term, over the terms that apply."""
        zero = jnp.zeros_like(next(iter(terms.values())))
        counted = {name: values for name, values in terms.items() if self.weights[name]}
        parts = (self.weights[name] * jnp.where(self.applies(name, x), x, 0.0) for name, x in counted.items())
        return jnp.asarray(sum(parts, zero))

    def check(self, terms: Mapping[str, Any], prompts: Sequence[Any] = (), completions: Sequence[Any] = ()) -> None:
        """UserError where a term that counts is no finite number, or the weighted sum is none, with the sample and its texts.

        For arrays that are on the host, or may be fetched: nothing of it can be traced.
        """
        counted: Terms = {name: np.asarray(values) for name, values in terms.items() if self.weights[name]}
        for name, values in counted.items():
            bad = np.flatnonzero(~np.isfinite(values) & np.asarray(self.applies(name, values))).tolist()
            if bad:
                raise UserError(
                    f"reward.{name}: the reward of sample {bad[0]} is {values[bad[0]]:g} ({len(bad)} of {len(values)} samples "
                    f"have no finite one), expected finite numbers.{_texts(bad[0], prompts, completions)}"
                )
        total = np.asarray(self.total(counted)) if counted else np.zeros(0)
        if (bad := np.flatnonzero(~np.isfinite(total))).size:
            raise _too_large(
                self.weights, {name: values[bad[0]] for name, values in counted.items()}, int(bad[0]), prompts, completions
            )


def build(
    terms: Mapping[str, RewardTerm],
    tokenizer: Tokenizer,
    columns: Collection[str] | None = None,
    own: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> Reward:
    """The reward of the config, or a `UserError` that names the term that cannot be found, made or fed.

    `columns` are those of the data; None: not known, then a function that asks for others fails when it is called. `own` are
    functions of the task's by their names.
    """
    made = {name: _make(f"reward.{name}", term, tokenizer) for name, term in terms.items() if term.kind == "jax"}
    functions = [bind(f"reward.{name}", term, columns, own) for name, term in terms.items() if term.kind == "python"]
    may_ask = frozenset(one.name for one in functions if one.takes is None or "trainer_state" in one.takes)
    asked: set[str] = set()
    weights = {name: term.weight for name, term in terms.items()}
    for name, weight in weights.items():
        if abs(weight) > LARGEST:
            raise UserError(
                f"reward.{name}.weight: got {weight:g}, expected a number that float32 can hold (up to {LARGEST:.3g})."
            )
    on_host = frozenset(name for name, term in terms.items() if term.kind == "python")

    def device_terms(params: dict[str, Params], rollout: Rollout) -> Terms:
        return {name: _traced(f"reward.{name}", reward, params.get(name), rollout) for name, reward in made.items()}

    def host_terms(
        prompts: Any,
        completions: Any,
        columns: Mapping[str, list[Any]],
        *,
        completion_ids: Any = (),
        state: TrainerState | None = None,
        logged: Logged | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]:
        samples = Samples(prompts, completions, columns, completion_ids, state or TrainerState())
        found = call(functions, samples, Logged() if logged is None else logged, asked)
        values = {name.removeprefix("reward."): rewards for name, rewards in found.items()}
        _check_sum(values, weights, samples, others=any(weights[name] for name in made))
        return values

    params = {name: reward.params for name, reward in made.items() if isinstance(reward, ModelReward)}
    models = {name: model.fingerprint(**term.arguments) for name, term in terms.items() if term.function == "model"}
    # Whatever is not the run's own may be a column: where these are not known, too.
    not_columns = {function.name: {*PASSED, *function.arguments} for function in functions}
    reads_columns = any(
        function.columns or function.takes is None or function.takes - not_columns[function.name] for function in functions
    )
    host = host_terms if functions else None
    return Reward(weights, params, device_terms, host, on_host, models, bool(reads_columns), may_ask, asked)


def score_texts(
    host: HostReward,
    tokenizer: Tokenizer,
    prompts: PromptRows,
    rows: Int[np.ndarray, "N"],
    rollout: Rollout,
    state: TrainerState | None = None,
    logged: Logged | None = None,
) -> dict[str, Float[np.ndarray, "B"]]:
    """The Python terms of a rollout of these rows' prompts, samples of one prompt adjacent."""
    asked, answers = prompts.texts(tokenizer, rows, rollout)
    columns = prompts.columns(rows, len(answers) // len(rows))
    return host(asked, answers, columns, completion_ids=completion_ids(rollout), state=state, logged=logged)


def _check_sum(
    values: dict[str, Float[np.ndarray, "B"]], weights: Mapping[str, float], samples: Samples, *, others: bool
) -> None:
    """Refuse a sample without any reward (`others`: it has one on the device), and sums that float32 cannot hold."""
    counted = {name: rewards.astype(np.float64) for name, rewards in values.items() if weights[name]}
    if counted and not others:
        none = np.all([np.isnan(rewards) for rewards in counted.values()], axis=0)
        if none.any():
            i = int(np.flatnonzero(none)[0])
            raise UserError(
                f"reward: no term applies to sample {i}: {', '.join(counted)} returned None; expected a number of one at "
                f"least. Its prompt is {samples.prompts[i]!r}, its completion {samples.completions[i]!r}."
            )
    total = sum(weights[name] * np.nan_to_num(rewards) for name, rewards in counted.items())
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(np.asarray(total, np.float32)))
    if bad.size:
        values = {name: rewards[bad[0]] for name, rewards in counted.items()}
        raise _too_large(weights, values, int(bad[0]), samples.prompts, samples.completions)


def _too_large(
    weights: Mapping[str, float], values: Mapping[str, Any], sample: int, prompts: Sequence[Any], completions: Sequence[Any]
) -> UserError:
    parts = " + ".join(f"{weights[name]:g}·{value:g} ({name})" for name, value in values.items() if not np.isnan(value))
    return UserError(
        f"reward: the weighted sum of sample {sample} is too large for float32: {parts}; expected smaller rewards, or lower "
        f"weights (reward.NAME.weight=…).{_texts(sample, prompts, completions)}"
    )


def _texts(sample: int, prompts: Sequence[Any], completions: Sequence[Any]) -> str:
    """A sentence with the texts of a sample, where they are known."""
    if not len(prompts):
        return ""
    return f" Its prompt is {prompts[sample]!r}, its completion {completions[sample]!r}."


def _make(where: str, term: RewardTerm, tokenizer: Tokenizer) -> DeviceReward | ModelReward:
    """The JAX function, or the model, that the term's factory makes."""
    factory = resolve(where, term.function, DEVICE_REWARDS)
    try:
        reward: Any = factory(tokenizer, **term.arguments)
    except UserError as error:
        raise UserError(named(where, error)) from None
    except TypeError as error:
        raise UserError(f"{where}.arguments: {one_line(error)}{raised_at(error, factory)}.") from error
    except Exception as error:
        raise UserError(
            f"{where}: its factory '{term.function}' raised {one_line(error)}{raised_at(error, factory)}."
        ) from error
    if not callable(reward) and not isinstance(reward, ModelReward):
        raise UserError(
            f"{where}: its factory '{term.function}' returned {type(reward).__name__}, expected a function of a Rollout."
        )
    return reward  # pyright: ignore


def _traced(where: str, reward: DeviceReward | ModelReward, params: Params, rollout: Rollout) -> Float[Array, "B"]:
    """One JAX reward, checked while it is traced: nothing remains of this in the compiled step."""
    expected = rollout.mask.shape[:1]
    function = reward.score if isinstance(reward, ModelReward) else reward
    try:
        values = jnp.asarray(reward.score(params, rollout) if isinstance(reward, ModelReward) else reward(rollout))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: the reward function raised {one_line(error)}{raised_at(error, function)}.") from error
    if values.shape != expected or not jnp.issubdtype(values.dtype, jnp.floating):
        raise UserError(
            f"{where}: the reward function returned {values.dtype}{list(values.shape)}, expected float{list(expected)}, "
            "one number a completion."
        )
    return values.astype(jnp.float32)
