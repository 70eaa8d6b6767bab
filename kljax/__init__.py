"""kljax: KL regularisation in RLHF, in JAX.

What a notebook needs is here, and is imported when it is asked for: importing kljax changes nothing and takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kljax import kl
    from kljax.analysis.comparison import Comparison, compare
    from kljax.analysis.completions import Completions
    from kljax.analysis.opened import Run, load_model, load_run
    from kljax.analysis.policies import Policy
    from kljax.errors import UserError

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = ["Comparison", "Completions", "Policy", "Run", "UserError", "compare", "kl", "load_model", "load_run"]

_WHERE = {
    "Comparison": "analysis.comparison",
    "Completions": "analysis.completions",
    "Policy": "analysis.policies",
    "Run": "analysis.opened",
    "UserError": "errors",
    "compare": "analysis.comparison",
    "load_model": "analysis.opened",
    "load_run": "analysis.opened",
}


def __getattr__(name: str) -> Any:
    if name == "kl":
        return import_module("kljax.kl")
    if name in _WHERE:
        return getattr(import_module(f"kljax.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'kljax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *globals()]
