"""Statements of the documents, recomputed: a package a study, run as `python -m experiments.studies.<name>`."""
