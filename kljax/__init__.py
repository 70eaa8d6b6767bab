"""kljax: KL regularisation in RLHF, in JAX."""

import os

from kljax.training.allocator import share_one_heap

# Before any module imports transformers: it would advise everyone to install PyTorch, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
share_one_heap()  # before any module starts a thread
