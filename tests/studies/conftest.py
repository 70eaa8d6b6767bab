"""Finished runs without training, as the tests of analysis make them."""

from tests.analysis.conftest import write_run

__all__ = ["write_run"]
