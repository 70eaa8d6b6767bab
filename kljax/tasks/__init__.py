"""Tasks: rows of data become prompts with targets, and what is written is measured. A new one is a function and a line."""

from kljax.tasks.task import Task

__all__ = ["Task"]
