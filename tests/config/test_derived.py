"""Widths that a config leaves open: by the family's rule, and never in the place of what is given."""

import pytest

from kljax.command_line import compose
from kljax.config import Config, to_dict
from kljax.errors import UserError

WIDTHS = ("d_mlp", "kv_heads", "head_dim")


def widths(*overrides):
    model = compose(overrides, Config).model
    return tuple(getattr(model, name) for name in WIDTHS if hasattr(model, name))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (256, 4, 16)),  # as before widths could be left open
        (["model=llama"], (176, 2, 16)),
        (["model=bert"], (256,)),
        (["model.d_model=512"], (2048, 4, 128)),
        (["model.d_model=512", "model.heads=8"], (2048, 8, 64)),
        (["model=llama", "model.d_model=4096", "model.heads=32", "model.kv_heads=null"], (10928, 32, 128)),
        (["model=llama", "model.d_model=48"], (128, 2, 12)),  # 8/3 · 48 is a multiple of 16 already
        (["model.d_model=512", "model.mlp=swiglu"], (1376, 4, 128)),
        (["model=bert", "model.d_model=384", "model.heads=12"], (1536,)),
        (["experiment=movie_reviews", "model.d_model=256"], (1024, 4, 64)),
    ],
)
def test_a_width_follows_from_the_other_sizes(overrides, expected):
    assert widths(*overrides) == expected


def test_a_width_that_is_given_is_kept():
    assert widths("model.d_model=512", "model.d_mlp=100", "model.head_dim=10", "model.kv_heads=1") == (100, 1, 10)


def test_the_config_that_is_kept_holds_numbers():
    model = to_dict(compose(["model.d_model=128"], Config))["model"]
    assert [model[name] for name in WIDTHS] == [512, 4, 32]


@pytest.mark.parametrize(
    ("overrides", "beginning"),
    [
        (["model.heads=5"], "model.heads: got 5, expected a divisor of model.d_model=64: 1, 2, 4, 8, 16, 32, 64. "),
        (["model=bert", "model.heads=5"], "model.heads: got 5, expected a divisor of model.d_model=64: "),
        (["model.d_model=wide"], "model.d_model: got 'wide', expected a whole number"),
        (["model.d_model=-64"], "model.d_model: got -64, expected a number >= 1"),
        (["model.heads=null"], "model.heads: got None, expected a whole number"),
        (["~model.d_model"], "model.d_model: missing"),
        (["model.mlp=relu"], "model.mlp: got 'relu', expected one of gelu, swiglu"),
        (["model=llama", "model.d_model=60"], "model.head_dim: got 15 (model.d_model / model.heads, "),
    ],
)
def test_what_no_width_follows_from_is_refused_by_its_own_name(overrides, beginning):
    with pytest.raises(UserError) as raised:
        compose(overrides, Config)
    assert str(raised.value).startswith(beginning)


def test_the_way_out_leads_out():
    assert widths("model.heads=5", "model.head_dim=12") == (256, 5, 12)
