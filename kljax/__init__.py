"""kljax: KL regularisation in RLHF, in JAX."""

import os

# Before any module imports transformers: it would advise everyone to install PyTorch, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
