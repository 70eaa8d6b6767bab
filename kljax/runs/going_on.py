"""Going on with a run to another number of steps, where that makes the run that would have been so long from its start.

`steps`, and `epochs`, from which steps follow, are in neither the name nor the identity of a run. What its steps have computed
must not depend on how many there were to be: the learning rate may not be on its way to 0, and no reward may have asked.
JAX-free, and writes nothing.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kljax.config import Config
from kljax.errors import UserError
from kljax.runs.config_file import CONFIG, read_config, spelled
from kljax.runs.digests import MANIFEST

CHECKPOINTS, ASKED = "checkpoints", "asked_for_length"
"""ASKED: what a checkpoint says of the rewards that have asked, up to its step, for the length of the run."""


@dataclass(frozen=True)
class Length:
    """Of a run on disk: `taken` steps are in its checkpoints, `steps` is what its last launch was to take."""

    path: Path
    saved: tuple[int, ...]
    steps: int
    epochs: float | None

    @property
    def taken(self) -> int:
        """The step of the last checkpoint; 0 without any."""
        return max(self.saved, default=0)

    @property
    def words(self) -> str:
        """The length as it is given on the command line."""
        return f"steps={self.steps}" if self.epochs is None else f"epochs={self.epochs:g}"


def saved_steps(path: Path) -> tuple[int, ...]:
    """The steps that have a finished checkpoint, in order; whether it is what was written is not looked at."""
    manifests = (path / CHECKPOINTS).glob(f"*/{MANIFEST}")
    return tuple(sorted(int(one.parent.name) for one in manifests if one.parent.name.isdecimal()))


def check(path: Path, config: Config) -> Length | None:
    """The length of the run that is there, None where there is none. UserError where `config` cannot make it another one."""
    if not (path / CONFIG).exists():
        return None
    there = read_config(path)
    if not isinstance(there.get("steps"), int) or not isinstance(there.get("epochs"), int | float | None):
        said = f"steps={there.get('steps')!r} and epochs={there.get('epochs')!r}"
        raise UserError(
            f"run: {path / CONFIG} says {said}, expected numbers; restore it from a copy, or choose another name=…."
        )
    length = Length(path, saved_steps(path), there["steps"], there.get("epochs"))
    if config.steps < length.taken:
        earlier = [step for step in length.saved if 0 < step <= config.steps]
        look = f"kljax analyze run={path} step={earlier[-1] if earlier else length.saved[0]} looks at an earlier one"
        raise UserError(
            f"steps: got {_given(config)}, but {path} has taken {length.taken} and is beyond; expected as many or more, to go "
            f"on with it. {look} (it has: {', '.join(map(str, length.saved))}); another name=… begins anew."
        )
    if config.steps != length.steps and length.taken and config.optimizer.schedule != "constant":
        raise UserError(
            f"optimizer.schedule: got {config.optimizer.schedule} with steps={_given(config)}, but the {length.taken} steps "
            f"that {path} has were taken with a learning rate on its way to 0 at step {length.steps}, and a run of another "
            f"length has other rates from its start. Give {length.words} to resume it, or choose another name=… for a run of "
            "that length; with optimizer.schedule=constant a run can be made longer."
        )
    return length


def check_rewards(length: Length | None, config: Config, may_ask: Collection[str]) -> None:
    """UserError where a reward has asked for the length of the run, which is another one now.

    Checkpoints of older versions do not say: then it is refused where one of those that `may_ask` is there.
    """
    if length is None or not length.taken or config.steps == length.steps:
        return
    known = asked(length.path, length.taken)
    if not (names := sorted(may_ask if known is None else known)):
        return
    has = "may have asked" if known is None else "has asked"
    older = " (an older version of kljax did not note it)" if known is None else ""
    raise UserError(
        f"{names[0]}: its function {has} for trainer_state.max_steps{older}, which was {length.steps} in the {length.taken} "
        f"steps that {length.path} has, and would be {config.steps} now: a run of that length may have had other rewards from "
        f"its start. Give {length.words} to resume it, or choose another name=… for a run of that length."
    )


def asked(path: Path, step: int) -> list[str] | None:
    """The rewards that have asked for the length of the run up to this step; None where its checkpoint does not say."""
    try:
        found: Any = json.loads((path / CHECKPOINTS / str(step) / "about" / "metadata").read_bytes())[ASKED]
        return [str(name) for name in found]
    except (OSError, ValueError, KeyError, TypeError):  # of an older run, or damaged, which its restore will say
        return None


def sentence(length: Length | None, path: Path, first: int, steps: int) -> str:
    """The sentence of a launch that finds `first` steps taken."""
    if length is None or length.steps == steps:
        return f"Resuming {path} at step {first} of {steps}."
    return f"Going on with {path} from step {first} to {steps}."


def finished(path: Path, steps: int) -> str:
    """The sentence of a launch that finds all steps taken."""
    return f"{path} is finished, at step {steps} of {steps}: it is checked, and evaluated again."


def _given(config: Config) -> str:
    return f"{config.steps}" if config.epochs is None else f"{config.steps} (epochs={spelled(config.epochs)})"
