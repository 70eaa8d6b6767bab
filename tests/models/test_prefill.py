"""Prompts read once against prompts read for every sample."""

import jax.numpy as jnp
import numpy as np

from kljax.models.decoder import causal_mask, positions_of
from kljax.models.prefill import prefill


def test_what_is_read_is_repeated_with_room_for_what_follows(make_decoder, family):
    model, samples, room = make_decoder(family), 3, 4
    tokens = jnp.array([[0, 5, 3], [7, 2, 9]])
    mask = jnp.array([[False, True, True], [True, True, True]])
    hidden, used = model(tokens, positions_of(mask), causal_mask(mask))
    found = prefill(model, tokens, mask, samples, room)
    np.testing.assert_array_equal(found.hidden, np.repeat(hidden[:, -1], samples, axis=0))
    for with_room, alone in zip(found.cache, (used.keys, used.values), strict=True):
        assert with_room.shape == (alone.shape[0], 6, alone.shape[2], 3 + room, alone.shape[4])
        np.testing.assert_array_equal(with_room[..., :3, :], np.repeat(alone, samples, axis=1))
        np.testing.assert_array_equal(with_room[..., 3:, :], 0.0)
