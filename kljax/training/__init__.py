"""Mesh, train state, the jitted step, the loop, checkpoints, metrics; supervised fitting."""
