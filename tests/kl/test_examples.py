"""Examples in docstrings and documents print what they say; each public function has one."""

import ast
import doctest
import importlib
import subprocess
import sys

import pytest

import kljax.kl
from tests.readme.commands import ROOT

MODULES = ["controllers", "divergences", "estimators", "oracle", "penalties", "sequences"]
BESIDE = {"random_tree", "alpha_generator", "jensen_shannon_generator", "excess", "excess_near_zero"}  # parts of the others
BESIDE |= {"controlled_decoding", "token_local_optimum", "penalty"}  # in docs/kl_examples.md
PAGES = ["docs/kl_examples.md", "docs/practitioners.md"]

IMPORT = """
import sys
import kljax.kl
heavy = {"flax", "optax", "transformers", "datasets", "hydra", "omegaconf", "pydantic", "scipy", "matplotlib"}
assert not heavy & sys.modules.keys()
"""


def run(text, name, names):
    """All examples of a text, in one namespace; the report of those that failed."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, name, 0)
    runner.run(test, out=said.append)
    return len(test.examples), "".join(said)


def docstrings(module):
    """(name, docstring) of a module and its public functions and classes, as written: type checks wrap what is imported."""
    tree = ast.parse((ROOT / "kljax" / "kl" / f"{module}.py").read_text())
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]
    return [("", ast.get_docstring(tree)), *((node.name, ast.get_docstring(node)) for node in public)], public


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_the_examples_of_a_module_print_what_they_say(module):
    names = vars(importlib.import_module(f"kljax.kl.{module}" if module != "__init__" else "kljax.kl"))
    found, public = docstrings(module)
    counts = {}
    for name, text in found:
        counts[name], failed = run(text, f"{module}.{name}", names)
        assert not failed, failed
    if module not in ("__init__", "penalties"):  # whose terms the example of the module calls
        functions = {node.name for node in public if isinstance(node, ast.FunctionDef)} - BESIDE
        assert not {name for name in functions if not counts[name]}


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_print_what_they_say(page):
    lines = (ROOT / page).read_text("utf-8").splitlines()
    count, failed = run("\n".join("" if line.startswith("```") else line for line in lines), page, {})  # a fence is no output
    assert count and not failed, failed


def test_what_a_notebook_imports_is_exported_and_light():
    assert all(hasattr(kljax.kl, name) for name in kljax.kl.__all__)
    for module in set(MODULES) - {"oracle", "penalties"}:
        public = {node.name for node in docstrings(module)[1]}
        assert public - set(kljax.kl.__all__) <= {"excess", "excess_near_zero"}, module
    subprocess.run([sys.executable, "-c", IMPORT], check=True, cwd=ROOT)
