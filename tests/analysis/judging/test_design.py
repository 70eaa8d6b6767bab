"""A page that says nothing of whose a text is: balanced, shuffled, and with no way back without its key."""

from collections import Counter

import pytest

from kljax.analysis.judging.design import design, left_out
from kljax.errors import UserError
from tests.analysis.judging.conftest import source


@pytest.mark.parametrize("count", [2, 9, 10, 51])
@pytest.mark.parametrize("seed", range(4))
def test_each_is_first_for_half_of_the_pairs(make, count, seed):
    items = make(count, seed=seed, repeats=0.0).items
    assert sorted(one.pair for one in items) == list(range(count))
    first = Counter(one.shows[0] for one in items)
    assert abs(first["a"] - first["b"]) == count % 2
    assert {one.shows for one in items} <= {("a", "b"), ("b", "a")}


def test_order_and_places_follow_from_the_seed(make):
    one, same, other = make(30), make(30), make(30, seed=1)
    assert one == same and one.page == same.page != other.page
    assert [item.pair for item in one.items[:27]] != sorted(item.pair for item in one.items[:27])
    assert [item.shows for item in one.items] != [item.shows for item in other.items]


def test_a_seed_alone_does_not_tell_places(make):
    """Who has the page, this code and the seed lacks whose the texts are, from which the noise follows, too."""
    a, b = source("runs/a", [f"a{i}" for i in range(30)]), source("runs/b", [f"b{i}" for i in range(30)])
    how = {"mode": "pairwise", "prompts": 99, "repeats": 0.0, "seed": 0, "question": "Which?", "criteria": []}
    forth, back = design(a, b, **how), design(b, a, **how)
    theirs = {item.pair: item.shows[0] for item in back.items}
    same = sum(theirs[item.pair] == item.shows[0] for item in forth.items)
    assert 5 < same < 25  # 15 ± 2.7: independent
    assert {one.pair for one in forth.items} == {one.pair for one in back.items}


@pytest.mark.parametrize(("count", "repeats", "again"), [(10, 0.2, 2), (10, 0.01, 1), (4, 0.9, 2), (50, 0.1, 5), (1, 0.5, 1)])
def test_what_is_shown_again_has_its_places_exchanged_and_comes_later(make, count, repeats, again):
    items = make(count, repeats=repeats).items
    repeated = [(i, one) for i, one in enumerate(items) if one.again is not None]
    assert len(repeated) == again and len(items) == count + again
    for i, one in repeated:
        before = items[one.again]
        assert (before.pair, before.shows, before.again) == (one.pair, one.shows[::-1], None)
        assert i - one.again >= max(count // 4, 1)


def test_a_rating_shows_each_sample_once_and_a_prompts_two_far_apart(make):
    items = make(20, mode="rating", repeats=0.1).items
    alone = [(one.pair, *one.shows) for one in items if one.again is None]
    assert sorted(alone) == sorted((i, of) for i in range(20) for of in "ab")
    for i, one in enumerate(items):
        others = [j for j, two in enumerate(items) if two.pair == one.pair and j != i]
        assert min(abs(i - j) for j in others) > 2
        if one.again is not None:
            assert items[one.again].shows == one.shows
    first_half = Counter(one.shows[0] for one in items[:20])
    assert first_half == {"a": 10, "b": 10}


def test_identical_pairs_are_not_shown_and_it_is_said(make):
    made = make(10, same=(2, 5))
    assert {2, 5}.isdisjoint(one.pair for one in made.items)
    a = source("runs/a", ["x", "y", "z", "only a"])
    b = source("runs/b", ["x", "Y", "z"])
    how = {"mode": "pairwise", "repeats": 0.0, "seed": 0, "question": "Which?", "criteria": []}
    assert left_out(a, b, design(a, b, prompts=99, **how)) == [
        "Left out, without a completion by b: 1 of the 4 completions of a.",
        "2 of 3 pairs are the same text in a and b: they are not shown, and count as ties.",
    ]
    said = left_out(
        source("a", "pqrs"), source("b", "PQRS"), design(source("a", "pqrs"), source("b", "PQRS"), prompts=2, **how)
    )
    assert said == ["Of 4 pairs 2 are taken, by the seed (prompts=2)."]
    with pytest.raises(UserError, match="all 2 pairs of completions are the same text in a and b"):
        make(2, same=(0, 1))
    assert len(make(2, same=(0, 1), mode="rating", repeats=0.0).items) == 4


def test_nothing_in_common_is_refused_with_a_prompt_of_each():
    a, b = source("runs/a", ["x"]), source("runs/b", ["y"])
    b = type(b)(b.name, b.how, {("other", 0): b.texts["p0", 0]})
    with pytest.raises(UserError, match=r'no prompt of runs/b is one of runs/a.*the first of a is "p0", that of b "other"'):
        design(a, b, mode="pairwise", prompts=9, repeats=0.0, seed=0, question="?", criteria=[])
