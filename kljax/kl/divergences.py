"""Exact divergences between next-token distributions, given as logits over the last axis.

With p = softmax(logits) of the policy and q = softmax(ref_logits) of the reference, always in this order of arguments.
KL is not symmetric: each function names its direction. All are in nats, computed in float32 or wider; 0 · log 0 = 0, a
value is +inf where it is truly infinite (or too large for its type) and never NaN, and a gradient is finite where the
value is. A row of logits needs one token that is not forbidden (−inf). Log-probs are logits; probabilities are not, and are
refused where that can be seen (`kljax.kl.given`).

Near p = q, with u the typical |log p/q|, both KLs, Jeffreys, chi-squared and Hellinger keep their digits however small they
are, value and gradient, as every term is >= 0 and log p/q is taken of differences of logits. The alpha divergence, Rényi's and
Jensen–Shannon's have terms of size u that cancel to u²: a relative error of 1e-7/u.

Each is defined by an f-divergence Σ q f(p/q) (Csiszár 1967; for policies Go et al. 2023, arXiv:2302.08215) but for Rényi's,
which is a function of one, and the two KLs, entropy and cross-entropy, which are spelled out: every training step has them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kljax.kl.given import refuse_probabilities

Divergence = Callable[[Float[Array, "*dims V"], Float[Array, "*dims V"]], Float[Array, "*dims"]]
"""(logits, ref_logits) → nats (or, for total variation, Hellinger and chi-squared, pure numbers)."""


def reverse_kl(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """KL(p‖q) = Σ p (log p − log q), the KL that the RLHF objective penalises. Mode-seeking.

    +inf where p allows a token that q forbids. Gradient in the logits: p · (log p − log q − KL).

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{reverse_kl(p, q):.5f}")  # ½ log 2 + ½ log ⅔
    0.14384
    """
    return f_divergence(logits, ref_logits, GENERATORS["reverse_kl"])


def forward_kl(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """KL(q‖p) = Σ q (log q − log p), what maximum likelihood *minimises*. Mode-covering.

    +inf where q allows a token that p forbids. Gradient in the logits: p − q.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{forward_kl(p, q):.5f}")  # ¼ log ½ + ¾ log 1½
    0.13081
    """
    return f_divergence(logits, ref_logits, GENERATORS["forward_kl"])


def entropy(logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """H(p) = −Σ p log p, nats. Gradient in the logits: −p · (log p + H).

    >>> print(f"{entropy(jnp.zeros(8)):.5f}")  # log 8
    2.07944
    """
    refuse_probabilities(logits=logits)
    log_p = _log_softmax(logits)
    possible = log_p > -jnp.inf
    return -jnp.sum(jnp.where(possible, jnp.exp(log_p), 0.0) * jnp.where(possible, log_p, 0.0), axis=-1)


def cross_entropy(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """−Σ p log q = KL(p‖q) + H(p), nats. +inf where KL(p‖q) is. Gradient in the logits: −p · (log q + cross-entropy).

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{cross_entropy(p, q):.5f}")  # ½ log 4 + ½ log 4/3
    0.83699
    """
    return reverse_kl(logits, ref_logits) + entropy(logits)


def jeffreys(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """KL(p‖q) + KL(q‖p) = Σ (p − q)(log p − log q), nats: symmetric, as neither KL is. Gradient: the sum of theirs.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{jeffreys(p, q):.5f}")  # ¼ log 3
    0.27465
    """
    return f_divergence(logits, ref_logits, GENERATORS["jeffreys"])


def jensen_shannon(
    logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], mix: float = 0.5
) -> Float[Array, "*dims"]:
    """mix·KL(q‖m) + (1 − mix)·KL(p‖m) with m = mix·q + (1 − mix)·p, nats: at most the entropy of (mix, 1 − mix).

    It vanishes at mix = 0 and at mix = 1, where m is one of the two. Scaled, it joins the two KLs: JS/mix → KL(q‖p) for
    mix → 0 and JS/(1 − mix) → KL(p‖q) for mix → 1 (GKD, Agarwal et al. 2024, arXiv:2306.13649). Gradient in the logits:
    (1 − mix)·p·(ℓ − Σ p ℓ) with ℓ = log(p/m).

    Raises:
        ValueError: where mix is not in [0, 1].

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{jensen_shannon(p, q):.5f}")
    0.03382
    """
    return f_divergence(logits, ref_logits, jensen_shannon_generator(mix))


def alpha_divergence(
    logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], alpha: float
) -> Float[Array, "*dims"]:
    """(Σ p^α q^(1−α) − 1) / (α(α − 1)), for every real α; its limits are KL(p‖q) at α = 1 and KL(q‖p) at α = 0.

    α = ½ is 4 × squared Hellinger, α = 2 is ½ × chi-squared. +inf where p forbids a token of q and α <= 0, or the other way
    round and α >= 1. Accurate at and near the limits (`expm1`). Gradient in the logits: p·(ℓ − Σ p ℓ) with
    ℓ = (p/q)^(α−1) / (α − 1).

    Raises:
        ValueError: where alpha is not finite.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{alpha_divergence(p, q, 2.0):.5f}")  # half of chi-squared
    0.16667
    """
    return f_divergence(logits, ref_logits, alpha_generator(alpha))


def renyi(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], alpha: float) -> Float[Array, "*dims"]:
    """log Σ p^α q^(1−α) / (α − 1), nats, for α >= 0; its limits are KL(p‖q) at α = 1 and −log q(support of p) at α = 0.

    It grows with α. (1 − α)·renyi(p, q, α) = α·renyi(q, p, 1 − α), so that renyi/α → KL(q‖p) for α → 0. +inf where p
    allows a token that q forbids and α >= 1, or where they share none. Gradient in the logits: α/(α − 1)·(s − p) with
    s ∝ p^α q^(1−α).

    Raises:
        ValueError: where alpha is negative or not finite.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{renyi(p, q, 2.0):.5f}")  # log 4/3
    0.28768
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha: got {alpha}, expected a finite number >= 0 for Rényi's divergence.")
    if alpha == 1:
        return reverse_kl(logits, ref_logits)
    log_p, log_q, log_ratio = _log_probs(logits, ref_logits)
    p_allows, q_allows = log_p > -jnp.inf, log_q > -jnp.inf
    both = p_allows & q_allows
    safe_p, safe_q = jnp.where(both, log_p, 0.0), jnp.where(both, log_q, 0.0)
    # Σ p^α q^(1−α) = 1 + Σ w·expm1(exponent) less what w has where the other side has nothing: near the limits, and near
    # p = q, that keeps the digits which the logarithm of a sum near 1 loses.
    log_w, exponent = (safe_p, (alpha - 1) * log_ratio) if alpha > 0.5 else (safe_q, alpha * log_ratio)
    lone = (p_allows if alpha > 0.5 else q_allows) & ~both
    small = jnp.max(jnp.abs(exponent), axis=-1, keepdims=True) < 1
    excess = jnp.sum(jnp.where(both, jnp.exp(log_w) * jnp.expm1(jnp.where(small, exponent, 0.0)), 0.0), axis=-1)
    missed = jnp.sum(jnp.where(lone, jnp.exp(log_p if alpha > 0.5 else log_q), 0.0), axis=-1)
    shared = both.any(axis=-1, keepdims=True)
    near_one = small[..., 0] & (excess - missed > -0.5)
    near = jnp.log1p(jnp.where(near_one, excess - missed, 0.0))
    terms = jnp.where(both, alpha * safe_p + (1 - alpha) * safe_q, -jnp.inf)
    far = jax.nn.logsumexp(jnp.where(shared, terms, 0.0), axis=-1)
    infinite = ~shared | ((p_allows & ~both).any(axis=-1, keepdims=True) & (alpha > 1))
    return jnp.where(infinite[..., 0], jnp.inf, jnp.where(near_one, near, far) / (alpha - 1))


def chi_squared(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """χ²(p‖q) = Σ (p − q)²/q, the variance of p/q under q. +inf where p allows a token that q forbids.

    Gradient in the logits: 2p·(p/q − Σ p²/q). At least exp(KL(p‖q)) − 1.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{chi_squared(p, q):.5f}")  # ¹⁄₁₆ / ¼ + ¹⁄₁₆ / ¾
    0.33333
    """
    return f_divergence(logits, ref_logits, GENERATORS["chi_squared"])


def total_variation(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """½ Σ |p − q|, in [0, 1]: the most by which the probability of any event differs.

    Gradient in the logits: p·(s − Σ p s), s = ½ sign(p − q), taken as −½ where p = q: it vanishes where all are equal.

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{total_variation(p, q):.5f}")
    0.25000
    """
    return f_divergence(logits, ref_logits, GENERATORS["total_variation"])


def squared_hellinger(logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"]) -> Float[Array, "*dims"]:
    """½ Σ (√p − √q)² = 1 − Σ √(pq), in [0, 1]. Gradient in the logits: −½(√(pq) − p·Σ √(pq)).

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{squared_hellinger(p, q):.5f}")  # 1 − √⅛ − √⅜
    0.03407
    """
    return f_divergence(logits, ref_logits, GENERATORS["squared_hellinger"])


DIVERGENCES: dict[str, Callable[..., Float[Array, "*dims"]]] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "jeffreys": jeffreys,
    "jensen_shannon": jensen_shannon,
    "renyi": renyi,
    "alpha_divergence": alpha_divergence,
    "chi_squared": chi_squared,
    "total_variation": total_variation,
    "squared_hellinger": squared_hellinger,
}
"""Divergences that a penalty can take in place of the reverse KL, by the name that kljax/config/ and metrics have."""

FAR = 80.0  # nats: exp(80) is within float32, and exp(-80) is nothing beside any probability of interest

Tail = Callable[[Float[Array, "*dims V"], Float[Array, "*dims V"]], Float[Array, "*dims V"]]


@dataclass(frozen=True)
class Generator:
    """A convex f with f(1) = 0, in two tails, so that neither overflows; both take (log weight, log ratio), both <= 0.

    `below(log w, u)` is w·f(e^u), used where p < q with w = q and e^u = p/q. `above(log w, v)` is w·e^v·f(e^−v), used where
    p > q with w = p and e^v = q/p. `at_zero` is f(0), which q's mass costs where p has none; `slope_at_infinity` is
    lim f(t)/t, which p's mass costs where q has none.
    """

    below: Tail
    above: Tail
    at_zero: float
    slope_at_infinity: float

    def __call__(self, t: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
        """f(t) for t > 0."""
        u, one = jnp.log(t), jnp.zeros_like(t)
        low = u <= 0
        return jnp.where(
            low, self.below(one, jnp.where(low, u, 0.0)), self.above(jnp.where(low, 0.0, u), jnp.where(low, 0.0, -u))
        )


def f_divergence(
    logits: Float[Array, "*dims V"], ref_logits: Float[Array, "*dims V"], generator: Generator
) -> Float[Array, "*dims"]:
    """Σ q f(p/q), for p = 0 or q = 0 in the limit. Gradient in log p: p·f′(p/q), so in expectation E_p[f′(p/q) ∇log p].

    >>> p, q = jnp.log(jnp.array([[1/2, 1/2], [1/4, 3/4]]))
    >>> print(f"{f_divergence(p, q, GENERATORS['chi_squared']):.5f}")
    0.33333
    """
    log_p, log_q, u = _log_probs(logits, ref_logits)
    both = (log_p > -jnp.inf) & (log_q > -jnp.inf)
    safe_p, safe_q = jnp.where(both, log_p, 0.0), jnp.where(both, log_q, 0.0)
    low = u <= 0  # selected, not clipped: at a tie `minimum` would halve the gradient
    terms = jnp.where(
        low,
        generator.below(jnp.where(low, safe_q, 0.0), jnp.where(low, u, 0.0)),
        generator.above(jnp.where(low, 0.0, safe_p), jnp.where(low, 0.0, -u)),
    )
    total = jnp.sum(jnp.where(both, terms, 0.0), axis=-1)
    total = _add_one_sided(total, log_q, ~both & (log_q > -jnp.inf), generator.at_zero)
    return _add_one_sided(total, log_p, ~both & (log_p > -jnp.inf), generator.slope_at_infinity)


def jensen_shannon_generator(mix: float) -> Generator:
    """f(t) = −mix·log m + (1 − mix)·t·log(t/m), m = mix + (1 − mix)·t; its adjoint is that of 1 − mix."""
    if not 0 <= mix <= 1:
        raise ValueError(f"mix: got {mix}, expected a number in [0, 1], the weight of the reference in the mixture.")

    def tail(mix: float) -> Tail:
        def below(log_w, u):
            if mix in (0.0, 1.0):
                return jnp.zeros_like(u)
            # Of log m and log(m/t) = log m − u, the one that is small for this mix is computed, the other follows.
            if mix >= 0.5:
                log_m = jnp.log1p((1 - mix) * jnp.expm1(u))
                over_t = log_m - u
            else:
                tiny = u < -FAR
                over_t = jnp.log1p(mix * jnp.expm1(jnp.where(tiny, FAR, -u)))
                log_m = jnp.where(tiny, jnp.logaddexp(math.log(mix), math.log1p(-mix) + u), u + over_t)
            return -jnp.exp(log_w) * ((1 - mix) * jnp.exp(u) * over_t + mix * log_m)

        return below

    ends = (0.0 if x in (0.0, 1.0) else -x * math.log(x) for x in (mix, 1 - mix))
    return Generator(tail(mix), tail(1 - mix), *ends)


def alpha_generator(alpha: float) -> Generator:
    """f(t) = (t^α − 1 − α(t − 1)) / (α(α − 1)), log-limits included; its adjoint is that of 1 − α."""
    if not math.isfinite(alpha):
        raise ValueError(f"alpha: got {alpha}, expected a finite number; alpha = 1 is KL(p‖q), alpha = 0 is KL(q‖p).")

    def tail(alpha: float) -> Tail:
        def below(log_w, u):
            if alpha > 0.5:
                return (_weighted_power(log_w + u, u, alpha - 1) - jnp.exp(log_w) * jnp.expm1(u)) / alpha
            return (_weighted_power(log_w, u, alpha) - jnp.exp(log_w) * jnp.expm1(u)) / (alpha - 1)

        return below

    at_zero = 1 / alpha if alpha > 0 else math.inf
    slope_at_infinity = 1 / (1 - alpha) if alpha < 1 else math.inf
    return Generator(tail(alpha), tail(1 - alpha), at_zero, slope_at_infinity)


def _weighted_power(log_w, u, a: float):
    """w·(e^(a·u) − 1)/a, which is w·u at a = 0, without a product of 0 and inf where e^(a·u) overflows."""
    if a == 0:
        return jnp.exp(log_w) * u
    large = a * u > 1
    near = jnp.exp(log_w) * jnp.expm1(jnp.where(large, 0.0, a * u))
    far = jnp.exp(jnp.where(large, log_w + a * u, 0.0)) - jnp.exp(log_w)
    return jnp.where(large, far, near) / a


def _kl_of_weight(log_w, u):
    """w·(e^u − 1 − u): where the weight is that of the distribution by which the KL averages, or of the one it is to."""
    return jnp.exp(log_w) * excess(u)


def _kl_of_other(log_w, u):
    """w·(u·e^u − e^u + 1), likewise of the other one."""
    near = u > -SERIES
    return jnp.exp(log_w) * jnp.where(near, jnp.exp(u) * excess(jnp.where(near, -u, 0.0)), u * jnp.exp(u) - jnp.expm1(u))


def _variation(log_w, u):
    return -0.5 * jnp.exp(log_w) * jnp.expm1(u)


def _hellinger(log_w, u):
    return 0.5 * jnp.exp(log_w) * jnp.expm1(0.5 * u) ** 2


def _jeffreys(log_w, u):
    return jnp.exp(log_w) * jnp.expm1(u) * u


def _square(log_w, u):
    return jnp.exp(log_w) * jnp.expm1(u) ** 2


def _square_over_t(log_w, v):
    # w·e^−v may be representable where e^−v is not
    return jnp.exp(log_w - v) * jnp.expm1(v) ** 2


GENERATORS = {
    # f(t), t = p/q, in the comment at the end of each row
    "reverse_kl":         Generator(_kl_of_other, _kl_of_weight, at_zero=1.0, slope_at_infinity=math.inf),  # t log t − t + 1
    "forward_kl":         Generator(_kl_of_weight, _kl_of_other, at_zero=math.inf, slope_at_infinity=1.0),  # t − 1 − log t
    "jensen_shannon":     jensen_shannon_generator(0.5),  # ½ t log(2t/(t+1)) + ½ log(2/(t+1))
    "jeffreys":           Generator(_jeffreys, _jeffreys, at_zero=math.inf, slope_at_infinity=math.inf),  # (t − 1) log t
    "total_variation":    Generator(_variation, _variation, at_zero=0.5, slope_at_infinity=0.5),  # ½ |1 − t|
    "squared_hellinger":  Generator(_hellinger, _hellinger, at_zero=0.5, slope_at_infinity=0.5),  # ½ (√t − 1)²
    "chi_squared":        Generator(_square, _square_over_t, at_zero=1.0, slope_at_infinity=math.inf),  # (t − 1)²
    "chi_squared_of_ref": Generator(_square_over_t, _square, at_zero=math.inf, slope_at_infinity=1.0),  # (t − 1)²/t
}  # fmt: skip
"""By name, f up to a multiple of t − 1, which changes neither the divergence nor its gradient."""


def excess(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """e^x − 1 − x >= 0, which is x²/2 near 0, with all digits: by its series where `expm1` − x would lose them."""
    small = jnp.abs(x) < SERIES
    return jnp.where(small, excess_near_zero(jnp.where(small, x, 0.0)), jnp.expm1(x) - x)


SERIES = 0.25
"""The largest |x| for which e^x − 1 − x is taken from its series."""


def excess_near_zero(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """e^x − 1 − x for |x| <= SERIES, to the digits of its type: the first term that is left out is below 1e-8, or 1e-17."""
    total = jnp.ones_like(x)
    for n in range(14 if x.dtype == jnp.float64 else 7, 2, -1):
        total = 1 + x * (total / n)
    return 0.5 * x * x * total


def _log_softmax(logits: Float[Array, "*dims V"]) -> Float[Array, "*dims V"]:
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    return jax.nn.log_softmax(logits.astype(wide), axis=-1)


def _log_probs(logits, ref_logits) -> tuple[Float[Array, "*dims V"], Float[Array, "*dims V"], Float[Array, "*dims V"]]:
    """log p, log q and their difference, 0 where one of the two forbids the token.

    The difference is (z − z_q) − log(Z/Z_q) of logits z: each log-prob has the rounding error of its own size, and a difference
    of logits that are alike has none.
    """
    if logits.shape != ref_logits.shape:
        raise ValueError(f"ref_logits: got shape {ref_logits.shape}, expected that of logits, {logits.shape}.")
    refuse_probabilities(logits=logits, ref_logits=ref_logits)
    log_p, log_q = _log_softmax(logits), _log_softmax(ref_logits)
    both = (log_p > -jnp.inf) & (log_q > -jnp.inf)
    (ours, largest, total), (theirs, ref_largest, ref_total) = _parts(logits, log_p), _parts(ref_logits, log_q)
    log_ratio = (jnp.where(both, ours, 0.0) - jnp.where(both, theirs, 0.0)) - (
        (largest - ref_largest) + jnp.log(total / ref_total)
    )
    return log_p, log_q, jnp.where(both, log_ratio, 0.0)


def _parts(logits, log_probs):
    """Logits, 0 where a token is forbidden; the largest, and the sum of e^(logit − largest)."""
    possible = log_probs > -jnp.inf
    safe = jnp.where(possible, logits, 0.0).astype(log_probs.dtype)
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(possible, safe, -jnp.inf), axis=-1, keepdims=True))
    total = jnp.sum(jnp.where(possible, jnp.exp(jnp.where(possible, safe - largest, 0.0)), 0.0), axis=-1, keepdims=True)
    return safe, largest, total


def _add_one_sided(total, log_mass, where, cost: float):
    """total + cost·(mass where the other side has none); an infinite cost counts even where the mass underflows."""
    if math.isinf(cost):
        return jnp.where(where.any(axis=-1), jnp.inf, total)
    return total + cost * jnp.sum(jnp.where(where, jnp.exp(jnp.where(where, log_mass, 0.0)), 0.0), axis=-1)
