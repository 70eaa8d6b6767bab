"""What this process does with memory that it frees."""

import ctypes

ARENAS, MMAPS, TRIM = -8, -4, -1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h


def share_one_heap() -> None:
    """Let all threads of this process allocate from one heap, where the C library is glibc; elsewhere nothing.

    By default every thread opens another, of small regions, up to a number; what does not fit into a region comes as pages of
    its own, whatever malloc was told, and goes back when it is freed. Threads that come later are dealt out over the heaps
    that are there: whether a device's thread gets such a one is chance. Before the first thread, so before imports that
    start any (pyarrow's).
    """
    _tell_malloc({ARENAS: 1})


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc; elsewhere nothing.

    On CPUs a compiled step asks for its temporaries as one block and frees it at its end. By default the block goes back to
    the system and comes again page by page, a tenth of the step's time. The price is a process that does not shrink, with
    holes in its heap. `share_one_heap` before, or it is true of some threads only.
    """
    _tell_malloc({MMAPS: 0, TRIM: -1})  # no block with pages of its own, nothing given back


def _tell_malloc(options: dict[int, int]) -> None:
    if hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for option, value in options.items():
            libc.mallopt(option, value)
