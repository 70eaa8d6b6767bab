"""What a sweep prints of its jobs."""

import pytest

from kljax.overrides.jobs import SEEDS, expand, lines, seed_varies

FIXED = ["experiment=movie_reviews", "data.source.path=/some/long/folder/of/reviews/movie_reviews.parquet", "steps=100"]


def test_a_line_a_job_says_what_varies_first():
    jobs = expand(["steps=3", "kl.beta=0.1,0.3", "name=x", "seed=0,1"], multirun=True)
    assert list(lines(jobs, 80)) == [
        "1/4 kl.beta=0.1 seed=0 steps=3 name=x",
        "2/4 kl.beta=0.1 seed=1 steps=3 name=x",
        "3/4 kl.beta=0.3 seed=0 steps=3 name=x",
        "4/4 kl.beta=0.3 seed=1 steps=3 name=x",
    ]


def test_a_line_is_cut_at_its_end():
    jobs = expand([*FIXED, "kl.penalty=exact,k1_reward,k3_loss"], multirun=True)
    for line, penalty in zip(lines(jobs, 80), ("exact", "k1_reward", "k3_loss"), strict=True):
        assert len(line) == 80
        assert f" kl.penalty={penalty} experiment=" in line
        assert line.endswith("…")


def test_one_job_without_overrides_is_a_number():
    assert list(lines([[]], 80)) == ["1/1"]


@pytest.mark.parametrize(
    ("overrides", "varies"),
    [
        (["seed=0,1"], True),
        (["++seed=0,1"], True),
        (["seed=0", "kl.beta=1,2"], False),
        (["kl.beta=1,2"], False),
        (["data.seed=0,1"], False),
        (["pretrain.seed=0,1", "seed=3"], False),
    ],
)
def test_whether_the_seed_varies(overrides, varies):
    assert seed_varies(expand(overrides, multirun=True)) is varies


def test_the_other_seeds_are_named():
    assert all(f"{section}.seed" in SEEDS for section in ("data", "pretrain", "evaluation"))
