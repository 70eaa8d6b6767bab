"""Finished runs: restore, evaluate, frontier, tables and plots."""
