"""Memory that a step frees, and takes again."""

import ctypes
import resource
import subprocess
import sys

import pytest

from kljax.training import task

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc, which this is about")
def test_what_a_step_frees_is_there_for_the_next():
    size = 2**26
    pages = size // resource.getpagesize()
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep, size=size)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    )
    assert kept < pages / 100
    assert given_back > 0.9 * pages


@pytest.mark.parametrize(("keep", "devices"), [(True, "null"), (False, 2)])
def test_a_process_is_set_up_as_its_config_says(tiny, monkeypatch, keep, devices):
    called = []
    monkeypatch.setattr(task.meshes, "divide_cpu", called.append)
    monkeypatch.setattr(task, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(task, "use_compilation_cache", lambda folder: called.append(folder))
    run = tiny(f"run.keep_freed_memory={keep}", f"run.cpu_devices={devices}").run
    task.set_up_process(run)
    assert called == (["kept"] if keep else [devices]) + [run.compilation_cache]
