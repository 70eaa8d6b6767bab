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

TRAINING = """
import sys
import kljax.analysis.tables, kljax.command_line, kljax.training.loop
assert not {"tensorboard", "grpc", "tensorflow"} & sys.modules.keys()
"""


def test_nothing_happens_on_import():
    subprocess.run([sys.executable, "-S", "-c", IMPORT], check=True, cwd=__file__.rpartition("/tests/")[0])


def test_a_run_writes_for_tensorboard_without_importing_it():
    subprocess.run([sys.executable, "-c", TRAINING], check=True, cwd=__file__.rpartition("/tests/")[0])
