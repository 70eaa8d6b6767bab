"""The decoder's parts, in both spellings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.models.decoder import Attention, causal_mask, positions_of, write

VOCAB, LENGTH = 13, 9
ALL = pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "smollm3"])


def logits_of(model, tokens, mask=None, **kwargs):
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    return model.logits(model(tokens, positions_of(mask), causal_mask(mask), **kwargs)[0])


@pytest.fixture
def tokens():
    return jnp.array(np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH)))


@ALL
def test_left_padding_of_any_length_changes_nothing(make_decoder, family, tokens):
    """One row a length of padding, filled up with garbage on the right too, which no real token sees."""
    model, text, most = make_decoder(family), tokens[0], 7
    rows = jnp.full((most + 1, most + LENGTH), 5)
    column, padding = jnp.arange(most + LENGTH), jnp.arange(most + 1)[:, None]
    mask = (column >= padding) & (column < padding + LENGTH)
    for n in range(most + 1):
        rows = rows.at[n, n : n + LENGTH].set(text)
    padded = jax.jit(lambda: logits_of(model, rows, mask))()
    plain = jax.jit(lambda: logits_of(model, text[None]))()[0]
    for n in range(most + 1):
        np.testing.assert_allclose(padded[n, n : n + LENGTH], plain, atol=2e-5)
    assert np.isfinite(padded).all()


@ALL
def test_no_token_sees_a_later_one(make_decoder, family, tokens):
    model = make_decoder(family)
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % VOCAB)
    before, after = logits_of(model, tokens), logits_of(model, changed)
    np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
    assert (jnp.abs(after[:, 5:] - before[:, 5:]).max(axis=(0, 2)) > 1e-3).all()


@ALL
def test_a_cache_gives_what_the_whole_sequence_gives(make_decoder, family, tokens):
    """One token at a time into the cache, against all at once."""
    model = make_decoder(family)
    shape = (model.config.layers, 2, model.config.kv_heads, LENGTH, model.config.head_dim)
    cache = jnp.zeros(shape), jnp.zeros(shape)
    expected = logits_of(model, tokens)
    for t in range(LENGTH):
        visible = jnp.broadcast_to(jnp.arange(LENGTH) <= t, (2, 1, LENGTH))
        hidden, found = model(tokens[:, t : t + 1], jnp.full((2, 1), t), visible, cache, t)
        cache = write(cache, (found.keys, found.values), t)
        np.testing.assert_allclose(model.logits(hidden[:, 0]), expected[:, t], atol=2e-5)


@pytest.mark.parametrize(("kind", "relative"), [("llama", True), ("smollm3", True), ("gpt2", False)])
def test_only_rotary_positions_may_all_be_shifted(make_decoder, tokens, kind, relative):
    model, mask = make_decoder(kind), causal_mask(jnp.ones(tokens.shape, bool))
    positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    here, shifted = (model(tokens, positions + by, mask)[0] for by in (0, 3))
    assert (jnp.abs(here - shifted).max() < 1e-4) == relative


def test_grouped_queries_are_full_attention_with_shared_keys(make_decoder, tokens):
    grouped, full = make_decoder("llama", kv_heads=2), make_decoder("llama", kv_heads=4)
    heads, head_dim = 4, 4

    def share(path, theirs, ours):
        if ours.shape == theirs.shape:
            return theirs
        kernel = theirs.reshape(*theirs.shape[:2], 2, head_dim)
        return jnp.repeat(kernel, heads // 2, axis=2).reshape(ours.shape)

    params = jax.tree_util.tree_map_with_path(share, *(nnx.to_pure_dict(nnx.state(m)) for m in (grouped, full)))
    same = nnx.merge(nnx.graphdef(full), params)
    np.testing.assert_allclose(logits_of(same, tokens), logits_of(grouped, tokens), atol=1e-5)


def test_a_tied_head_is_the_embedding(make_decoder, tokens):
    tied, untied = make_decoder("gpt2"), make_decoder("gpt2", tied_head=False)
    assert tied.head is None
    hidden, _ = tied(tokens, positions_of(jnp.ones_like(tokens, bool)), causal_mask(jnp.ones_like(tokens, bool)))
    np.testing.assert_allclose(tied.logits(hidden), hidden @ tied.embed.embedding[...].T, rtol=1e-4, atol=1e-4)
    assert untied.head.kernel.shape == (16, VOCAB)


def test_dropout_is_on_only_with_a_key_and_follows_it(make_decoder, family, tokens):
    model = make_decoder(family)
    plain, one, again, other = (
        logits_of(model, tokens, dropout_key=None if seed is None else jax.random.key(seed)) for seed in (None, 1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (jnp.abs(one - other) > 1e-3).any()
    assert (jnp.abs(one - plain) > 1e-3).any()


def test_a_dropout_of_zero_ignores_its_key(make_decoder, family, tokens):
    model = make_decoder(family, dropout=0.0)
    np.testing.assert_array_equal(logits_of(model, tokens, dropout_key=jax.random.key(1)), logits_of(model, tokens))


@pytest.mark.parametrize("again", ["mlp", "layer"])
def test_remat_changes_neither_value_nor_gradient(make_decoder, family, tokens, again):
    def loss_and_gradient(model):
        graphdef, params = nnx.split(model)
        key = jax.random.key(0)

        @jax.jit
        def compute(params):
            return jax.value_and_grad(
                lambda p: jnp.mean(jax.nn.log_softmax(logits_of(nnx.merge(graphdef, p), tokens, dropout_key=key))[..., 0])
            )(params)

        return compute(nnx.to_pure_dict(params))

    plain, remat = loss_and_gradient(make_decoder(family)), loss_and_gradient(make_decoder(family, remat=again))
    for a, b in zip(jax.tree.leaves(remat), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "smollm3"])
def test_layers_are_traced_once_however_many_there_are(make_decoder, kind, monkeypatch):
    """Those without positions, too."""
    plain, traced = Attention.__call__, []
    monkeypatch.setattr(Attention, "__call__", lambda *inputs: traced.append(1) or plain(*inputs))
    model = make_decoder(kind, layers=5)
    jax.make_jaxpr(jax.grad(lambda x: logits_of(model, jnp.zeros((3, 7), int)).sum() * x))(1.0)
    assert len(traced) == 1


def test_every_so_many_layers_one_has_no_positions(make_decoder, tokens):
    """To one layer without them, the tokens before the last are a set."""
    swapped = tokens.at[:, 0].set(tokens[:, 1]).at[:, 1].set(tokens[:, 0])
    for layers, every, same in ((1, 1, True), (1, 0, False), (2, 2, False)):
        model = make_decoder("llama", layers=layers, nope_every=every)
        one, other = logits_of(model, tokens)[:, -1], logits_of(model, swapped)[:, -1]
        assert (jnp.abs(one - other).max() < 1e-4) == same, every


def test_bfloat16_is_for_activations_only(make_decoder, family, tokens):
    wide, narrow = make_decoder(family), make_decoder(family, dtype="bfloat16")
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(nnx.state(narrow)))
    logits = logits_of(narrow, tokens)
    assert logits.dtype == jnp.float32
    difference = jnp.abs(logits - logits_of(wide, tokens)).mean()
    assert 0 < difference < 0.1 * jnp.abs(logits).mean()


def test_every_parameter_has_logical_axes(make_decoder, family):
    _, state = nnx.split(make_decoder(family))
    variables = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert len(variables) > 10
    for variable in variables:
        assert len(variable.get_metadata()["axes"]) == variable[...].ndim
