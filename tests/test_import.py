"""Importing the package does nothing to the process, and no more is imported than is needed."""

import json
import os
import subprocess
import sys

from kljax import __version__
from kljax.commands import COMMANDS
from tests.readme.commands import ROOT, scripts

IMPORT = """
import os, sys
before = dict(os.environ)
import kljax
assert dict(os.environ) == before
assert not {"jax", "flax", "transformers", "datasets", "ctypes"} & sys.modules.keys(), sys.modules.keys()
"""

SIDE_EFFECTS = """
import json, logging, os, signal, sys, threading, time, warnings
import jax, numpy

def state():
    known = logging.root.manager.loggerDict.items()
    logs = {name: (log.level, list(log.handlers)) for name, log in known if isinstance(log, logging.Logger)}
    return {
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": [logging.root.level, list(logging.root.handlers), logs],
        "threads": threading.active_count(),
        "folder, paths": [os.getcwd(), list(sys.path)],
        "hooks": [sys.excepthook, sys.displayhook, sys.stdout, sys.stderr],
        "jax": dict(jax.config.values),
        "numpy": numpy.geterr(),
    }

before, began = state(), time.perf_counter()
import kljax
took = time.perf_counter() - began
dir(kljax), kljax.__version__
import kljax.commands
import kljax.kl, kljax.kl.controllers, kljax.kl.oracle, kljax.kl.penalties, kljax.policy.algorithms, kljax.policy.scaling
after = state()
print(json.dumps([took, [name for name in before if before[name] != after[name]], sorted(sys.modules)]))
"""

RUN = """
import sys
import kljax.analysis.tables, kljax.command_line, kljax.training.loop
assert not {"tensorboard", "grpc", "tensorflow", "torch", "scipy", "matplotlib", "transformers"} & sys.modules.keys()
"""

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "scipy", "pandas", "pyarrow", "datasets", "transformers", "torch"}
HEAVY |= {"tokenizers", "matplotlib", "tensorboardX"}

CALLS = """
import io, json, runpy, sys
from contextlib import redirect_stderr, redirect_stdout

for script, *arguments in json.loads(sys.argv[1]):
    said, sys.argv = io.StringIO(), [script, *arguments]
    run = runpy.run_path if script.endswith(".py") else runpy.run_module
    with redirect_stdout(said), redirect_stderr(said):
        try:
            run(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, said.getvalue(), [name for name in sys.modules if "." not in name]]))
"""

STUDIES, BENCHMARKS = "experiments.studies", "experiments.benchmarks"
SPEED, GROWTH, GPU = f"{BENCHMARKS}.speed", f"{BENCHMARKS}.growth", f"{BENCHMARKS}.gpu"
TASKS = ("train.py", "pretrain.py", f"{BENCHMARKS}.memory")
ANSWERS = [
    *((script, "kl.btea=1", 2, "kl.btea: no such config key") for script in TASKS),
    *((script, "steps=many", 2, "steps: got 'many', expected") for script in TASKS),
    *((script, ("--cfg", "job"), 0, "penalty: exact") for script in TASKS),
    ("train.py", ("-m", "seed=0,1", "kl.beta=1,-2"), 2, "kl.beta: got -2, expected"),
    ("train.py", "--info", 0, "hydra"),
    ("train.py", ("--help", "kl"), 0, "kl.beta = 0.5"),
    ("train.py", "--hydra-help", 0, "--multirun"),
    ("analyze.py", "run=nothing", 2, "run: 'nothing' is not a run directory"),
    ("export.py", ("run=nothing", "out=new"), 2, "run: 'nothing' is not a run directory"),
    ("judge.py", (), 2, "a: must be given, as in a=runs/x b=reference"),
    ("judge.py", ("a=nothing", "b=reference"), 2, "a: 'nothing' is not a run directory"),
    ("judge.py", ("score=nothing", "prompts=3"), 2, "prompts: got it beside score="),
    ("analyze.py", ("run=nothing", "promts=3"), 2, "promts: no such config key"),
    *((script, "nothing", 2, "nothing: no such directory") for script in ("frontier.py", f"{STUDIES}.overoptimisation")),
    (f"{STUDIES}.claims", ("--out", __file__), 2, "is a file, expected a folder"),
    (f"{STUDIES}.estimators", ("--trees", "some"), 2, "invalid int value: 'some'"),
    (f"{STUDIES}.convergence", "kl.btea=1", 2, "kl.btea: no such config key"),
    (f"{STUDIES}.convergence", ("--penalties", "exakt"), 2, "invalid choice: 'exakt'"),
    (GROWTH, "kl.btea=1", 2, "kl.btea: no such config key"),
    *((script, ("--size", "xs", "kl.btea=1"), 2, "kl.btea: no such") for script in (SPEED, GPU)),
    (GPU, ("--table", "nothing"), 2, "--table: nothing is no file"),
    ("kljax", (), 0, "  frontier    reward against KL"),
    ("kljax", "--version", 0, f"kljax {__version__}\n"),
    ("kljax", "trian", 2, "kljax: trian: no such command, expected one of train, "),
    ("kljax", ("train", "kl.btea=1"), 2, "kl.btea: no such config key"),
    ("kljax", ("train", "-m", "seed=0,1", "kl.beta=1,-2"), 2, "kl.beta: got -2, expected"),
    ("kljax", ("pretrain", "--cfg", "job"), 0, "penalty: exact"),
    ("kljax", ("analyze", "run=nothing"), 2, "run: 'nothing' is not a run directory"),
    *(("kljax", (name, "--help"), 0, "usage: kljax runs [-h]" if name == "runs" else "") for name in COMMANDS),
    *((script, "--help", 0, "") for script in scripts()),
    *(
        (script, "--help", 0, f"usage: python -m {script} ")
        for script in scripts()
        if ".py" not in script and script not in TASKS
    ),
]


def test_nothing_happens_on_import():
    subprocess.run([sys.executable, "-S", "-c", IMPORT], check=True, cwd=ROOT)


def test_nothing_of_the_process_changes_where_the_mathematics_is_imported():
    """No variable, signal handler, filter of warnings, logger, thread or setting of JAX; and no library of models."""
    told = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], check=True, cwd=ROOT, capture_output=True, text=True)
    seconds, changed, imported = json.loads(told.stdout)
    print(f"import kljax: {seconds:.3f} s")
    assert not changed
    assert not {"flax", "transformers", "datasets", "hydra", "optax", "orbax", "pandas", "pydantic", "torch"} & set(imported)


def test_a_run_imports_nothing_that_it_does_not_need():
    """It writes for TensorBoard, whose writer would import PyTorch."""
    subprocess.run([sys.executable, "-c", RUN], check=True, cwd=ROOT)


def where(script):
    """A file's place, or the name of a module, which `python -m` finds."""
    return str(ROOT / "experiments" / script) if script.endswith(".py") else script


def test_a_command_line_is_answered_before_anything_heavy_is_imported(tmp_path):
    calls = [[where(script), *([given] if isinstance(given, str) else given)] for script, given, *_ in ANSWERS]
    command = [sys.executable, "-c", CALLS, json.dumps(calls)]
    told = subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    for (script, given, code, expected), (ended, said, imported) in zip(ANSWERS, answers, strict=True):
        assert ended == code, (script, given, said)
        assert expected in said, (script, given, said)
        assert not HEAVY & set(imported), (script, given)
    assert not list(tmp_path.iterdir())
