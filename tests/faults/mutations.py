"""Mutations of valid files: of their bytes, of what they say, of what they are. Each is a function of a random generator."""

import json
import os
import random
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import yaml

EXTREMES: list[Any] = [
    0, -1, 1, 2, 7, 2**31 - 1, 2**31, -(2**63), 2**63, 2**64, 10**6, 10**9, 10**30, 1e308, 1e-308, -0.0, 0.5, True, False, None,
    "", " ", ".", "..", "../x", "/etc/passwd", "/dev/zero", "a" * 100_000, "\ud800", "\0", "é", "1", "nan", "<pad>", [], {},
    [[]], {"a": {}}, [1, 2, 3], float("nan"), float("inf"), "(a+)+$", "{{ 'x' * 10**10 }}", "os.system",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
]  # fmt: skip

SPECIAL = ("fifo", "directory", "device", "loop", "socket", "gone")


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one file below the folder, sometimes two; what was done."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    # Small files say more than large ones.
    chosen = [rng.choice(files if rng.random() < 0.5 else [f for f in files if f.suffix in STRUCTURED] or files)]
    if rng.random() < 0.15:
        chosen.append(rng.choice(files))
    return "; ".join(f"{file.relative_to(folder)}: {_mutate_file(file, files, rng)}" for file in dict.fromkeys(chosen))


def _mutate_file(file: Path, others: list[Path], rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.08 and file.suffix != ".overrides":  # which stands for a command line
        return _special(file, rng.choice(SPECIAL))
    if draw < 0.12:
        shutil.copyfile(other := rng.choice(others), file.with_name("swapped"))
        file.with_name("swapped").replace(file)
        return f"has what is in {other.name}"
    if draw < 0.65 and file.suffix in STRUCTURED:
        return STRUCTURED[file.suffix](file, rng)
    file.write_bytes(data := mutate_bytes(file.read_bytes(), rng))
    return f"other bytes, now {len(data)}"


def _special(file: Path, kind: str) -> str:
    file.unlink()
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "device":
            file.symlink_to("/dev/zero")
        case "loop":
            file.symlink_to(file)
        case "socket":
            here = os.getcwd()
            os.chdir(file.parent)  # its path may have some hundred characters only
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(file.name)
            os.chdir(here)
    return f"is a {kind}"


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, lose, insert, repeat, or begin with deep nesting."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(8):
        case 0 | 1 if data:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 8))):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[min(to, at + rng.choice((1, 16, 10**6))) :]
        case 4:
            return data[:at] + rng.randbytes(rng.choice((1, 4, 64))) + data[at:]
        case 5:
            return data[:to] + data[at:]
        case 6:
            return rng.choice((b"", b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 1000, b"\xff\xfe", b"&a [*a]", b"null", b"1"))
        case _:
            return data[:at] + rng.choice((b'"', b"{", b"}", b"[", b",", b":", b"\n", b"-", b"e999", b"*a", b"&a ")) + data[at:]


def change(values: Any, rng: random.Random) -> str:
    """Change one place inside lists and objects; what was done."""
    places = list(_places(values))
    if not places:
        return "nothing"
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
            return f"{key} deleted"
        case 1 if isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
            return f"{key} renamed"
        case 2:
            other, at = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[at])) if at in other or isinstance(at, int) else None
            return f"{key} has the value of {at}"
        case 3:
            holder[key] = _nested(rng.choice((10, 60, 70, 300)), holder[key])
            return f"{key} deep inside"
        case 4 if isinstance(holder[key], int | float):
            holder[key] = rng.choice((-holder[key], holder[key] * 10**6, holder[key] + 1, float(holder[key]), str(holder[key])))
            return f"{key}={holder[key]!r}"
        case 5 if isinstance(holder[key], list):
            holder[key] = holder[key] * rng.choice((2, 1000)) if len(holder[key]) < 100 else []
            return f"{key} repeated"
        case _:
            holder[key] = rng.choice(EXTREMES)
            return f"{key}={str(holder[key])[:60]!r}"


def _places(values: Any) -> Any:
    for key in list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ():
        yield values, key
        yield from _places(values[key])


def _nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _json(file: Path, rng: random.Random) -> str:
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    at = rng.randrange(len(lines))
    values = json.loads(lines[at])
    done = ", ".join(change(values, rng) for _ in range(rng.choice((1, 1, 2))))
    lines[at] = json.dumps(values, ensure_ascii=True)
    file.write_text("\n".join(lines))
    return done


def _yaml(file: Path, rng: random.Random) -> str:
    if rng.random() < 0.1:
        bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
        file.write_text(file.read_text() + bomb)
        return "aliases of aliases"
    values = yaml.safe_load(file.read_text())
    done = ", ".join(change(values, rng) for _ in range(rng.choice((1, 1, 2))))
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return done


def _safetensors(file: Path, rng: random.Random) -> str:
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    done = change(header, rng)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return done


def _npz(file: Path, rng: random.Random) -> str:
    with np.load(file) as opened:
        arrays = dict(opened)
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    changed = [
        lambda: array[: len(array) // 2], lambda: array[:0], lambda: array.astype(np.float64), lambda: array.ravel(),
        lambda: array.astype(np.int64) + 10**9, lambda: np.asarray(3), lambda: np.zeros_like(array), lambda: array[None],
        lambda: -array.astype(np.int64), lambda: np.array(["a", "b"]),
    ]  # fmt: skip
    made = rng.randrange(len(changed) + 1)
    if made == len(changed):
        del arrays[name]
    else:
        arrays[name] = changed[made]()
    np.savez(file, **arrays)
    return f"{name} changed, {made}"


def _overrides(file: Path, rng: random.Random) -> str:
    lines = file.read_text().splitlines()
    for at in [rng.randrange(len(lines)) for _ in range(rng.choice((1, 1, 2)))]:
        key, _, value = lines[at].partition("=")
        depth = rng.choice((3, 100, 2000))
        lines[at] = rng.choice((
            f"{key}={rng.choice(EXTREMES)}", f"{key}='{rng.choice(EXTREMES)}'", f"{key}={'[' * depth}{value}{']' * depth}",
            f"{key}={'{a:' * depth}{value}{'}' * depth}", f"{key}", f"={value}", f"+{key}={value}", f"~{key}",
            f"{key}.x={value}",
            f"{key}=${{{key}}}", f"{key}=${{oc.env:HOME}}", f"{key}=range({value})", f"{key}=glob(*)", f"{key}={value},{value}",
            f"{key * 50}={value}", f"{key}={value * 1000}", f"{key}@x={value}", f"hydra.{key}={value}",
        ))  # fmt: skip
    file.write_text("\n".join(lines), "utf-8", "replace")
    return "other values"


STRUCTURED = {
    ".overrides": _overrides,
    ".json": _json,
    ".jsonl": _json,
    ".yaml": _yaml,
    ".safetensors": _safetensors,
    ".npz": _npz,
}
"""Endings of files whose contents are changed as what they say."""
