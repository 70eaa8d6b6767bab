"""Thin scripts, one a command; and studies and benchmarks, which have code of their own."""
