"""The KL of a distribution that top-k and top-p have cut, which is the one that is sampled, to a whole one."""

from functools import partial

from jaxtyping import Array, Float

from kljax.kl import divergences
from kljax.kl.divergences import Divergence
from kljax.models.sampling import truncate


def reverse_kl_of(top_k: int, top_p: float) -> Divergence:
    """KL(p′‖q), p′ what `sample` draws from: p cut by `top_k` (0: off) and `top_p` (1: off) and renormalised. q is whole.

    Finite, as q forbids nothing that p′ has. Summed over the states that p′ visits it is the KL of its sequences to q's.
    """
    return partial(_reverse_kl, top_k, top_p) if top_k or top_p < 1 else divergences.reverse_kl


def _reverse_kl(
    top_k: int, top_p: float, logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]
) -> Float[Array, "*dims"]:
    cut = truncate(logits.reshape(-1, logits.shape[-1]), top_k, top_p)
    return divergences.reverse_kl(cut.reshape(logits.shape), ref_logits)
