"""A few cases of the fuzzing, of each kind; `make faults` has 2,000."""

import sys
import time

from tests.faults import fuzz
from tests.faults.material import make_all

CASES = 60


def test_each_case_ends_well_or_in_one_sentence(tmp_path, compilation_cache):
    make_all(tmp_path / "base", f"run.compilation_cache={compilation_cache}")
    found = fuzz.run(list(range(CASES)), tmp_path / "base", workers=1)
    assert {case["number"] for case in found.values() if case["ended"] == "fault"} == set(), [
        case for case in found.values() if case["ended"] == "fault"
    ]
    assert {case["kind"] for case in found.values() if case["ended"] == "UserError"} >= {"config", "tokenizer", "models", "run"}


def test_what_ends_otherwise_is_a_fault(tmp_path, monkeypatch):
    script = (
        "import json, os, sys, time\n"
        "print(json.dumps({'ready': True}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    n = int(line)\n"
        "    if n == 1: os._exit(7)\n"
        "    if n == 2: time.sleep(60)\n"
        "    print(json.dumps({'number': n, 'ended': 'well'}), flush=True)\n"
    )
    (tmp_path / "stub.py").write_text(script)
    monkeypatch.setattr(fuzz, "worker_command", lambda base, folder: [sys.executable, str(tmp_path / "stub.py")])
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    began = time.monotonic()
    found = fuzz.run([0, 1, 2, 3], tmp_path)
    assert [found[i]["ended"] for i in range(4)] == ["well", "fault", "fault", "well"]
    assert "ended, 7" in found[1]["fault"]
    assert "takes more than 0.5 s" in found[2]["fault"]
    assert time.monotonic() - began < 20
