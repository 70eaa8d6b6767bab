"""Importing the package does nothing to the process."""

import subprocess
import sys

IMPORT = """
import os, sys
before = dict(os.environ)
import kljax
assert dict(os.environ) == before
assert not {"jax", "flax", "transformers", "datasets", "ctypes"} & sys.modules.keys(), sys.modules.keys()
"""


def test_nothing_happens_on_import():
    subprocess.run([sys.executable, "-S", "-c", IMPORT], check=True, cwd=__file__.rpartition("/tests/")[0])
