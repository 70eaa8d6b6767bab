"""Which runs make a point, which points make a curve, and what to call it: by the configs, as the runs have them.

A point is of runs that agree in everything but the seed (and where and on what they ran); a curve is of points that agree in
everything but beta, or the budget or target of what moves beta.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING
from typing import Any

from kljax.config.validation import default_of, without_defaults
from kljax.json_text import key_text

REPEATED = ("seed", "run", "track", "mesh", "evaluation")
"""In what the runs of a point may differ. Where runs differ in the last three alone, they are one run twice."""

VARIED = {"adaptive": "target", "target": "budget"}
"""The field of a controller along which its curve runs; other controllers leave it to kl.beta."""

ORDER = ("name", "algorithm", "kl", "reference", "adapter", "optimizer", "steps", "rollout", "reward", "reward_scale", "data")
"""Of keys in a label; others come after."""

SHOWN, LONGEST = 4, 24  # keys of a label; characters of a value
VARIES = "(varies)"  # stands in a curve for the value along which it goes

Config = Mapping[str, Any]


def alike(config: Config) -> dict[str, Any]:
    """Return what the runs of a point share: the config without what may differ, and without fields that have their default."""
    return {key: value for key, value in without_defaults(config).items() if key not in REPEATED}


def varied(config: Config) -> tuple[str, float]:
    """The key along which the run's curve goes, as it is typed, and the run's value."""
    controller = config["kl"]["controller"]
    if (field := VARIED.get(controller["kind"])) is not None:
        return f"kl.controller.{field}", controller[field]
    return "kl.beta", config["kl"]["beta"]


def curve_of(shared: Config) -> dict[str, Any]:
    """Return what the points of a curve share, of what the runs of one point do."""
    *path, last = varied(shared)[0].split(".")
    copied: dict[str, Any] = deepcopy(dict(shared))
    part = copied
    for key in path:
        part = part[key]
    part[last] = VARIES
    return copied


def labels(curves: Sequence[Config]) -> tuple[list[str], str]:
    """Name each curve by what tells it from the others, as a user would type it; and say what holds where a label does not.

    A label leaves out what most curves have. It has at most `SHOWN` keys, more where it would be another curve's otherwise,
    and says how many are not shown.
    """
    if len(curves) == 1:
        (only,) = curves
        return [f"{only['name']}: {only['algorithm']}, {only['kl']['penalty']}"], ""
    flat = [_flat(curve) for curve in curves]
    keys = _differing(flat)
    said = _in_words(flat, keys)
    times = Counter(words for each in said for words in each.values())
    usual = list(dict.fromkeys(each[key] for key in keys for each in said if key in each and times[each[key]] > len(flat) / 2))
    own = [[words for words in each.values() if words not in usual] or list(each.values()) for each in said]
    made: list[str] = []
    for shown in range(min(SHOWN, len(keys)), len(keys) + 1):
        made = [_cut(each, shown, times) for each in own]
        if len(set(made)) == len(made):
            break
    return made, ", ".join(usual)


def _in_words(flat: Sequence[Config], keys: Sequence[str]) -> list[dict[str, str]]:
    """key=value of each curve, by key, values shortened where they still differ then."""
    said: list[dict[str, str]] = [{} for _ in flat]
    for key in keys:
        having = [each for each in flat if each.get(key, VARIES) != VARIES]
        whole = {key_text(each[key]) for each in having}
        spell = _short if len({_short(each[key]) for each in having}) == len(whole) else _whole
        for each, words in zip(flat, said, strict=True):
            if each in having:
                words[key] = f"{_typed(key)}={spell(each[key])}"
    return said


def _cut(said: Sequence[str], shown: int, times: Mapping[str, int]) -> str:
    """Of what is said so many, the rarest, in their order."""
    kept = sorted(said, key=lambda words: times[words])[:shown]
    more = len(said) - len(kept)
    return ", ".join(words for words in said if words in kept) + (f" +{more} more" if more > 0 else "")


def _differing(flat: Sequence[dict[str, Any]]) -> list[str]:
    """The keys in which the curves differ, in order; not those that follow from another choice of the part they are in.

    Fields that a curve could have and has not are filled in: they have their default.
    """
    known = list(dict.fromkeys(key for each in flat for key in each))
    found = []
    for key in known:
        values: dict[str, set[str]] = {}  # by the choices of the parts around the key
        having = {_around(each, key) for each in flat if key in each}
        for each in flat:
            if (around := _around(each, key)) in having:
                value = each.setdefault(key, None if default_of(key) is MISSING else default_of(key))
                values.setdefault(around, set()).add(key_text(value))
        if any(len(several - {key_text(VARIES)}) > 1 for several in values.values()):
            found.append(key)
    return sorted(found, key=lambda key: (_rank(key), known.index(key)))


def _around(flat: Config, key: str) -> str:
    """The choices of the parts that a key is in, by which it is there or not."""
    parts = key.split(".")[:-1]
    kinds = [".".join([*parts[:depth], "kind"]) for depth in range(1, len(parts) + 1)]
    chosen = [flat.get(kind) for kind in kinds if kind != key]
    return key_text([parts[:1] == ["reward"] and parts[1] in (flat.get("reward") or ()), *chosen])


def _rank(key: str) -> int:
    first = key.split(".")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


def _typed(key: str) -> str:
    """A key as it stands on a command line: a part is chosen as a whole, with slashes."""
    part, _, last = key.rpartition(".")
    return part.replace(".", "/") if last == "kind" and not part.startswith("reward.") else key


def _short(value: Any) -> str:
    """A value in a few characters: of a path the last component, of a long text its end."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{','.join(_short(entry) for entry in value)}]"
    text = str(value).rstrip("/").rpartition("/")[2] if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST else f"…{text[-LONGEST:]}"


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else key_text(value)


def _flat(values: Config, prefix: str = "") -> dict[str, Any]:
    """Dotted keys; of the rewards their names, too."""
    flat = {}
    for key, value in values.items():
        if key == "reward" and not prefix and isinstance(value, Mapping):
            flat["reward"] = sorted(value)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return flat
