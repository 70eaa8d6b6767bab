"""Chooses what a config leaves open of how a step uses its machine. No number changes by it, but in its last digits."""

import math
import os

import jax
import jax.numpy as jnp

from kljax.config import Config, DecoderConfig
from kljax.errors import UserError

MEMORY_FOR_ACTIVATIONS = 0.25  # of a device's
SMALL = 2**23  # numbers in the matrices of all layers: of 4.7 million two devices gain 10 %, of 25 million they lose


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
    """Let JAX take this machine's CPU for several devices, each with its part of the batch. Before the first use of a device.

    Much of a small model's step runs on one core of a device (attention over the cache, norms, drawing tokens), and two
    devices on two cores have two of them. But each reads all matrices for every token, and holds its own copy of what the mesh
    does not divide: a large model is faster on one. `run.cpu_devices` says how many; null chooses, unless the process has begun
    to use its CPU, or was told before.
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
    """As many as the mesh asks for, where there are so many cores; where it takes what there is, two for a small decoder.

    Its batches must be such that they can be halved; otherwise one.
    """
    model, mesh = config.model, config.mesh
    divided = (config.rollout.prompts // config.rollout.microbatches, config.pretrain.batch, config.evaluation.prompts)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(sizes := (mesh.data, mesh.fsdp, mesh.tensor)) > 0:
        return product if (product := math.prod(sizes)) <= cores else 1
    if not isinstance(model, DecoderConfig) or sizes != (-1, 1, 1):
        return 1
    width = (model.heads + model.kv_heads) * model.head_dim
    matrices = model.layers * model.d_model * (2 * width + (3 if model.mlp == "swiglu" else 2) * model.d_mlp)
    return 2 if cores > 1 and matrices <= SMALL and all(size % 2 == 0 for size in divided) else 1


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
