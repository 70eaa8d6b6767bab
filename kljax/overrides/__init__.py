"""Meaning of a command line: whose configs it chooses, which jobs it makes, what they are called, and what is wrong with it."""
