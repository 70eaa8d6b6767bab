"""kljax: KL regularisation in RLHF, in JAX."""

__version__ = "0.1.0"  # pyproject.toml reads it here
