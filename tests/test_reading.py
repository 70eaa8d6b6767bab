"""Files that are none, or more than they seem."""

import json
import os
import socket
import zipfile

import numpy as np
import pytest

from kljax import reading


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has some hundred characters at most
    return tmp_path


def make(kind, file):
    if kind == "FIFO":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "directory":
        file.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)


@pytest.mark.parametrize("kind", ["FIFO", "device", "directory", "socket"])
def test_what_is_no_file_is_never_opened(place, kind):
    make(kind, file := place / "config.json")
    with pytest.raises(ValueError, match=f"it is a {kind}, expected a regular file"):
        reading.read_json(file)


def test_a_folder_and_a_tree_are_looked_through(place):
    (place / "b").mkdir()
    (place / "a.json").write_text("{}")
    reading.check_folder(place, {".json": 2})
    reading.check_tree(place)
    with pytest.raises(ValueError, match=r"a.json: it has 2 bytes, expected at most 1"):
        reading.check_folder(place, {".json": 1})
    os.mkfifo(place / "b" / "pipe")
    with pytest.raises(ValueError, match="b/pipe: it is a FIFO"):
        reading.check_tree(place)
    with pytest.raises(ValueError, match="pipe: it is a FIFO"):
        reading.check_folder(place, {}, ["b"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "more than 64"),
        ("[" * 100 + "]" * 100, "more than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "more than 64"),
        ('{"a": 1, "a": 2}', "it has 'a' twice"),
        ('{"a": 1e999}', "too large"),
        ("[Infinity]", "Infinity is no JSON"),
        ('["\\ud800"]', "half a character"),
        (b"\xff", "utf-8"),
    ],
)
def test_what_is_no_strict_json_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        reading.strict_json(text)


def test_json_is_what_it_says():
    values = {"a": [1, 2.5, None, True, "é[{"], "b": {str(i): i for i in range(1000)}}
    assert reading.strict_json(json.dumps(values)) == values
    deep = "[" * 64 + "]" * 64
    assert reading.strict_json(deep) == json.loads(deep)
    assert reading.parsed_json("[NaN, Infinity]", constant=float)[1] == float("inf")


def test_aliases_of_aliases_are_refused_and_few_are_not():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        reading.read_yaml(bomb)
    with pytest.raises(ValueError, match="more than 64"):
        reading.read_yaml("&a [*a]")
    assert reading.read_yaml("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


def test_arrays_are_as_large_as_their_headers_say(place):
    whole = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array([True])}
    np.savez_compressed(place / "a.npz", **whole)
    found = reading.read_arrays(place / "a.npz")
    assert all(np.array_equal(found[name], array) for name, array in whole.items())
    with zipfile.ZipFile(place / "b.npz", "w") as archive:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
        text = header.ljust(117) + "\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    with pytest.raises(ValueError, match="too short"):
        reading.read_arrays(place / "b.npz")
    with pytest.raises(ValueError, match="expected at most 10"):
        reading.read_arrays(place / "a.npz", largest=10)
    (place / "c.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="zip"):
        reading.read_arrays(place / "c.npz")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", None, 3, "a" * 300])
def test_a_path_is_no_name(name):
    assert not reading.is_name(name)
    assert reading.is_name("model-00001-of-00002.safetensors")
