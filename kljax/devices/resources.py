"""Chooses what a config leaves open of how a step uses its machine. No number changes by it, but in its last digits."""

import math
import os

import jax
import jax.numpy as jnp

from kljax.config import Config, DecoderConfig
from kljax.errors import UserError

MEMORY_FOR_ACTIVATIONS = 0.25  # of a device's


STRICT = {"jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow"}
"""Settings by which JAX refuses what this code and its libraries do, and the values that they must have."""


def check_jax() -> None:
    """UserError where JAX has no device, or refuses mixed types or ranks."""
    for name, needed in STRICT.items():
        if (value := getattr(jax.config, name)) != needed:
            raise UserError(f"{name.upper()}: got {value}, expected {needed}: kljax and its libraries mix types and ranks.")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where no platform of the list has a device
        platforms = jax.config.jax_platforms  # pyright: ignore
        reason = " ".join(str(error).split()).partition(" (you may")[0]
        because = f" ({reason})" if reason else ""
        raise UserError(
            f"JAX_PLATFORMS: JAX finds no device for {platforms or 'any platform'}{because}; expected a platform that is "
            "installed, such as cpu."
        ) from None


def divide_cpu(config: Config) -> None:
    """Let JAX take this machine's CPU for as many devices as the config asks for. Before the first use of a device.

    `run.cpu_devices` says how many; null chooses, unless the process has begun to use its CPU, or was told before.
    """
    asked = config.run.cpu_devices
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if asked is None and (told or jax.config.jax_num_cpu_devices != -1):  # pyright: ignore
        return
    try:
        jax.config.update("jax_num_cpu_devices", chosen_devices(config) if asked is None else asked)
    except RuntimeError as late:
        if asked is not None and (there := jax.local_device_count("cpu")) != asked:
            raise UserError(
                f"run.cpu_devices: got {asked}, but this process has begun to use its CPU as {there}; expected that, or a "
                "process of its own."
            ) from late


def chosen_devices(config: Config) -> int:
    """As many as the mesh asks for, where there are so many cores; one where it takes what there is.

    Two devices of two cores are 10 % faster for a small model. But XLA ends the process where other work takes a core: both
    threads of its pool then wait in a sum over the devices for a part that no thread is left to compute.
    """
    sizes = config.mesh.data, config.mesh.fsdp, config.mesh.tensor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return product if min(sizes) > 0 and (product := math.prod(sizes)) <= cores else 1


def keeps_activations(config: Config, model: DecoderConfig, devices: int) -> bool:
    """Whether the gradient takes what sampling computed, in place of a forward pass: as the config says, or where it pays.

    That is where the gradient would hold all activations anyway (no remat, one microbatch), and where they fit.
    """
    if (asked := config.rollout.keep_activations) is not None:
        return asked
    held_anyway = model.remat == "none" and config.rollout.microbatches == 1
    if not held_anyway or config.rollout.cache_dtype not in (None, model.dtype):
        return False
    return activation_bytes(config, model) / devices <= MEMORY_FOR_ACTIVATIONS * device_memory()


FEW_LAYERS = 6  # so many compile by themselves as fast as a loop does, whose program has more parts
STEPS_A_LAYER = 10  # steps that make up for compiling one more layer by itself


def unrolls(asked: bool | None, layers: int, steps: int) -> bool:
    """Whether a program of so many steps holds each layer by itself: as the config says, or where that is sooner done.

    A loop compiles as fast for thirty layers as for three. On a CPU its steps are slower, as it copies each layer's part.
    """
    if asked is not None:
        return asked
    return layers <= FEW_LAYERS or (jax.default_backend() == "cpu" and steps >= STEPS_A_LAYER * layers)


def layers_note(asked: bool | None, layers: int, steps: int) -> str | None:
    """A sentence for the launch on the choice, and what would change it; None where it was asked for, or layers are few."""
    if asked is not None or layers <= FEW_LAYERS or jax.default_backend() != "cpu":
        return None
    enough = STEPS_A_LAYER * layers
    if unrolls(asked, layers, steps):
        return (
            f"The {layers} layers are compiled one by one, which takes longer and makes steps faster: {steps} steps, at least "
            f"{enough}. run.unroll_layers=false compiles a loop."
        )
    return (
        f"The {layers} layers are compiled as a loop: {steps} steps, fewer than {enough}. run.unroll_layers=true compiles them "
        "one by one, which takes longer and makes steps faster."
    )


def activation_bytes(config: Config, model: DecoderConfig) -> int:
    """Bytes of what `sample_with_activations` keeps of a rollout, prompts at their longest."""
    rollout, prompt = config.rollout, config.data.prompt.max_tokens + 1
    rows = rollout.prompts * rollout.samples
    tokens = rollout.prompts * prompt + rows * rollout.max_new_tokens
    slots = rollout.prompts * prompt + rows * (prompt + rollout.max_new_tokens)
    inner = model.d_mlp * (2 if model.mlp == "swiglu" else 1)
    of_token = 2 * model.heads * model.head_dim + model.heads + 2 * model.d_model + inner
    of_slot = 2 * model.kv_heads * model.head_dim
    return model.layers * (tokens * of_token + slots * of_slot) * jnp.dtype(model.dtype).itemsize


def device_memory() -> float:
    """Bytes of one device: its own, or its part of the machine's."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
