"""Room in this process's memory for what compiled programs compute with."""

from collections.abc import Callable
from typing import Any

import jax

from kljax.training.allocator import Room, make_room, mended, retire_fragments

WORTH_IT = 2**24  # bytes: what is smaller finds room anywhere, and new pages for it cost little
WORTH_WAITING = 2**27  # bytes: a step with so much takes long beside what the host does meanwhile
ASYNC = "jax_cpu_enable_async_dispatch"


def free_before_the_next() -> None:
    """Let the call of a program on a CPU return when its temporaries are freed. Before the first use of a device.

    By default a thread takes the program, and says that the results are there a moment before it frees the temporaries. The
    next step waits for the results alone: it asks for its block while the one before is still there, always where the host
    runs ahead, by chance where it waits for results. The process then has two blocks, for good where it keeps what it frees.
    Here the calling thread computes, with the GIL released. Programs over several devices have threads whatever is said here.
    """
    jax.config.update(ASYNC, False)


def with_room(program: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted program for which room is made before its first call (`room_for`), and mended before each later one.

    What is mended has to be free: a program over several devices waits for its inputs, results of the call before, where the
    room is WORTH_WAITING for. One of several devices that runs on frees its temporaries as it likes, as does one that a thread
    takes (`free_before_the_next`).
    """
    rooms: list[Room] | None = None

    def call(*inputs: Any) -> Any:
        nonlocal rooms
        if rooms is None:
            rooms = room_for(program.lower(*inputs).compile())  # pyright: ignore  # compiled once: the call below finds it
        elif _may_be_mended(rooms):
            jax.block_until_ready(inputs)
            rooms = mended(rooms)
        return program(*inputs)

    return call


def _may_be_mended(rooms: list[Room]) -> bool:
    in_turn = not jax.config.read(ASYNC)
    return in_turn and (len(rooms) == 1 or (len(rooms) > 1 and rooms[0].size >= WORTH_WAITING))


def room_for(compiled: jax.stages.Compiled) -> list[Room]:
    """Make room for the temporaries of a program, on CPUs: each device takes them as one block at every call and frees it.

    In a process that keeps what it frees (`allocator.keep_freed_memory`) a block so finds the memory of the one before; in
    others room makes no difference. First, in any process, what compilation left in small pieces is taken out of the way
    (`allocator.retire_fragments`).
    """
    if jax.default_backend() != "cpu":
        return []
    retire_fragments()
    memory, executable = compiled.memory_analysis(), compiled.runtime_executable()
    if memory is None or executable is None or memory.temp_size_in_bytes < WORTH_IT:
        return []
    return make_room(memory.temp_size_in_bytes, len(executable.local_devices()))
