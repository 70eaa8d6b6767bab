"""What this process does with memory that it frees."""

import ctypes

ARENAS, MMAPS, TRIM = -8, -4, -1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h
KEEP = {ARENAS: 1, MMAPS: 0, TRIM: -1}
"""One heap, no block with pages of its own, nothing given back."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc; elsewhere nothing.

    On CPUs a compiled step asks for its temporaries as one block and frees it at its end. By default the block goes back to
    the system and comes again page by page, a tenth of the step's time. The price is a process that does not shrink, with
    holes in its heap. Before the first use of a device: its threads would have heaps of their own by then.
    """
    if hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for option, value in KEEP.items():
            libc.mallopt(option, value)
