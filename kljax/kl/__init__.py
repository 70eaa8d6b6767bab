"""The mathematics of KL: arrays in, arrays out.

Its functions by one name, for a notebook; `kljax.kl.oracle` beside them has exact optima in NumPy. docs/kl_examples.md is a
page of examples.

>>> import jax.numpy as jnp
>>> from kljax import kl
>>> policy, reference = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
>>> print(f"{kl.reverse_kl(policy, reference):.5f} {kl.forward_kl(policy, reference):.5f}")
0.14384 0.13081
"""

from kljax.kl import oracle
from kljax.kl.controllers import Controller, ControllerState, adaptive, fixed, scheduled, target
from kljax.kl.divergences import (
    DIVERGENCES,
    GENERATORS,
    Divergence,
    Generator,
    alpha_divergence,
    alpha_generator,
    chi_squared,
    cross_entropy,
    entropy,
    f_divergence,
    forward_kl,
    jeffreys,
    jensen_shannon,
    jensen_shannon_generator,
    renyi,
    reverse_kl,
    squared_hellinger,
    total_variation,
)
from kljax.kl.estimators import k1, k2, k3, k_lambda, optimal_lambda, rao_blackwell_sum, weighted_k1, weighted_k2, weighted_k3
from kljax.kl.penalties import PENALTIES, Penalty
from kljax.kl.sequences import Weights, effective_fraction, importance_weights, log_ratio, masked_sum, on_policy, to_go
from kljax.types import Scores

__all__ = [
    "DIVERGENCES",
    "GENERATORS",
    "PENALTIES",
    "Controller",
    "ControllerState",
    "Divergence",
    "Generator",
    "Penalty",
    "Scores",
    "Weights",
    "adaptive",
    "alpha_divergence",
    "alpha_generator",
    "chi_squared",
    "cross_entropy",
    "effective_fraction",
    "entropy",
    "f_divergence",
    "fixed",
    "forward_kl",
    "importance_weights",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_generator",
    "k1",
    "k2",
    "k3",
    "k_lambda",
    "log_ratio",
    "masked_sum",
    "on_policy",
    "optimal_lambda",
    "oracle",
    "rao_blackwell_sum",
    "renyi",
    "reverse_kl",
    "scheduled",
    "squared_hellinger",
    "target",
    "to_go",
    "total_variation",
    "weighted_k1",
    "weighted_k2",
    "weighted_k3",
]
