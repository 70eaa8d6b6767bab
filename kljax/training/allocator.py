"""What this process does with memory that it frees."""

import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from xml.etree import ElementTree

ARENAS, MMAPS, TRIM, FAST = -8, -4, -1, 1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_MXFAST of glibc's malloc.h
ALIGNMENT, HEADER = 64, 8  # bytes: of XLA's blocks, and what glibc adds to each
STEP = 16  # bytes: sizes are multiples of it; in what malloc reports the lowest bits say something else
SPARE = ALIGNMENT + 48  # bytes: by so much the hole is larger that glibc looks for; it gives back what it does not need
GUARD, SLACK, SMALL = 2**26, 2**26, 2**25  # bytes, see Room and make_room
MENDED, PATIENCE, MOMENT = 2**20, 20, 0.001  # bytes, times and seconds, see mended
FRAGMENTS = range(2**10, 2**20)  # bytes: glibc has a list for each smaller size; of larger pieces there are few
ROUNDS = 4  # what a piece has beyond the smallest one of its list remains, as a piece of a smaller list


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
    # No block with pages of its own, nothing given back; what is freed becomes one with free memory beside it at once.
    _tell_malloc({MMAPS: 0, TRIM: -1, FAST: 0})


@dataclass(frozen=True)
class Room:
    """A hole in the heap for an aligned block of `size` bytes, behind `kept` bytes from `begin` on that are never freed.

    For an aligned block glibc looks for a hole that is larger by SPARE, and gives back what it does not need: here from behind
    the block, since the hole begins where a block may. What is given back becomes one with SLACK bytes that the hole has more,
    so that the next block finds the same memory. But for one thing: a thread keeps a few freed pieces of each small size for
    itself, and where it keeps that one, the hole ends with the block. `place` is where the next block would lie.
    """

    begin: int
    kept: int
    size: int
    place: int

    def made_longer(self) -> "Room":
        """MENDED bytes of those that are kept become part of the hole, while there are any."""
        if (libc := _glibc()) is None or self.kept <= MENDED:
            return self
        libc.realloc(self.begin, self.kept - MENDED - HEADER)
        return replace(self, kept=self.kept - MENDED)


def make_room(size: int, blocks: int) -> list[Room]:
    """Leave so many holes in the heap, each with room for an aligned block of `size` bytes whenever there is none in it.

    Small things stay out of them as long as a smaller hole is left: one of SMALL bytes is added. None is touched: until it is
    written to, a hole is a range of addresses. No room where such blocks have pages of their own (`keep_freed_memory`).
    """
    if (libc := _glibc()) is None:
        return []
    before = _with_own_pages(libc)
    # The last one is for the others' sake: a hole at the heap's end would become part of that. It is larger, since glibc takes
    # the smallest that fits.
    sizes = [SMALL, *[size + SLACK] * blocks, size + 2 * SLACK]
    begins = [libc.aligned_alloc(ALIGNMENT, GUARD + each) for each in sizes]
    if None in begins or _with_own_pages(libc) > before:
        for begin in begins:
            libc.free(begin)
        return []
    for begin in begins:
        libc.realloc(begin, GUARD - HEADER)
    return [Room(begin, GUARD, size, place) for begin, place in zip(sorted(begins[1:-1]), _places(size, blocks), strict=True)]


def mended(rooms: list[Room]) -> list[Room]:
    """The rooms, those made longer whose end was lost: the next blocks lie where they would have before, or MENDED in front.

    If they would lie elsewhere all the same (something large is in a hole), the pages of all holes are given back to the
    system, and there are other rooms: this process never has the blocks twice. For rooms whose blocks are free, or will be in
    a moment: so long it waits, before anything is made longer.
    """
    for _ in range(PATIENCE):
        if (same := _in_their_places(rooms)) is not None:
            return same
        time.sleep(MOMENT)
    now = _places(rooms[0].size, len(rooms))
    longer = [room if _near(room, now) else room.made_longer() for room in rooms]
    if (same := _in_their_places(longer)) is not None:
        return same
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)
    return make_room(rooms[0].size, len(rooms))


def retire_fragments() -> None:
    """Take what lies free in small pieces out of use, and give their pages back to the system.

    Compilation leaves tens of thousands of them. glibc keeps them in sorted lists, and searches these whenever a step asks for
    a few kilobytes, while all other threads wait. Here they are allocated, each as it is, and never freed: what that costs is
    addresses, and memory where a piece has a part of a page only.
    """
    if (libc := _glibc()) is None:
        return
    libc.malloc_trim(0)
    for _ in range(ROUNDS):
        for size, number in sorted(_free_pieces(libc), reverse=True):
            if size in FRAGMENTS:
                for _ in range(number):
                    libc.malloc(size - HEADER)


def _in_their_places(rooms: list[Room]) -> list[Room] | None:
    """The rooms with the next blocks' places, if these are near the places before."""
    places = _places(rooms[0].size, len(rooms))
    if not all(_near(room, [place]) for room, place in zip(rooms, places, strict=True)):
        return None
    return [replace(room, place=place) for room, place in zip(rooms, places, strict=True)]


def _near(room: Room, places: list[int]) -> bool:
    return any(abs(place - room.place) <= MENDED for place in places)


def _places(size: int, blocks: int) -> list[int]:
    """The addresses that the next aligned blocks of so many bytes would get, in order; 0 for one that would get none."""
    libc = _glibc()
    assert libc is not None
    found = [libc.malloc(size + SPARE) or 0 for _ in range(blocks)]  # not aligned: nothing of them is given back
    for each in found:
        libc.free(each)
    return sorted(found)


def _free_pieces(libc: ctypes.CDLL) -> Iterator[tuple[int, int]]:
    """For each list of the first heap, the size of its smallest piece in bytes, and how many there are."""
    for each in _report(libc).iterfind("heap[@nr='0']/sizes/*"):
        size = int(each.attrib["from"])
        yield size - size % STEP, int(each.attrib["count"])


def _with_own_pages(libc: ctypes.CDLL) -> int:
    """How many blocks of this process are no part of the heap."""
    return sum(int(total.attrib["count"]) for total in _report(libc).iterfind("total[@type='mmap']"))


def _report(libc: ctypes.CDLL) -> ElementTree.Element:
    """What malloc says of itself."""
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    stream = libc.open_memstream(ctypes.byref(text), ctypes.byref(length))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    report = ElementTree.fromstring(ctypes.string_at(text, length.value))
    libc.free(text)
    return report


def _tell_malloc(options: dict[int, int]) -> None:
    if (libc := _glibc()) is not None:
        for option, value in options.items():
            libc.mallopt(option, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    address, size = ctypes.c_void_p, ctypes.c_size_t
    libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = address, (size, size)
    libc.realloc.restype, libc.realloc.argtypes = address, (address, size)
    libc.malloc.restype, libc.malloc.argtypes = address, (size,)
    libc.malloc_trim.argtypes = (size,)
    libc.open_memstream.restype = address
    libc.malloc_info.argtypes = ctypes.c_int, address
    libc.fclose.argtypes = libc.free.argtypes = (address,)
    return libc
