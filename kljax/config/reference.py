"""The model that the policy is held to."""

from typing import Literal

from pydantic import Field

from kljax.config.base import Dtype, Fraction, Positive, strict


@strict
class NeverRefresh:
    """The reference stays what it is."""

    kind: Literal["never"]
    """Set by reference/refresh=never."""


@strict
class RefreshEvery:
    """The reference becomes the policy of that moment every so many steps."""

    kind: Literal["every"]
    """Set by reference/refresh=every."""
    steps: Positive
    """Steps after which the reference becomes the policy."""


@strict
class RefreshAverage:
    """The reference is an exponential average of the policy's parameters: decay·reference + (1 − decay)·policy a step."""

    kind: Literal["average"]
    """Set by reference/refresh=average."""
    decay: Fraction
    """The share of itself that the reference keeps a step; the nearer to 1, the slower it follows."""


@strict
class ReferenceConfig:
    """The model that the policy is held to."""

    path: str | None
    """Another checkpoint of the same architecture: a run directory or a Hugging Face one; null: the base model."""
    revision: str | None = None
    """Branch, tag or commit, where path is a hub name; null: its default."""
    base: str | None = None
    """The model under it, where path is a LoRA of PEFT's; null: the one that its files name."""
    dtype: Dtype
    """Of its parameters."""
    memory: Literal["device", "host"]
    """Where its parameters lie while they are not used: on the device, or in the host's memory."""
    refresh: NeverRefresh | RefreshEvery | RefreshAverage = Field(discriminator="kind")
    """Whether, and how, the reference follows the policy."""
