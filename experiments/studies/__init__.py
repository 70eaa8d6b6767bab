"""What the documents state, recomputed: a package a study, run as `python -m experiments.studies.<name>`."""
