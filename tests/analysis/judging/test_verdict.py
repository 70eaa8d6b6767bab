"""What answers say: of judges who are known, so that every figure is."""

import json
import math

import numpy as np
import pytest

from kljax.analysis import agreement
from kljax.analysis.judging import files, report
from kljax.analysis.judging.design import design
from kljax.analysis.judging.verdict import rows, unfinished, verdict
from kljax.errors import UserError
from kljax.json_text import json_text
from tests.analysis.judging.conftest import prefers, source


def judged(made, save, *judges):
    return files.read_answers([save(made, f"J{i}", choose) for i, choose in enumerate(judges)], made)


def test_a_is_preferred_in_three_of_four_and_ties_are_halves(make, save):
    made = make(9, repeats=0.0, same=(8,))
    who = dict(enumerate(["a", "a", "a", "a", "a", "b", "tie", "tie"]))
    choose = lambda item: "tie" if who[item.pair] == "tie" else prefers(who[item.pair])(item)  # noqa: E731
    found = verdict(made, judged(made, save, choose), 0)
    rate = found["win_rate"]
    assert rate["wilson"] == vars(agreement.wilson(6, 8))
    assert (rate["wins"], rate["ties"], rate["losses"]) == (5, 2, 1)
    assert rate["without_ties"] == vars(agreement.wilson(5, 6))
    assert found["judgments"] == {"a": 5, "tie": 2, "b": 1}
    assert (found["judged_pairs"], found["identical_pairs"], found["pairs"]) == (8, 1, 9)
    assert found["win_rate_with_identical_as_ties"]["wilson"]["value"] == pytest.approx((6 + 0.5) / 9)
    assert rate["bootstrap"]["low"] < 0.75 < rate["bootstrap"]["high"]
    assert found["agreement"] == {"krippendorff_alpha": None, "cohen_kappa": []}


def test_who_always_says_the_first_is_found_at_every_figure(make, save):
    made = make(20, repeats=0.2)
    found = verdict(made, judged(made, save, lambda item: "first"), 0)
    assert found["win_rate"]["wilson"]["value"] == 0.5
    assert found["win_rate"]["corrected_for_place"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["bias_for_first_place"]["value"] == 0.5
    (one,) = found["judges"]
    assert one["share_of_first_place"]["value"] == 1.0 and one["p_of_no_bias"] == pytest.approx(2 * 0.5**20)
    assert one["repeats"] == {"pairs": 4, "same": 0, "place": 4}


def test_a_steady_judge_is_the_same_when_shown_again(make, save):
    made = make(20, repeats=0.2)
    (one,) = verdict(made, judged(made, save, prefers("a")), 0)["judges"]
    assert one["repeats"] == {"pairs": 4, "same": 4, "place": 0}
    assert one["win_rate"]["value"] == 1.0 and one["share_of_first_place"]["value"] == 0.5
    (tied,) = verdict(made, judged(made, save, lambda item: "tie"), 0)["judges"]
    assert math.isnan(tied["p_of_no_bias"]) and tied["ties"] == 20 and tied["repeats"]["same"] == 4


def test_judges_agree_by_completion_not_by_place(make, save):
    """Two who like a agree wholly; two who like the first place agree, too, since they see the same; a and b are opposed."""
    made = make(12, repeats=0.0)
    mixed = lambda item: prefers("ab"[item.pair % 2])(item)  # noqa: E731
    against = lambda item: prefers("ba"[item.pair % 2])(item)  # noqa: E731
    found = verdict(made, judged(made, save, mixed, mixed, against), 0)["agreement"]
    kappas = {tuple(one["judges"]): (one["kappa"], one["same"], one["items"]) for one in found["cohen_kappa"]}
    assert kappas == {("J0", "J1"): (1.0, 1.0, 12), ("J0", "J2"): (-1.0, 0.0, 12), ("J1", "J2"): (-1.0, 0.0, 12)}
    assert found["krippendorff_alpha"] == pytest.approx(1 - (2 / 3) / (18 / 35))  # of 36 values half are each


def test_what_is_repeated_counts_once(make, save):
    """The second time says something of the judge, and nothing of a."""
    made = make(10, repeats=0.5)
    choose = lambda item: prefers("a" if item.again is None else "b")(item)  # noqa: E731
    found = verdict(made, judged(made, save, choose), 0)
    assert found["win_rate"]["wilson"]["value"] == 1.0 and sum(found["judgments"].values()) == 10
    assert found["judges"][0]["repeats"] == {"pairs": 5, "same": 0, "place": 5}


def test_half_finished_files_count_and_are_named(make, save):
    made = make(10, repeats=0.2)
    half = lambda item: prefers("a")(item) if item.pair < 5 and item.again is None else None  # noqa: E731
    answers = judged(made, save, half, prefers("b"))
    (said,) = unfinished(made, answers)
    assert said.endswith("J0.json is not finished: 5 of 12 are judged; what is there counts.")
    found = verdict(made, answers, 0)
    assert found["judged_pairs"] == 10 and found["win_rate"]["wilson"]["value"] == 0.25
    assert found["agreement"]["cohen_kappa"][0]["items"] == 5
    one_empty = verdict(made, judged(made, save, lambda item: None, prefers("b")), 0)
    assert one_empty["win_rate"]["wilson"]["value"] == 0.0
    assert ("judge J0: win rate of a", "–") in rows(one_empty)
    with pytest.raises(UserError, match=r"nothing is judged yet in .*J0"):
        verdict(made, judged(made, save, lambda item: None), 0)


def test_a_metric_is_compared_where_both_have_it(make, save):
    """Rewards of a are higher for pairs 0 to 5, equal for 6, lower for the rest; the judge says a for 0 to 3, tie for 9."""
    rewards = [1.0] * 6 + [0.0] + [-1.0] * 3, [0.0] * 10
    made = make(10, repeats=0.0, rewards=rewards)
    choose = lambda item: "tie" if item.pair == 9 else prefers("a" if item.pair < 4 else "b")(item)  # noqa: E731
    found = verdict(made, judged(made, save, choose), 0)["figures"]["reward"]
    assert found["share"] == vars(agreement.wilson(6, 8))  # 0 to 3, 7 and 8 of 0 to 5, 7 and 8
    assert (found["decided"], found["metric_ties"], found["judges_tie"], found["both_tie"]) == (8, 1, 1, 0)


def test_how_often_the_longer_one_wins_is_always_said(make, save):
    """Of ten pairs a is longer in five, and always preferred."""
    a, b = source("a", ["long"] * 5 + [""] * 5), source("b", ["l"] * 10)
    made = design(a, b, mode="pairwise", prompts=99, repeats=0.0, seed=0, question="?", criteria=())
    found = verdict(made, judged(made, save, prefers("a")), 0)["figures"]
    assert found["length in characters"]["share"] == vars(agreement.wilson(5, 10))


def rates(a, b):
    """A rater who gives samples of a pair these."""
    return lambda item: (a if item.shows == ("a",) else b)[item.pair]


def test_ratings_have_means_a_difference_and_a_correlation(make, save):
    a, b = [5, 4, 3, 4, 2, 5], [1, 2, 3, 4, 1, 4]
    made = make(6, mode="rating", repeats=0.2, rewards=([float(x) for x in a], [float(x) * 10 - 60 for x in b]))
    found = verdict(made, judged(made, save, rates(a, b), rates(a, b)), 0)
    assert found["ratings"]["a"]["mean"]["value"] == pytest.approx(np.mean(a))
    assert found["ratings"]["b"]["counts"] == {"1": 4, "2": 2, "3": 2, "4": 4, "5": 0}
    assert found["difference"]["value"] == pytest.approx(np.mean(np.subtract(a, b)))
    assert found["difference"]["low"] < found["difference"]["value"] < found["difference"]["high"]
    assert found["win_rate"]["wilson"] == vars(agreement.wilson(5, 6))  # four wins, two ties
    assert found["agreement"]["krippendorff_alpha"] == found["agreement"]["cohen_kappa"][0]["kappa"] == 1.0
    assert found["judges"][0]["repeats"] == {"samples": 2, "same": 2, "mean_distance": 0.0}
    reward = found["correlations"]["reward"]
    assert reward["samples"] == 12 and 0 < reward["value"] < 1
    assert found["figures"]["reward"]["share"]["value"] == 1.0


def test_a_rater_who_has_seen_one_half_has_no_pair_yet(make, save):
    made = make(4, mode="rating", repeats=0.0)
    of_a = lambda item: 3 if item.shows == ("a",) else None  # noqa: E731
    found = verdict(made, judged(made, save, of_a), 0)
    assert found["judged_pairs"] == 0 and math.isnan(found["difference"]["value"])
    assert found["ratings"]["a"]["mean"]["value"] == 3.0 and math.isnan(found["ratings"]["b"]["mean"]["value"])


@pytest.mark.parametrize("mode", ["pairwise", "rating"])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("judges", [1, 3])
def test_every_result_can_be_written_and_shown(make, save, tmp_path, mode, count, judges):
    """Down to a page of one pair, and with notes that would be Markdown, HTML or a table's end."""
    rewards = ([1.0] * count, [1.0] * count)
    made = make(count, mode=mode, rewards=rewards)
    choose = (lambda item: "first") if mode == "pairwise" else lambda item: 3
    saved = [save(made, f"J|{i}", choose, name=f"{i}.json", note=lambda item: "<b>|*no*\n") for i in range(judges)]
    found = verdict(made, files.read_answers(saved, made), 0)
    report.show(found, ["said"])
    files.write_result(found, report.text(found, ["said"]), tmp_path)
    again = json.loads((tmp_path / "result.json").read_text())
    assert again == json.loads(json_text(found))
    text = (tmp_path / "result.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(rows(found)) and "<b>" not in text
    assert len(again["notes"]) == judges * len(made.items)
