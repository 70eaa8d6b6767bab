"""Mesh, shardings, the train state on them, and what the machine has."""
