"""Memory that a step frees, and takes again."""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from kljax.training import task
from kljax.training.allocator import MENDED, SLACK

FAULTS = """
import ctypes, resource
from kljax.training.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def take_and_give_back():
    block = libc.malloc(ctypes.c_size_t({size}))
    ctypes.memset(block, 1, {size})
    libc.free(block)
take_and_give_back()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take_and_give_back()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

ROOMS = """
import ctypes, json, resource
from kljax.training.allocator import keep_freed_memory, make_room
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.aligned_alloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.aligned_alloc.argtypes = [ctypes.c_size_t], [ctypes.c_size_t] * 2
libc.free.argtypes = [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if {room}:
    make_room({size}, blocks=2)
touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
steps = []
for _ in range(8):
    blocks = [libc.aligned_alloc(64, {size}) for _ in range(2)]
    small = [libc.malloc(size) for size in 4 * [*range(128, 4096, 16)]]  # stays, more than fits elsewhere
    for block in blocks:
        libc.free(block)
    steps.append([sorted(blocks), small])
print(json.dumps([touched, steps]))
"""
BEHIND = 104  # bytes: what malloc gives back of the hole that it found for an aligned block
KEPT = 7  # freed things of one size that a thread keeps for itself, wherever they lie
KEEP_NONE = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}  # no thread keeps any: what they keep is another test's matter

BROKEN = """
import ctypes, json, resource
from pathlib import Path
from kljax.training.allocator import _glibc, keep_freed_memory, make_room, mended
keep_freed_memory()
libc = _glibc()

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def write_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = sorted(libc.aligned_alloc(64, {size}) for _ in range({blocks}))
    for block in blocks:
        ctypes.memset(block, 1, {size})
    return blocks, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def give_back(blocks):
    for block in blocks:
        libc.free(block)

rooms = make_room({size}, blocks={blocks})
cached = [libc.malloc({behind}) for _ in range({kept})]  # the thread keeps none of this size: it will keep the next
blocks, first = write_blocks()
{stays}
give_back(blocks)
{comes}
with_blocks = resident()
after = mended(rooms)
given_back = with_blocks - resident()
whole = mended(after) == after
again_blocks, again = write_blocks()
same = [a.begin == b.begin for a, b in zip(after, rooms)]
foreseen = [room.place for room in after] == again_blocks
print(json.dumps([after != rooms, whole, same, foreseen, first, again, given_back]))
"""


FRAGMENTED = """
import ctypes, json, random
from pathlib import Path
from kljax.training import allocator
allocator.keep_freed_memory()
libc = allocator._glibc()
allocator.make_room({room}, blocks=1)
block = libc.aligned_alloc(64, {room})
libc.free(block)
sizes = [random.Random(i).randrange(2**10, 2**17) for i in range(2 * {pieces})]
taken = [libc.malloc(size) for size in sizes]
for piece, size in zip(taken, sizes):
    ctypes.memset(piece, 1, size)
for piece in taken[::2]:
    libc.free(piece)  # one stays between two of them

def seen():
    pieces = [number for size, number in allocator._free_pieces(libc) if size in allocator.FRAGMENTS]
    return sum(pieces), int(Path("/proc/self/statm").read_text().split()[1])

before = seen()
allocator.retire_fragments()
print(json.dumps([sum(sizes[::2]), before, seen(), block == libc.aligned_alloc(64, {room})]))
"""


HEAPS = """
import ctypes, re, tempfile, threading
{imports}
thread = threading.Thread(target=bytearray, args=(10**6,))
thread.start()
thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as report:
    stream = ctypes.c_void_p(libc.fdopen(report.fileno(), b"w"))
    libc.malloc_info(0, stream)
    libc.fflush(stream)
    report.seek(0)
    print(len(re.findall(b"<heap nr", report.read())))
"""

only_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc, which this is about")


def _printed(program: str, environment: Mapping[str, str] = MappingProxyType({})) -> Any:
    command, env = [sys.executable, "-c", program], os.environ | environment
    return json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)


@only_glibc
def test_every_thread_of_a_process_that_imports_the_library_has_the_same_heap():
    assert _printed(HEAPS.format(imports="import kljax, datasets")) == 1
    assert _printed(HEAPS.format(imports="import datasets")) > 1


@only_glibc
def test_what_a_step_frees_is_there_for_the_next():
    size = 2**26
    pages = size // resource.getpagesize()
    kept, given_back = (_printed(FAULTS.format(keep=keep, size=size)) for keep in (True, False))
    assert kept < pages / 100
    assert given_back > 0.9 * pages


@only_glibc
def test_blocks_of_two_devices_find_the_same_room_in_every_step_and_what_is_small_stays_out_of_it():
    size = 2**27
    touched, steps = _printed(ROOMS.format(room=True, size=size), KEEP_NONE)
    first, _ = steps[0]
    assert [blocks for blocks, _ in steps] == [first] * len(steps)
    small = [address for _, addresses in steps for address in addresses]
    assert not any(block <= address < block + size + SLACK for block in first for address in small)
    assert touched < size / resource.getpagesize() / 100

    _, steps = _printed(ROOMS.format(room=False, size=size))
    assert len({block for blocks, _ in steps for block in blocks}) > 2 * len(first)


@only_glibc
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("stays", ["", f"libc.malloc({BEHIND})"])
def test_a_room_whose_end_a_thread_keeps_is_made_longer_and_the_next_block_needs_no_new_pages(stays, blocks):
    size = 2**27
    broken, whole, same, foreseen, first, again, given_back = _printed(
        BROKEN.format(size=size, blocks=blocks, behind=BEHIND, kept=KEPT, stays=stays, comes="")
    )
    assert broken
    assert whole
    assert foreseen
    assert same == blocks * [True]
    assert given_back <= 0
    assert again < blocks * 2 * MENDED / resource.getpagesize() < 0.02 * first


@only_glibc
def test_a_room_that_something_large_lies_in_is_given_back_and_made_elsewhere():
    size = 2**27
    broken, whole, same, foreseen, _, _, given_back = _printed(
        BROKEN.format(size=size, blocks=1, behind=BEHIND, kept=KEPT, stays="", comes=f"libc.malloc({size // 4 * 3})")
    )
    assert broken
    assert whole
    assert foreseen
    assert same == [False]
    assert given_back > size / 5


@only_glibc
def test_a_block_that_is_free_in_a_moment_is_waited_for():
    size = 2**27
    late = "import threading; threading.Timer(0.005, give_back, [blocks]).start(); give_back = lambda _: None"
    broken, whole, same, foreseen, _, again, given_back = _printed(
        BROKEN.format(size=size, blocks=2, behind=BEHIND, kept=KEPT, stays=late, comes=""), KEEP_NONE
    )
    assert not broken
    assert whole
    assert foreseen
    assert same == [True, True]
    assert given_back <= 0
    assert again < 16


@only_glibc
def test_no_room_is_left_where_a_block_has_pages_of_its_own():
    rooms = "from kljax.training import allocator; {}; print(len(allocator.make_room(2**27, blocks=2)))"
    assert _printed(rooms.format("allocator.keep_freed_memory()")) == 2
    assert _printed(rooms.format("pass")) == 0


@only_glibc
def test_small_pieces_leave_the_lists_of_what_is_free_and_their_pages_the_process_but_a_room_stays_free():
    pieces = 200  # twice as many are smaller together than the hole that make_room has for what is small
    size, (free, pages), (free_after, pages_after), room_is_free = _printed(
        FRAGMENTED.format(pieces=pieces, room=2**27), KEEP_NONE
    )
    assert free > 0.9 * pieces  # what threads keep for themselves is not free
    assert free_after < 0.05 * pieces
    assert (pages - pages_after) * resource.getpagesize() > 0.8 * size
    assert room_is_free


@pytest.mark.parametrize(("keep", "devices"), [(True, "null"), (False, 2)])
def test_a_process_is_set_up_as_its_config_says(tiny, monkeypatch, keep, devices):
    called = []
    monkeypatch.setattr(task.meshes, "divide_cpu", called.append)
    monkeypatch.setattr(task, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(task, "free_before_the_next", lambda: called.append("in turn"))
    monkeypatch.setattr(task, "use_compilation_cache", lambda folder: called.append(folder))
    run = tiny(f"run.keep_freed_memory={keep}", f"run.cpu_devices={devices}").run
    task.set_up_process(run)
    assert called == [*(["kept", "in turn"] if keep else ["in turn", devices]), run.compilation_cache]
