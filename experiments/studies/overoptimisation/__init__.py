"""Overoptimisation: a proxy reward that is trained on and a gold one that is not, against KL over finished runs."""
