"""A few single faults in a run's files, of each kind; `make faults` has 200."""

import json
from collections import Counter

import pytest

from tests.faults.single import KINDS, Material, drawn, overrides_of, plant

FEW = 8


@pytest.fixture(scope="module")
def material(tmp_path_factory, compilation_cache):
    return Material(tmp_path_factory.mktemp("single"), overrides_of(str(compilation_cache)))


def test_no_fault_is_silent(material):
    """Those numbers that bring each kind, and no two of the same file."""
    seen, kinds = set(), Counter()
    found = [plant(material, number) for number in range(400) if fresh(material, number, seen, kinds)]
    assert set(kinds) == set(KINDS)
    assert [one for one in found if "SILENT" in one["ends"].values()] == [], json.dumps(found, indent=1)
    assert Counter(end for one in found for end in one["ends"].values())["sentence"] >= 1


def fresh(material, number, seen, kinds):
    name, kind = drawn(material, number)
    if name in seen or kinds[kind] >= FEW // len(KINDS):
        return False
    seen.add(name)
    kinds[kind] += 1
    return True
