"""Room for the temporaries of compiled programs."""

import ctypes
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from kljax.training import temporaries
from kljax.training.allocator import Room
from kljax.training.loop import train
from kljax.training.temporaries import with_room

AHEAD = """
import re
from pathlib import Path
import jax, jax.numpy as jnp
from kljax.training import temporaries
from kljax.training.allocator import keep_freed_memory

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

keep_freed_memory()
if {in_turn}:
    temporaries.free_before_the_next()
jax.config.update("jax_num_cpu_devices", {devices})
mesh = jax.make_mesh(({devices},), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.device_put(jnp.ones(({devices}, 4096)), jax.NamedSharding(mesh, jax.P("data")))
sums = jax.vmap(lambda row: jnp.cumsum(jnp.sin(jnp.outer(row, row)), axis=0)[-1])
program = jax.jit(lambda x: sums(x) / x.sum())  # the sum is over all devices
temporary = program.lower(x).compile().memory_analysis().temp_size_in_bytes
step = temporaries.with_room(program)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
begin = peak()
for _ in range(6):
    x = step(x)  # the host waits for no result
x.block_until_ready()
print((peak() - begin) / temporary)
"""


only_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc, which this is about")


@pytest.fixture
def rooms(monkeypatch):
    """What room was made: size and number."""
    made = []
    monkeypatch.setattr(temporaries, "make_room", lambda size, blocks: made.append((size, blocks)) or [])
    return made


def _program():
    """Its temporary is a product of x with itself, one row of which it returns."""

    @jax.jit
    def program(x):
        traced.append(x)
        square = x @ x
        return jnp.sort(square, axis=0)[0]

    traced = []
    return program, traced


def test_room_is_made_once_before_the_first_call_and_the_program_is_compiled_once(rooms):
    program, traced = _program()
    x = jnp.arange(2048.0 * 2048).reshape(2048, 2048) % 7
    expected = jnp.sort(x @ x, axis=0)[0]
    called = with_room(program)
    assert jnp.array_equal(called(x), expected)
    assert jnp.array_equal(called(x), expected)
    ((size, blocks),) = rooms
    assert size >= x.nbytes
    assert blocks == 1
    assert len(traced) == program._cache_size() == 1


@only_glibc
@pytest.mark.parametrize(("in_turn", "devices"), [(True, 1), (True, 2), (False, 1)])  # (False, 2): by chance
def test_a_host_that_runs_ahead_has_the_temporaries_of_one_step(in_turn, devices):
    command = [sys.executable, "-c", AHEAD.format(in_turn=in_turn, devices=devices)]
    blocks = float(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (0.75 * devices < blocks < 1.25 * devices) == in_turn


def test_every_device_of_the_program_has_room(rooms):
    mesh = jax.make_mesh((4,), ("data",))
    rows = jax.device_put(jnp.ones((4, 2**22)), jax.NamedSharding(mesh, jax.P("data")))
    with_room(jax.jit(lambda x: jnp.cumsum(jnp.sort(x, axis=1), axis=1).sum(axis=1)))(rows)
    ((size, blocks),) = rooms
    assert rows.nbytes / 4 <= size < rows.nbytes
    assert blocks == 4


def test_a_small_program_needs_none(rooms):
    program, _ = _program()
    with_room(program)(jnp.ones((8, 8)))
    assert rooms == []


def test_what_compilation_left_is_out_of_the_way_before_room_is_made(monkeypatch):
    program, traced = _program()
    done = []
    monkeypatch.setattr(temporaries, "retire_fragments", lambda: done.append(f"retired after {len(traced)}"))
    monkeypatch.setattr(temporaries, "make_room", lambda *_: done.append("room") or [])
    called = with_room(program)
    called(jnp.ones((2048, 2048)))
    called(jnp.ones((2048, 2048)))
    assert done == ["retired after 1", "room"]


LARGE = temporaries.WORTH_WAITING
LESS = LARGE - 1


@pytest.mark.parametrize(
    ("in_turn", "number", "size", "times"),
    [(True, 1, LESS, 2), (True, 4, LARGE, 2), (True, 4, LESS, 0), (False, 1, LARGE, 0), (False, 4, LARGE, 0), (True, 0, 0, 0)],
)
def test_rooms_are_mended_before_each_later_call_where_their_blocks_are_free(monkeypatch, in_turn, number, size, times):
    def mended(rooms):
        seen.append(rooms[0].kept)
        return [replace(room, kept=room.kept + 1) for room in rooms]

    seen = []
    monkeypatch.setattr(temporaries, "mended", mended)
    monkeypatch.setattr(temporaries, "room_for", lambda _: [Room(0, 0, size, 0)] * number)
    monkeypatch.setattr(jax.config, "read", lambda name: {temporaries.ASYNC: not in_turn}[name])
    program, _ = _program()
    called = with_room(program)
    for _ in range(3):
        called(jnp.ones((8, 8)))
    assert seen == [*range(times)]


ON_DEVICE = ["reward=[even_tokens]"]
ON_HOST = ["reward=[vader]", "reward.vader.function=rewards_of_lengths.reward"]


@pytest.mark.parametrize(("reward", "programs"), [(ON_DEVICE, 1), (ON_HOST, 2)])
def test_a_run_makes_room_for_the_fit_of_its_base_model_and_for_each_program_of_its_steps(
    rooms, monkeypatch, tiny, tmp_path, reward, programs
):
    monkeypatch.setattr(temporaries, "WORTH_IT", 0)
    function = "def reward(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"
    (tmp_path / "rewards_of_lengths.py").write_text(function)
    monkeypatch.syspath_prepend(str(tmp_path))
    train(tiny(*reward, "steps=2", "run.save_every=2"))
    assert len(rooms) == 1 + programs
