"""Which pairs are judged, in which order and place, and the key by which answers are read: a page shows neither.

The noise follows from the seed *and* from which text is whose, so that nobody can compute the key from the page, whose code is
public, with a guessed seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kljax.analysis.judging.sources import Place, Source
from kljax.errors import UserError
from kljax.json_text import key_text, shown

PAIRWISE, RATING = "pairwise", "rating"
LENGTH = "length in characters"
"""A figure that every completion has: judges like what is long."""
TRIES = 50  # orders of which the one is taken that has the same texts farthest from one another


@dataclass(frozen=True)
class Item:
    """A screen of the page: the texts of `shows` (a and b, in this order) of a pair. `again`: the item that it repeats."""

    pair: int
    shows: tuple[str, ...]
    again: int | None = None


@dataclass(frozen=True)
class Pair:
    """A prompt with its completions by a and b, and their figures."""

    prompt: str
    texts: dict[str, str]
    figures: dict[str, dict[str, float]]

    @property
    def is_identical(self) -> bool:
        """Whether there is nothing to choose from."""
        return self.texts["a"] == self.texts["b"]


@dataclass(frozen=True)
class Design:
    """All that the experimenter knows, and judges do not. Items count from 0 here, from 1 in answers."""

    mode: str
    seed: int
    question: str
    criteria: tuple[str, ...]
    names: dict[str, str]
    how: dict[str, str]
    pairs: tuple[Pair, ...]
    items: tuple[Item, ...]

    @property
    def shown(self) -> dict[str, Any]:
        """The contents of the page, in its order, without its name."""
        texts = [[self.pairs[one.pair].prompt, *(self.pairs[one.pair].texts[of] for of in one.shows)] for one in self.items]
        return {"mode": self.mode, "question": self.question, "criteria": list(self.criteria), "items": texts}

    @property
    def page(self) -> str:
        """The page's name: a digest of what it shows."""
        return hashlib.blake2b(key_text(self.shown).encode(), digest_size=6).hexdigest()


def design(
    a: Source, b: Source, *, mode: str, prompts: int, repeats: float, seed: int, question: str, criteria: Sequence[str]
) -> Design:
    """A page of `prompts` pairs at most, and a share `repeats` of its items shown twice.

    Pairwise: each completion is in the first place for half of the pairs; the second time the places are exchanged; pairs of
    one text are left out. Rating: each sample by itself, of one prompt one in each half of the page.

    Raises:
        UserError: where no prompt has a completion by both, or all that there is to compare is the same.
    """
    common = [place for place in a.texts if place in b.texts]
    if not common:
        raise UserError(_nothing_common(a, b))
    random = _random(seed, mode, a, b, common)
    if len(common) > prompts:
        common = [common[i] for i in sorted(random.choice(len(common), prompts, replace=False))]
    pairs = tuple(_pair(place, a, b) for place in common)
    if mode == PAIRWISE and all(pair.is_identical for pair in pairs):
        raise UserError(
            f"b: all {len(pairs)} pairs of completions are the same text in a and b ({a.name} and {b.name}), and there is "
            "nothing to judge. Policies that hardly differ write the same: compare later steps, or smaller betas."
        )
    items = _pairwise(pairs, repeats, random) if mode == PAIRWISE else _rating(pairs, repeats, random)
    names, how = {"a": a.name, "b": b.name}, {"a": a.how, "b": b.how}
    return Design(mode, seed, question, tuple(criteria), names, how, pairs, items)


def left_out(a: Source, b: Source, made: Design) -> list[str]:
    """Sentences on prompts that only one of the two has, and on pairs that are not shown."""
    common = len(a.texts.keys() & b.texts.keys())
    said = [
        f"Left out, without a completion by {other}: {count} of the {len(one.texts)} completions of {name}."
        for name, other, one in (("a", "b", a), ("b", "a", b))
        if (count := len(one.texts) - common)
    ]
    if common > len(made.pairs):
        said.append(f"Of {common} pairs {len(made.pairs)} are taken, by the seed (prompts={len(made.pairs)}).")
    same = sum(pair.is_identical for pair in made.pairs)
    if same and made.mode == PAIRWISE:
        said.append(f"{same} of {len(made.pairs)} pairs are the same text in a and b: they are not shown, and count as ties.")
    return said


def _nothing_common(a: Source, b: Source) -> str:
    first, second = (shown(next(iter(one.texts))[0], 60) for one in (a, b))
    return (
        f"b: no prompt of {b.name} is one of {a.name}; expected completions of the same held-out prompts (the first of a is "
        f"{first}, that of b {second})."
    )


def _random(seed: int, mode: str, a: Source, b: Source, common: Sequence[Place]) -> np.random.Generator:
    whose = [[*place, a.texts[place].text, b.texts[place].text] for place in common]
    text = key_text([seed, mode, a.name, b.name, whose])
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little"))


def _pair(place: Place, a: Source, b: Source) -> Pair:
    both = {"a": a.texts[place], "b": b.texts[place]}
    figures = {of: {LENGTH: float(len(one.text)), **one.figures} for of, one in both.items()}
    return Pair(place[0], {of: one.text for of, one in both.items()}, figures)


def _pairwise(pairs: Sequence[Pair], repeats: float, random: np.random.Generator) -> tuple[Item, ...]:
    shown = random.permutation([i for i, pair in enumerate(pairs) if not pair.is_identical])
    a_first = np.arange(len(shown)) < (len(shown) + random.integers(2)) // 2  # half of them; of an odd number by chance
    items = [
        Item(int(i), ("a", "b") if first else ("b", "a")) for i, first in zip(shown, random.permutation(a_first), strict=True)
    ]
    half = (len(items) + 1) // 2
    return _with_repeats(items[:half], items[half:], _count(repeats, len(items)), random)


def _rating(pairs: Sequence[Pair], repeats: float, random: np.random.Generator) -> tuple[Item, ...]:
    order, coin = random.permutation(len(pairs)), random.permutation(len(pairs)) % 2
    first = [Item(int(i), ("a" if coin[i] else "b",)) for i in order]
    second = [Item(int(i), ("b" if coin[i] else "a",)) for i in random.permutation(len(pairs))]
    return _with_repeats(first, second, _count(repeats, 2 * len(pairs)), random)


def _count(repeats: float, items: int) -> int:
    return min(max(round(repeats * items), 1), (items + 1) // 2) if repeats else 0


def _with_repeats(first: list[Item], second: list[Item], count: int, random: np.random.Generator) -> tuple[Item, ...]:
    """Both halves, the second with items of the first once more, places exchanged, far from where they were."""
    again = [int(i) for i in random.permutation(len(first))[:count]]
    later = [*second, *(Item(first[i].pair, first[i].shows[::-1], i) for i in again)]
    orders = [[*first, *(later[i] for i in random.permutation(len(later)))] for _ in range(TRIES)]
    return tuple(max(orders, key=_distance))


def _distance(items: Sequence[Item]) -> int:
    """The least number of items between two of the same prompt."""
    last: dict[int, int] = {}
    least = len(items)
    for i, item in enumerate(items):
        least = min(least, i - last.get(item.pair, -len(items)))
        last[item.pair] = i
    return least
