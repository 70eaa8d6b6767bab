"""kljax: KL regularisation in RLHF, in JAX."""
