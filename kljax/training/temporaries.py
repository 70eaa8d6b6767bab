"""Room in this process's memory for what compiled programs compute with."""

from collections.abc import Callable
from typing import Any

import jax

from kljax.training.allocator import make_room, retire_fragments

WORTH_IT = 2**24  # bytes: what is smaller finds room anywhere, and new pages for it cost little


def with_room(program: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted program for which room is made before its first call (`room_for`)."""
    ready = False

    def call(*inputs: Any) -> Any:
        nonlocal ready
        if not ready:
            room_for(program.lower(*inputs).compile())  # pyright: ignore  # compiled once: the call below finds it
            ready = True
        return program(*inputs)

    return call


def room_for(compiled: jax.stages.Compiled) -> None:
    """Make room for the temporaries of a program, on CPUs: each device takes them as one block at every call and frees it.

    In a process that keeps what it frees (`allocator.keep_freed_memory`) a block so finds the memory of the one before; in
    others room makes no difference. First, in any process, what compilation left in small pieces is taken out of the way
    (`allocator.retire_fragments`).
    """
    if jax.default_backend() != "cpu":
        return
    retire_fragments()
    memory, executable = compiled.memory_analysis(), compiled.runtime_executable()
    if memory is not None and executable is not None and memory.temp_size_in_bytes >= WORTH_IT:
        make_room(memory.temp_size_in_bytes, len(executable.local_devices()))
