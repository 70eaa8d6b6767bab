"""What is measured of completions and how it is read: by hand, pass@k by enumeration, wrong metrics."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from kljax.config import TextTask
from kljax.errors import UserError
from kljax.rewards.overlap import novelty, rouge_l
from kljax.tasks import Task, corpus
from kljax.tasks.corpus import CorpusMetric
from kljax.tasks.figures import Read, best_of, figures, passes
from kljax.tasks.measuring import Measured, measure_of

PROMPTS = ["a", "a", "b", "b"]
SAID = ["up", "down", "old", ""]
COLUMNS = {"target": ["up", "up", "old", "old"]}


def exact(prompts, completions, target):
    return [float(one == right) for one, right in zip(completions, target, strict=True)]


def some(prompts, completions):
    """Applies to what begins with a letter."""
    return [len(one) if one else None for one in completions]


LETTERS = CorpusMetric(
    lambda prompts, completions, target: np.array([[len(one), 1.0] for one in completions]),
    lambda sums: {"letters": sums[0] / sums[1], "undefined": float("nan")},
)


def task(**parts):
    return Task(row=dict, **parts)


def config(*readings, resamples=50):
    return TextTask(kind="text", function="", arguments={}, readings=[*readings], resamples=resamples, seed=0)


def measured(of, said=SAID, columns=COLUMNS):
    return measure_of(of, columns)(PROMPTS, said, columns)


def test_each_figure_is_the_mean_over_the_completions_that_it_applies_to():
    of = task(metrics={"exact": exact, "some": some}, corpus=(LETTERS,))
    found = figures(of, config("sampled"), {"sampled": Read(measured(of), np.array([0, 0, 1, 1]))}, 2)
    assert found["task/exact"] == 0.5 and found["task/some"] == pytest.approx((2 + 4 + 3) / 3)
    assert found["task/letters"] == pytest.approx(9 / 4)
    assert {name.removesuffix("_se").removesuffix("_low").removesuffix("_high") for name in found} == {
        "task/exact", "task/some", "task/letters"}  # fmt: skip
    # Two prompts: a resample has one twice, with probability 1/2, or each once.
    assert {found["task/letters_low"], found["task/letters_high"]} == {3 / 2, 3.0}
    assert found["task/exact_se"] == 0.0


def test_a_metric_that_never_applies_has_no_figure():
    of = task(metrics={"none": lambda prompts, completions: [None] * len(completions), "exact": exact})
    values = measured(of)
    assert np.isnan(values.metrics["none"]).all()
    assert not [name for name in figures(of, config("sampled"), {"sampled": Read(values, np.arange(4))}, 1) if "none" in name]


def test_the_best_of_n_is_the_first_of_the_best_reward():
    reward = np.array([1.0, 1.0, 0.0, 2.0, -3.0, -3.0])
    values = Measured({"x": np.arange(6.0)}, (np.arange(12.0).reshape(6, 2),))
    by_two = best_of(values, reward, 2, np.array([7, 7, 3, 3, 7, 7]))
    assert by_two.measured.metrics["x"].tolist() == [0, 3, 4] and by_two.groups.tolist() == [7, 3, 7]
    assert by_two.measured.statistics[0].tolist() == [[0, 1], [6, 7], [8, 9]]
    assert best_of(values, reward, 3, np.zeros(6, int)).measured.metrics["x"].tolist() == [0, 3]
    of = task(metrics={"x": some})
    found = figures(of, config("best_of_n"), {"best_of_n": Read(Measured({"x": np.array([1.0, 2.0])}), np.arange(2))}, 2)
    assert found["task/best_of_2_x"] == 1.5 and all(name.startswith("task/best_of_2_x") for name in found)


@pytest.mark.parametrize(("samples", "ks"), [(1, []), (2, [2]), (3, [2, 3]), (5, [2, 4, 5]), (8, [2, 4, 8])])
def test_pass_at_k_is_the_share_of_choices_of_k_with_a_right_one(samples, ks):
    right = np.random.default_rng(samples).integers(0, 2, (6, samples)).astype(float)
    found = passes(task(metrics={"x": some}, passes=("x",)), Measured({"x": right.ravel()}), samples)
    assert [*found] == [f"x_pass_{k}" for k in ks]
    for k in ks:
        expected = [np.mean([any(row[i] for i in chosen) for chosen in combinations(range(samples), k)]) for row in right]
        np.testing.assert_allclose(found[f"x_pass_{k}"], expected)


def test_pass_at_k_of_a_prompt_that_has_no_right_answer_is_not_0():
    values = np.array([1.0, 0.0, np.nan, np.nan])
    found = passes(task(metrics={"x": some}, passes=("x",)), Measured({"x": values}), 2)
    np.testing.assert_array_equal(found["x_pass_2"], [1.0, np.nan])


def test_groups_are_prompts_and_not_rows():
    """Four rows of one prompt have no interval; of four prompts they have."""
    values = Measured({"x": np.array([0.0, 1.0, 1.0, 5.0])})
    of = task(metrics={"x": some})
    alike, different = (
        figures(of, config("sampled"), {"sampled": Read(values, groups)}, 1) for groups in (np.zeros(4, int), np.arange(4))
    )
    assert alike == {"task/x": 1.75} and {*different} == {"task/x", "task/x_se", "task/x_low", "task/x_high"}


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_figures_of_classes_are_scikit_learns(labels):
    random, names = np.random.default_rng(labels), [f"class{i}" for i in range(labels)]
    value = corpus.classification(names).value
    for _ in range(30):
        confusion = random.integers(0, 3, (labels, labels + 1)) * random.integers(0, 2, (labels, 1))
        if not confusion.sum():
            continue
        truth, found = np.indices(confusion.shape).reshape(2, -1)
        theirs = precision_recall_fscore_support(
            truth, found, labels=np.arange(labels), sample_weight=confusion.ravel(), zero_division=0
        )
        ours, there = value(confusion.ravel().astype(float)), confusion.sum(axis=1) > 0
        for name, each in zip(("precision", "recall", "f1"), theirs, strict=False):
            np.testing.assert_allclose([ours[f"{name}/{label}"] for label in names], np.where(there, each, np.nan))
            assert ours[f"macro_{name}"] == pytest.approx(each[there].mean())


def test_a_column_with_the_name_of_a_metrics_option_is_not_that_option():
    columns = {"target": ["up"] * 4, "tokenizer": ["x"] * 4, "use_stemmer": [False] * 4, "n": [7] * 4, "source": ["up up"] * 4}
    values = measured(task(metrics={"rouge": rouge_l, "new": novelty}), columns=columns).metrics
    assert values["rouge"].tolist() == [1, 0, 0, 0] and np.isfinite(values["new"]).all()


def test_what_a_metric_does_to_its_lists_others_do_not_see():
    def spoils(prompts, completions, target):
        target.clear()
        return [0.0] * len(completions)

    counts = CorpusMetric(lambda prompts, completions, target: [[target.pop() and 0.0] for _ in completions], lambda sums: {})
    values = measured(task(metrics={"a": spoils, "b": exact}, corpus=(counts, LETTERS)))
    assert values.metrics["b"].tolist() == [1, 0, 1, 0] and len(values.statistics[1]) == 4
    assert COLUMNS["target"] == ["up", "up", "old", "old"]


def raises(prompts, completions):
    return 1 / 0


def sums(*rows):
    return CorpusMetric(lambda prompts, completions: [*rows], lambda sums: {"x": 1.0})


def valued(value):
    return CorpusMetric(lambda prompts, completions: [[1.0]] * len(completions), value)


WRONG = {
    "length": ({"metrics": {"m": lambda completions: [1.0]}}, "task.metrics.m: the metric returned 1 numbers, "),
    "NaN": ({"metrics": {"m": lambda completions: [float("nan")] * 4}}, "task.metrics.m: the metric of sample 0 is nan"),
    "raised": ({"metrics": {"m": raises}}, "task.metrics.m: the metric raised ZeroDivisionError"),
    "left": ({"metrics": {"m": lambda completions: exit()}}, "task.metrics.m: the metric raised SystemExit"),
    "column": ({"metrics": {"m": lambda prompts, targets: []}}, "asks for 'targets', which no column of the data has; they "
               "have: target. Rename it, or give it a default. Did you mean 'target'?"),
    "sums' column": ({"corpus": (CorpusMetric(lambda goal: [], dict),)}, "task.corpus.0.function: "),
    "few rows": ({"corpus": (sums([1.0]),)}, "task.corpus.0: its statistics have the shape (1, 1), expected"),
    "flat": ({"corpus": (sums(1.0, 2.0, 3.0, 4.0),)}, "have the shape (4,)"),
    "ragged": ({"corpus": (sums([1.0], [1.0, 2.0], [1.0], [1.0]),)}, "task.corpus.0: it raised ValueError"),
    "infinite": ({"corpus": (sums([1.0], [1.0], [1.0], [float("inf")]),)}, "expected finite numbers"),
    "sums left": ({"corpus": (CorpusMetric(lambda prompts: exit(), dict),)}, "task.corpus.0: it raised SystemExit"),
    "value": ({"corpus": (valued(lambda sums: 1 / 0),)}, "task.corpus.0: its value raised ZeroDivisionError"),
    "no names": ({"corpus": (valued(lambda sums: 3.0),)}, "task.corpus.0: its value raised AttributeError"),
    "no number": ({"corpus": (valued(lambda sums: {"x": "y"}),)}, "task.corpus.0: its value raised ValueError"),
    "taken": ({"corpus": (valued(lambda sums: {"greedy_x": 1.0}),)}, "a figure has the name 'greedy_x'"),
    "twice": ({"corpus": (valued(lambda sums: {"m": 1.0}),), "metrics": {"m": some}}, "two of its figures have the name 'm'"),
    "both": ({"corpus": (sums(*[[1.0]] * 4), sums(*[[1.0]] * 4))}, "two of its figures have the name 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_metric_is_one_sentence(mistake):
    parts, said = WRONG[mistake]
    with pytest.raises(UserError) as error:
        of = task(**parts)
        figures(of, config("sampled"), {"sampled": Read(measured(of), np.arange(4))}, 1)
    assert said in str(error.value)
