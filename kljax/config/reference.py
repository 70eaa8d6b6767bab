"""The model that the policy is held to."""

from typing import Literal

from pydantic import Field

from kljax.config.base import Dtype, Fraction, Positive, strict


@strict
class NeverRefresh:
    """The reference stays what it is."""

    kind: Literal["never"]


@strict
class RefreshEvery:
    """The reference becomes the policy of that moment every so many steps."""

    kind: Literal["every"]
    steps: Positive


@strict
class RefreshAverage:
    """The reference is an exponential average of the policy's parameters: decay·reference + (1 − decay)·policy a step."""

    kind: Literal["average"]
    decay: Fraction


@strict
class ReferenceConfig:
    """The model that the policy is held to."""

    path: str | None  # another checkpoint of the same architecture: a run directory or a Hugging Face one; null: the base model
    revision: str | None = None  # branch, tag or commit, where path is a hub name; null: its default
    base: str | None = None  # the model under it, where path is a LoRA of PEFT's; null: the one that its files name
    dtype: Dtype  # of its parameters
    memory: Literal["device", "host"]  # where they lie while they are not used
    refresh: NeverRefresh | RefreshEvery | RefreshAverage = Field(discriminator="kind")
