"""Memory of a training step: the arrays that stay, and the peak of the process while it steps. Linux only."""

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from kljax.config import Config
from kljax.errors import UserError
from kljax.fitting.fit import find_base, load_base
from kljax.runs.reference import first_reference
from kljax.runs.setup import prepare
from kljax.training.trainer import build_trainer

STATUS = Path("/proc/self/status")
"""Where Linux says what a process has in memory."""


@dataclass(frozen=True)
class Memory:
    """Bytes. `before` is the process with its data and tokenizer, before any parameter is there."""

    before: int
    trained: int
    optimizer: int
    frozen: int
    peak: int


def measure(config: Config, steps: int = 2) -> Memory:
    """Memory of `steps` steps after a first one, which compiles."""
    if not STATUS.exists():
        raise UserError(f"memory is read from {STATUS}, which this system does not have; expected Linux.")
    setup = prepare(config)
    base_path = find_base(setup)
    trainer = build_trainer(setup)
    _release()
    before = _resident("VmRSS")
    base = load_base(setup, base_path)
    reference = first_reference(setup, base)
    state, frozen = trainer.initial_state(base, reference), trainer.freeze(base, reference)
    sizes = [_bytes(tree) for tree in (state.params, state.opt_state, (frozen, state.reference))]
    del base, reference  # what a run still needs of them is in `frozen`
    state, metrics, outcome = trainer.take_step(state, frozen, trainer.batch(0))
    jax.block_until_ready((state, metrics, outcome))
    begin_peak()
    for step in range(1, 1 + steps):
        state, metrics, outcome = trainer.take_step(state, frozen, trainer.batch(step))
    jax.block_until_ready((state, metrics, outcome))
    return Memory(before, *sizes, peak=peak())


def begin_peak() -> None:
    """Let the peak of this process begin anew, at what it needs now."""
    _release()
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes: the most that this process had in memory since `begin_peak`."""
    return _resident("VmHWM")


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _release() -> None:
    """Give freed memory back to the system, so that it is not counted."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
