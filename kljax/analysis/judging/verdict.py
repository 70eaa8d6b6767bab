"""The verdict of a page's answers: who is preferred, how sure that is, whether judges agree among themselves and with metrics.

The first time that something is shown counts; what is shown again measures the judge. A judge's score of a pair is 1 where a is
preferred, ½ for a tie, 0 where b is; of a pair with several judges it is their mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kljax.analysis import agreement
from kljax.analysis.agreement import Interval
from kljax.analysis.judging.design import PAIRWISE, Design, Item
from kljax.analysis.judging.files import Answers
from kljax.errors import UserError
from kljax.runs.intervals import LEVEL, numbered

Table = Float[np.ndarray, "judges columns"]
"""Judgments, nan where there is none."""
PLACES = {"first": 1.0, "tie": 0.5, "second": 0.0}


def verdict(made: Design, answers: Sequence[Answers], seed: int) -> dict[str, Any]:
    """All figures by name, for result.json. `seed`: the noise of bootstraps.

    Raises:
        UserError: where nothing is judged yet.
    """
    if not any(one.choices for one in answers):
        raise UserError(f"score: nothing is judged yet in {', '.join(str(one.file) for one in answers)}.")
    part = _pairwise if made.mode == PAIRWISE else _rating
    about = {"page": made.page, "mode": made.mode, "question": made.question, "level": LEVEL, "seed": seed}
    whose = {"a": made.names["a"], "b": made.names["b"], "pairs": len(made.pairs), "items": len(made.items)}
    notes = [
        {"judge": one.judge, "prompt": made.pairs[made.items[i].pair].prompt, "note": note, "shows": list(made.items[i].shows)}
        for one in answers
        for i, note in sorted(one.notes.items())
    ]
    return {**about, **whose, **part(made, answers, seed), "notes": notes}


def unfinished(made: Design, answers: Sequence[Answers]) -> list[str]:
    """Sentences on files that have not all of the page."""
    return [
        f"{one.file} is not finished: {len(one.choices)} of {len(made.items)} are judged; what is there counts."
        for one in answers
        if len(one.choices) < len(made.items)
    ]


def _pairwise(made: Design, answers: Sequence[Answers], seed: int) -> dict[str, Any]:
    scores = np.full((len(answers), len(made.pairs)), np.nan)
    for row, one in zip(scores, answers, strict=True):
        for item, choice in _first_time(made, one):
            row[item.pair] = _score(item, str(choice))
    judged = np.flatnonzero(~np.isnan(scores).all(axis=0))
    mean = np.nanmean(scores[:, judged], axis=0)
    first = {item.pair: float(item.shows[0] == "a") for item in made.items if item.again is None}
    groups = _groups(made, judged)
    corrected, bias = agreement.corrected_for_side(mean, np.array([first[int(pair)] for pair in judged]), groups, seed)
    same = sum(pair.is_identical for pair in made.pairs)
    rates = _rates(mean, groups, seed)
    known = scores[~np.isnan(scores)]
    return {
        "judged_pairs": len(judged),
        "identical_pairs": same,
        "judgments": {"a": int((known == 1).sum()), "tie": int((known == 0.5).sum()), "b": int((known == 0).sum())},
        "win_rate": {**rates, "corrected_for_place": asdict(corrected)},
        "win_rate_with_identical_as_ties": {
            name: asdict(_diluted(Interval(**rates[name]), same / len(made.pairs))) for name in ("wilson", "bootstrap")
        },
        "bias_for_first_place": asdict(bias),
        "judges": [_judge(made, one, row) for one, row in zip(answers, scores, strict=True)],
        "agreement": _agreement([one.judge for one in answers], scores * 2, (0, 1, 2), "nominal"),
        "figures": _preferences(made, mean, judged),
    }


def _rates(scores: Float[np.ndarray, "N"], groups: Int[np.ndarray, "N"], seed: int) -> dict[str, Any]:
    """The win rate of a, ties as half, with both intervals, and that of pairs that are decided."""
    wins, losses = int((scores > 0.5).sum()), int((scores < 0.5).sum())
    return {
        "wilson": asdict(agreement.wilson(float(scores.sum()), len(scores))),
        "bootstrap": asdict(agreement.mean_over_prompts(scores, groups, seed)),
        "wins": wins,
        "ties": len(scores) - wins - losses,
        "losses": losses,
        "without_ties": asdict(agreement.wilson(wins, wins + losses)),
    }


def _diluted(rate: Interval, share: float) -> Interval:
    """The rate where a share of all pairs is ties that nobody had to judge."""
    return Interval(*((1 - share) * x + share / 2 for x in (rate.value, rate.low, rate.high)))


def _judge(made: Design, one: Answers, scores: Float[np.ndarray, "pairs"]) -> dict[str, Any]:
    places = [str(choice) for _, choice in _first_time(made, one)]
    share, p = agreement.share_of_first(places.count("first"), places.count("second"))
    again = [(float(scores[item.pair]), _score(item, str(choice))) for item, choice in _second_time(made, one)]
    known = scores[~np.isnan(scores)]
    return {
        "judge": one.judge,
        "judged": len(one.choices),
        "win_rate": asdict(agreement.wilson(float(known.sum()), len(known))),
        "ties": places.count("tie"),
        "share_of_first_place": asdict(share),
        "p_of_no_bias": p,
        "repeats": asdict(agreement.consistency(again)),
    }


def _rating(made: Design, answers: Sequence[Answers], seed: int) -> dict[str, Any]:
    """Columns of ratings are samples: those of a, by pair, then those of b."""
    count = len(made.pairs)
    ratings = np.full((len(answers), 2 * count), np.nan)
    for row, one in zip(ratings, answers, strict=True):
        for item, choice in _first_time(made, one):
            row[item.pair + count * (item.shows[0] == "b")] = choice
    of_a, of_b = ratings[:, :count], ratings[:, count:]
    differences = of_a - of_b
    both = np.flatnonzero(~np.isnan(differences).all(axis=0))
    gained = np.nanmean(differences[:, both], axis=0)
    scores = np.nanmean(np.where(np.isnan(differences), np.nan, (np.sign(differences) + 1) / 2)[:, both], axis=0)
    names = [one.judge for one in answers]
    return {
        "judged_pairs": len(both),
        "ratings": {of: _mean_rating(made, table, seed) for of, table in (("a", of_a), ("b", of_b))},
        "difference": asdict(agreement.mean_over_prompts(gained, _groups(made, both), seed)),
        "win_rate": _rates(scores, _groups(made, both), seed),
        "judges": [_rater(made, one, row) for one, row in zip(answers, ratings, strict=True)],
        "agreement": _agreement(names, ratings, (1, 2, 3, 4, 5), "ordinal"),
        "figures": _preferences(made, scores, both),
        "correlations": _correlations(made, ratings, seed),
    }


def _mean_rating(made: Design, ratings: Table, seed: int) -> dict[str, Any]:
    judged = np.flatnonzero(~np.isnan(ratings).all(axis=0))
    mean = agreement.mean_over_prompts(np.nanmean(ratings[:, judged], axis=0), _groups(made, judged), seed)
    return {"mean": asdict(mean), "counts": {str(value): int((ratings == value).sum()) for value in range(1, 6)}}


def _rater(made: Design, one: Answers, ratings: Float[np.ndarray, "samples"]) -> dict[str, Any]:
    count, known = len(made.pairs), ratings[~np.isnan(ratings)]
    again = [
        float(choice) - float(ratings[item.pair + count * (item.shows[0] == "b")]) for item, choice in _second_time(made, one)
    ]
    repeats = {
        "samples": len(again),
        "same": again.count(0.0),
        "mean_distance": float(np.mean(np.abs(again))) if again else None,
    }
    mean = float(known.mean()) if len(known) else None
    return {"judge": one.judge, "judged": len(one.choices), "mean": mean, "repeats": repeats}


def _agreement(judges: Sequence[str], judgments: Table, labels: Sequence[int], level: agreement.Level) -> dict[str, Any]:
    """Cohen's kappa of each two judges on what both have judged, and Krippendorff's alpha of all."""
    if len(judges) < 2:
        return {"krippendorff_alpha": None, "cohen_kappa": []}
    found = []
    for one, other in combinations(range(len(judges)), 2):
        common = ~np.isnan(judgments[[one, other]]).any(axis=0)
        first, second = (judgments[i, common].astype(int).tolist() for i in (one, other))
        same = sum(x == y for x, y in zip(first, second, strict=True)) / len(first) if first else None
        kappa = agreement.cohen(first, second, labels, level)
        found.append({"judges": [judges[one], judges[other]], "items": len(first), "kappa": kappa, "same": same})
    return {"krippendorff_alpha": agreement.krippendorff_alpha(judgments, labels, level), "cohen_kappa": found}


def _preferences(made: Design, scores: Float[np.ndarray, "N"], judged: Int[np.ndarray, "N"]) -> dict[str, Any]:
    """How often each metric that both completions have prefers what judges prefer."""
    found = {}
    for name in _names(made):
        pairs = [made.pairs[int(i)].figures for i in judged]
        rows = np.array([name in one["a"] and name in one["b"] for one in pairs], bool)
        differences = [one["a"][name] - one["b"][name] for one, row in zip(pairs, rows, strict=True) if row]
        if differences:
            found[name] = asdict(agreement.concordance(scores[rows], np.array(differences)))
    return found


def _correlations(made: Design, ratings: Table, seed: int) -> dict[str, Any]:
    """Spearman's correlation of each metric with the mean rating, over samples of both."""
    count, found = len(made.pairs), {}
    for name in _names(made):
        rows = [
            (float(np.nanmean(ratings[:, i])), pair.figures[of][name], pair.prompt)
            for of, start in (("a", 0), ("b", count))
            for i, pair in enumerate(made.pairs, start)
            if name in pair.figures[of] and not np.isnan(ratings[:, i]).all()
        ]
        if rows:
            one, other, prompts = zip(*rows, strict=True)
            rank = agreement.rank_correlation(np.array(one), np.array(other), numbered(prompts), seed)
            found[name] = asdict(rank) | {"samples": len(rows)}
    return found


def _names(made: Design) -> list[str]:
    return list(dict.fromkeys(name for pair in made.pairs for of in ("a", "b") for name in pair.figures[of]))


def _groups(made: Design, pairs: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    return numbered([made.pairs[int(i)].prompt for i in pairs]) if len(pairs) else np.zeros(0, int)


def _first_time(made: Design, one: Answers) -> Iterator[tuple[Item, str | int]]:
    return ((made.items[i], choice) for i, choice in one.choices.items() if made.items[i].again is None)


def _second_time(made: Design, one: Answers) -> Iterator[tuple[Item, str | int]]:
    """Of what was judged the first time, too."""
    return ((made.items[i], choice) for i, choice in one.choices.items() if made.items[i].again in one.choices)


def _score(item: Item, choice: str) -> float:
    """Of a: 1, ½ or 0."""
    return PLACES[choice] if item.shows[0] == "a" else 1 - PLACES[choice]


def rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures in words, for a table: what, and how much."""
    return [*_of_a(result), *_of_judges(result), *_of_figures(result)]


def _of_a(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rate = result["win_rate"]
    if result["mode"] == PAIRWISE:
        yield "judgments: a better, tie, b better", ", ".join(str(result["judgments"][one]) for one in ("a", "tie", "b"))
    else:
        for of in ("a", "b"):
            yield f"mean rating of {of}", _said(result["ratings"][of]["mean"], "{:.2f}")
        yield "mean rating of a less that of b, same prompt", _said(result["difference"], "{:+.2f}")
    yield f"win rate of a, ties as half, {result['judged_pairs']} pairs (Wilson)", _said(rate["wilson"])
    yield "the same, bootstrap over prompts", _said(rate["bootstrap"])
    yield f"win rate of a without {rate['ties']} tie{'s' * (rate['ties'] != 1)}", _said(rate["without_ties"])
    if result["mode"] == PAIRWISE:
        if same := result["identical_pairs"]:
            yield (
                f"win rate of a with {same} identical pair{'s' * (same != 1)} as ties",
                _said(result["win_rate_with_identical_as_ties"]["wilson"]),
            )
        yield "win rate of a, corrected for place", _said(rate["corrected_for_place"])
        yield "what the first place adds", _said(result["bias_for_first_place"], "{:+.1%}")


def _of_judges(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for one in result["judges"]:
        head, again = f"judge {one['judge']}", one["repeats"]
        if result["mode"] == PAIRWISE:
            yield f"{head}: win rate of a", _said(one["win_rate"])
            place = _said(one["share_of_first_place"])
            yield f"{head}: prefers the first place", place if place == "–" else f"{place}, p = {one['p_of_no_bias']:.2g}"
            if again["pairs"]:
                says = f"{again['same']} of {again['pairs']} (the same place: {again['place']})"
                yield f"{head}: the same when shown again", says
        else:
            yield f"{head}: mean rating", "–" if one["mean"] is None else f"{one['mean']:.2f}"
            if again["samples"]:
                says = f"{again['same']} of {again['samples']} (mean distance {again['mean_distance']:.2f})"
                yield f"{head}: the same when shown again", says
    kappa, alpha = ("", "nominal") if result["mode"] == PAIRWISE else (" (quadratic weights)", "ordinal")
    for one in result["agreement"]["cohen_kappa"]:
        same = "" if one["same"] is None else f", the same {one['same']:.0%}"
        yield f"Cohen's kappa{kappa} of {' and '.join(one['judges'])}", f"{_number(one['kappa'])} ({one['items']} items{same})"
    if len(result["judges"]) > 1:
        yield (
            f"Krippendorff's alpha ({alpha}) of {len(result['judges'])} judges",
            _number(result["agreement"]["krippendorff_alpha"]),
        )


def _of_figures(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, one in result["figures"].items():
        ties = f"ties: {one['judges_tie']} of judges, {one['metric_ties']} of it, {one['both_tie']} of both"
        yield f"{name} prefers what judges prefer", f"{_said(one['share'])} of {one['decided']} decided ({ties})"
    for name, one in result.get("correlations", {}).items():
        yield f"{name} and ratings, Spearman", f"{_said(one, '{:+.2f}')} ({one['samples']} samples)"


def _said(interval: Mapping[str, float], form: str = "{:.1%}") -> str:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if np.isnan(value):
        return "–"
    return form.format(value) + ("" if np.isnan(low) else f" [{form.format(low)}, {form.format(high)}]")


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
