"""The axis legend and the structs that travel between the rooms.

Axes, everywhere in this project:

    B sequences            G samples of one prompt      N distinct prompts (B = N·G, samples of one prompt adjacent)
    P prompt, padded left  T completion, padded right   S prompt and completion, or a cache (S = P + T)
    V vocabulary           D model   F MLP   H heads    K head dimension

Log-probs, KLs and entropies are float32, in nats, whatever the model's dtype.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from jax.tree_util import GetAttrKey, register_pytree_with_keys
from jaxtyping import Array, Bool, Float, Int

Params = Any
"""A nested dict of arrays: a model's parameters without the model."""

if TYPE_CHECKING:
    from transformers import PreTrainedConfig as HuggingFaceConfig
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:  # names for annotations: transformers is imported where something is loaded with it, which takes a second
    HuggingFaceConfig = Tokenizer = Any

Cls = TypeVar("Cls")


@dataclass_transform(frozen_default=True)
def struct(cls: type[Cls]) -> type[Cls]:
    """A frozen dataclass that JAX sees as a tree of its fields.

    Unlike `jax.tree_util.register_dataclass` it does not call `__init__` when JAX rebuilds the tree: the leaves are then
    often no arrays of the annotated shape but shapes, shardings or stacked chunks, which the type checks would refuse.
    """
    made = dataclass(frozen=True)(cls)
    names = [field.name for field in fields(made)]  # pyright: ignore

    def flatten_with_keys(value: Any) -> tuple[list[Any], None]:
        return [(GetAttrKey(name), getattr(value, name)) for name in names], None

    def unflatten(_: None, leaves: Any) -> Any:
        value = object.__new__(made)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(value, name, leaf)
        return value

    register_pytree_with_keys(
        made, flatten_with_keys, unflatten, lambda value: ([getattr(value, name) for name in names], None)
    )
    return made


@struct
class Prompts:
    """Distinct prompts, padded on the left to one width, so that every row's last column is its last token."""

    tokens: Int[Array, "N P"]
    mask: Bool[Array, "N P"]


@struct
class Rollout:
    """Prompts with their sampled completions.

    A completion ends with the first of its tokens that ends one, which belongs to it (`mask` is true there); all after it is
    padding. `behaviour_logp` is the log-prob of each token under the *untruncated* policy at the sampling temperature:
    the same number that scoring gives, also where top-k or top-p cut the distribution that was drawn from.
    """

    tokens: Int[Array, "B S"]
    prompt_mask: Bool[Array, "B P"]
    mask: Bool[Array, "B T"]
    behaviour_logp: Float[Array, "B T"]

    @property
    def completion(self) -> Int[Array, "B T"]:
        """The tokens after the prompt."""
        return self.tokens[:, self.prompt_mask.shape[1] :]


@struct
class Scores:
    """Log-probs and divergences of policy (pi) and reference (rho) at each completion token and of the state before it, nats.

    `reverse_kl` is KL(pi‖rho) and `forward_kl` is KL(rho‖pi) between the two *whole* next-token distributions of the
    state in which the token was sampled; `divergence` is the one that the penalty asks for, `entropy` that of pi there.
    Values under padding are arbitrary.
    """

    logp: Float[Array, "B T"]
    ref_logp: Float[Array, "B T"]
    reverse_kl: Float[Array, "B T"]
    forward_kl: Float[Array, "B T"]
    divergence: Float[Array, "B T"]
    entropy: Float[Array, "B T"]
