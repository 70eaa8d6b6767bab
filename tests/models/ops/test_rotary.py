"""Rotary positions: relative, as their paper writes them, and scaled as in transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import LinearScaling, Llama3Scaling, YarnScaling
from kljax.models.ops.rotary import frequencies, rotate, rotation

LINEAR = LinearScaling(kind="linear", factor=4.0)
LLAMA3 = Llama3Scaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
YARN = YarnScaling(
    kind="yarn", factor=4.0, attention_factor=1.25, beta_fast=32.0, beta_slow=1.0, truncate=True, original_context=4096
)


def turned(x, position):
    return rotate(x, rotation(jnp.array([[position]]), 32, x.shape[-1], 1e4))


def test_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.array(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(i, j):
        return jnp.sum(turned(q, i) * turned(k, j))

    np.testing.assert_allclose(product(7, 4), product(13, 10), rtol=1e-4)
    assert abs(product(7, 4) - product(7, 5)) > 1e-3


def test_each_pair_is_multiplied_by_a_complex_number():
    x, position = np.random.default_rng(0).normal(size=8).astype(np.float32), 5
    expected = (x[:4] + 1j * x[4:]) * np.exp(1j * position * 1e4 ** (-np.arange(4) / 4))
    found = turned(jnp.array(x)[None, None, None], position)[0, 0, 0]
    np.testing.assert_allclose(found, np.concatenate([expected.real, expected.imag]), atol=1e-6)


def test_linear_scaling_divides_positions():
    for position in (4, 20):
        plain = rotation(jnp.array([[position // 4]]), 32, 8, 1e4)
        scaled = rotation(jnp.array([[position]]), 32, 8, 1e4, LINEAR)
        np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_llama3_leaves_fast_pairs_and_divides_slow_ones():
    plain, scaled = frequencies(128, 5e5), frequencies(128, 5e5, LLAMA3)
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_array_equal(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_yarn_scales_cosine_and_sine_too():
    cos, sin = rotation(jnp.arange(32)[None], 32, 16, 1e4, YARN)
    np.testing.assert_allclose(cos**2 + sin**2, 1.25**2, rtol=1e-5)


THEIRS = {
    "linear": (LINEAR, {"factor": 4.0}),
    "llama3": (LLAMA3, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original": 8192}),
    "yarn": (YARN, {"factor": 4.0, "original": 4096}),
    "yarn, not truncated": (
        YarnScaling(**{**vars(YARN), "beta_fast": 7.5, "beta_slow": 0.5, "truncate": False}),
        {"factor": 4.0, "original": 4096, "beta_fast": 7.5, "beta_slow": 0.5, "truncate": False},
    ),
    "yarn, a short context": (YarnScaling(**{**vars(YARN), "original_context": 4}), {"factor": 4.0, "original": 4}),
}


@pytest.mark.parametrize(("head_dim", "theta"), [(8, 100.0), (64, 1e4), (128, 5e5)])
@pytest.mark.parametrize("name", THEIRS)
def test_frequencies_are_those_of_transformers(name, head_dim, theta):
    pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, rope = THEIRS[name]
    rope = {"original_max_position_embeddings" if key == "original" else key: value for key, value in rope.items()}
    rope |= {"rope_type": scaling.kind, "rope_theta": theta}
    sizes = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "max_position_embeddings": 32768}
    expected, _ = ROPE_INIT_FUNCTIONS[scaling.kind](LlamaConfig(**sizes, rope_parameters=rope))
    found = frequencies(head_dim, theta, scaling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
