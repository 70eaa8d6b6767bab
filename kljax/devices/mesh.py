"""One mesh of devices, and the rules that map the parameters' logical axes to it.

Sizes that do not divide are refused here, before anything compiles.
"""

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kljax.config import Config, DecoderConfig, EncoderConfig, MeshConfig
from kljax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
RULES = {
    "layers": None,
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
    "context": None,
    "norm": None,
    "segments": None,
    "outputs": None,
    "rank": None,
}
"""Logical axis of a parameter → axis of the mesh."""


def build(config: MeshConfig) -> Mesh:
    """The mesh over the devices that JAX sees; a config that leaves some out uses the first ones."""
    sizes = _sizes(config, jax.device_count())
    count = sizes[0] * sizes[1] * sizes[2]
    # Auto, since recent JAX makes Explicit axes by default: here the compiler shall propagate shardings.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:count])


def _sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    given = {axis: getattr(config, axis) for axis in AXES}
    for axis, size in given.items():
        if size == 0:
            raise UserError(f"mesh.{axis}: got 0, expected a number of devices, or -1 for the rest.")
    free = [axis for axis, size in given.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"mesh.{free[1]}: got -1, expected a number: only one axis can take the rest, and mesh.{free[0]} does.")
    fixed = 1
    for size in given.values():
        fixed *= max(size, 1)
    shape = " × ".join(f"{axis}={size}" for axis, size in given.items())
    if fixed > devices or (free and devices % fixed):
        fits = ", ".join(str(n) for n in _divisors(devices))
        raise UserError(
            f"mesh: {shape} does not fit the {devices} device{'s' * (devices > 1)} that JAX sees; expected sizes whose product "
            f"divides {devices} ({fits}).{_of_a_cpu()}"
        )
    return tuple(devices // fixed if size == -1 else size for size in given.values())  # pyright: ignore


def _of_a_cpu() -> str:
    return " run.cpu_devices says for how many devices a CPU is taken." if jax.default_backend() == "cpu" else ""


def check_sizes(config: Config, model: DecoderConfig | EncoderConfig, vocab_size: int, mesh: Mesh) -> None:
    """Refuse sizes that the mesh or the microbatches cannot divide, naming the numbers that would."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    for field, size, axes, parts in _divided(config, model, vocab_size, shards, mesh.shape["fsdp"], mesh.shape["tensor"]):
        if size % parts:
            lower = size - size % parts
            near = f"{lower} or {lower + parts}" if lower else f"{parts}"
            raise UserError(
                f"{field}: {size} cannot be divided over {parts} devices ({axes}); expected a multiple of {parts}, "
                f"such as {near}, or a mesh size among {', '.join(str(n) for n in _divisors(size))}.{_of_a_cpu()}"
            )
    prompts, count = config.rollout.prompts, config.rollout.microbatches
    if prompts % (count * shards):
        raise UserError(
            f"rollout.microbatches: got {count}, expected a divisor of rollout.prompts={prompts} whose parts can be divided "
            f"over {shards} device{'s' * (shards > 1)}: {', '.join(str(n) for n in _divisors(prompts // shards))}."
        )


def _divided(
    config: Config, model: DecoderConfig | EncoderConfig, vocab_size: int, shards: int, fsdp: int, tensor: int
) -> Iterator[tuple[str, int, str, int]]:
    batch_axes = "mesh.data × mesh.fsdp"
    yield "rollout.prompts", config.rollout.prompts, batch_axes, shards
    yield "pretrain.batch", config.pretrain.batch, batch_axes, shards
    yield "evaluation.prompts", config.evaluation.prompts, batch_axes, shards
    yield "model.d_model", model.d_model, "mesh.fsdp", fsdp
    yield "model.heads", model.heads, "mesh.tensor", tensor
    if isinstance(model, DecoderConfig):
        yield "model.kv_heads", model.kv_heads, "mesh.tensor", tensor
    yield "model.d_mlp", model.d_mlp, "mesh.tensor", tensor
    yield "the vocabulary", vocab_size, "mesh.tensor", tensor


def param_shardings(abstract: nnx.State, mesh: Mesh) -> Any:
    """A nested dict of shardings, shaped like the parameters, from their logical axes."""

    def sharding(variable: nnx.Variable) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(RULES[axis] for axis in variable.get_metadata()["axes"])))

    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(sharding, abstract, is_leaf=is_variable))  # pyright: ignore


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
