"""Communication of the devices in a step: collectives of a compiled program, counted in its text (HLO).

Pure analysis of what `jitted.lower(...).compile().as_text()` says. A collective in the body of a loop counts as often as the
loop runs; how often a loop runs that may end early is not in the text, and the caller says it. So it is with sampling.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Tally = dict[tuple[bool, str], "Traffic"]
"""(in a loop that may end early?, kind of collective) → how often and how much."""


@dataclass(frozen=True)
class Traffic:
    """How many collectives run, and the bytes of their results on one device.

    What a link carries differs by kind. On a ring of n devices: of an all-gather's result (n − 1)/n, of an all-reduce's
    twice that, of a reduce-scatter's (n − 1) times.
    """

    number: int
    bytes: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.number + other.number, self.bytes + other.bytes)

    def times(self, often: int) -> "Traffic":
        """The same, done so often."""
        return Traffic(self.number * often, self.bytes * often)


@dataclass(frozen=True)
class Collectives:
    """Bytes that one run of a program communicates, by kind; a kind that it does not have is left out."""

    sampling: Mapping[str, Traffic]
    elsewhere: Mapping[str, Traffic]


@dataclass(frozen=True)
class Instruction:
    """A line of a computation: its result's shape, what it does, and the rest of the line."""

    shape: str
    opcode: str
    rest: str


def total(traffic: Mapping[Any, Traffic]) -> Traffic:
    """All of them together."""
    return sum(traffic.values(), Traffic(0, 0))


def count_collectives(hlo: str, sampling_steps: Sequence[int]) -> Collectives:
    """The collectives of a program whose loops of unknown length run so many times each, in the order in which they run."""
    entry, computations = _parse(hlo)
    steps = iter(sampling_steps)

    @cache
    def tally(name: str) -> Tally:
        found: Tally = {}
        for instruction in computations[name]:
            if kind := _kind(instruction.opcode):
                _add(found, {(False, kind): Traffic(1, _result_bytes(instruction))})
            for called in _calls(instruction, steps, tally):
                _add(found, called)
        return found

    everything = tally(entry)
    sampling, elsewhere = (
        {kind: of for (inside, kind), of in everything.items() if inside is wanted} for wanted in (True, False)
    )
    return Collectives(sampling, elsewhere)


def bytes_of(shape: str) -> int:
    """Bytes of every array in a shape as HLO writes it, tuples included: `(f32[2,3]{1,0}, pred[])` has 25."""
    bits = 0
    for dtype, dimensions in re.findall(r"\b([a-z]\w*)\[([^\]]*)\]", shape):
        size = _bits(dtype)
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension.removeprefix("<="))  # a dynamic dimension, by its bound
        bits += size
    return -(-bits // 8)


def _bits(dtype: str) -> int:
    """Of one number: f32, bf16, s4, f8e4m3fn; `pred` takes a byte, `token` nothing."""
    return 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or ["0"])[0])


def _parse(hlo: str) -> tuple[str, dict[str, list[Instruction]]]:
    """The entry computation's name, and the instructions of every computation."""
    entry, computations, current = "", {}, []
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.-]+) \(.*->.*\{$", line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif written := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = ", line):
            current.append(_instruction(line[written.end() :]))
    return entry, computations


def _instruction(text: str) -> Instruction:
    """`shape opcode(operands), attributes`; a tuple's shape has spaces in it, and layouts have parentheses."""
    end, depth = 0, 0
    while depth or text[end] != " ":
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    opcode, _, rest = text[end + 1 :].partition("(")
    return Instruction(text[:end], opcode, rest)


def _kind(opcode: str) -> str | None:
    """An asynchronous collective is counted where it starts and not where it is done."""
    kind = opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of a collective's result; what starts one also holds its operands, (operands, result, …), but for an all-reduce."""
    shape = instruction.shape
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        shape = _elements(shape)[1]
    return bytes_of(shape)


def _elements(tuple_shape: str) -> list[str]:
    """The outermost elements of a tuple's shape."""
    elements, depth = [""], 0
    for character in tuple_shape[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def _calls(instruction: Instruction, steps: Iterator[int], tally: Callable[[str], Tally]) -> Iterator[Tally]:
    """Bytes that the computations communicate which an instruction runs."""
    called = _called(instruction)
    if instruction.opcode == "while":
        known = re.search(r"known_trip_count\W+n\W+(\d+)", instruction.rest)
        often, inside = (int(known[1]), False) if known else (next(steps, None), True)
        if often is None:
            raise ValueError("sampling_steps: expected a number for each loop of unknown length; the program has more of them.")
        yield _repeated(tally(called["body"][0]), often, inside)
        yield _repeated(tally(called["condition"][0]), often + 1, inside)  # once more, to find that it is over
    elif instruction.opcode == "conditional":
        branches = [tally(name) for names in called.values() for name in names]
        yield max(branches, key=lambda branch: total(branch).bytes)  # only one of them runs: at most this
    elif not instruction.opcode.endswith(("-done", "-update")):  # they name again what runs already
        yield from (tally(name) for names in called.values() for name in names)


def _called(instruction: Instruction) -> dict[str, list[str]]:
    """Attribute → names of computations. What stands in quotation marks is somebody's text."""
    attributes = re.sub(r'"(?:[^"\\]|\\.)*"', "", instruction.rest)
    given = re.findall(r"\b(body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)", attributes)
    return {attribute: re.findall(r"[\w.-]+", names) for attribute, names in given}


def _repeated(tally: Tally, often: int, inside: bool) -> Tally:
    repeated: Tally = {}
    for (already, kind), of in tally.items():
        _add(repeated, {(inside or already, kind): of.times(often)})
    return repeated


def _add(found: Tally, more: Tally) -> None:
    for key, of in more.items():
        found[key] = found.get(key, Traffic(0, 0)) + of
