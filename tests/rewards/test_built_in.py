"""Built-in functions of texts read columns of the data; what they could not read is refused at launch."""

import numpy as np
import pytest
from datasets import Dataset

from kljax.config import RewardTerm
from kljax.errors import UserError
from kljax.rewards.combination import build
from kljax.rewards.functions import try_columns
from kljax.rewards.text import PREPARATIONS, TEXT_REWARDS

PAIRS = {"target": ["blue", "hot"], "answer": ["sky", "sun"], "source": ["blue sky", "hot sun"], "reading": ["1", "2"]}


def built_in(function, columns=tuple(PAIRS), **arguments):
    it = RewardTerm(kind="python", function=function, weight=1.0, arguments=arguments)
    return build({"it": it}, None, columns)  # pyright: ignore


def complaint(call, *args, **kwargs):
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def built_in_rewards(function, data=PAIRS, **arguments):
    return built_in(function, **arguments).host(["", ""], ["Blue.", "sun"], data)["it"].tolist()  # pyright: ignore


def test_a_built_in_function_reads_the_column_of_its_parameters_name_or_the_one_that_arguments_name():
    assert built_in_rewards("exact_text") == [1.0, 0.0]
    assert built_in_rewards("exact_text", target="target") == [1.0, 0.0]
    assert built_in_rewards("exact_text", target="answer") == [0.0, 1.0]
    assert built_in_rewards("compression") == [0.5, 0.5]
    assert built_in_rewards("compression", source="answer") == [1.0, 1.0]
    assert built_in_rewards("rouge_1", target="source", use_stemmer=False) == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("function", "arguments", "reads"),
    [
        ("exact_text", {}, True),
        ("exact_text", {"target": "answer"}, True),
        ("exact_number", {"target": "reading", "reading": "last"}, True),  # a column that is called as an argument is
        ("compression", {}, True),
        ("number_format", {}, False),
        ("regex", {"pattern": "a"}, False),
    ],
)
def test_it_is_known_who_reads_columns(function, arguments, reads):
    assert built_in(function, **arguments).reads_columns == built_in(function, None, **arguments).reads_columns == reads


@pytest.mark.parametrize(
    ("function", "columns", "arguments", "said"),
    [
        (
            "exact_text",
            ("text", "targets"),
            {},
            "reward.it.function: 'exact_text' reads its target from the column 'target', which the data do not have; they "
            "have: text, targets. Give the name of another as +reward.it.arguments.target=… Did you mean 'targets'?",
        ),
        (
            "novelty",
            ("text",),
            {"source": "txt"},
            "Give the name of another as reward.it.arguments.source=… Did you mean 'text'?",
        ),
        ("chrf", ("text",), {"target": 7}, "reward.it.arguments.target: got 7, expected the name of a column"),
        ("chrf", None, {"target": "prompts"}, "reward.it.arguments.target: got 'prompts', expected the name of a column"),
        ("chrf", ("target",), {"traget": "a"}, "reward.it.arguments: 'chrf' takes no 'traget'. Did you mean 'target'?"),
        ("exact_number", ("target",), {"reading": "lsat"}, "reward.it.arguments.reading: got 'lsat', expected one of last"),
        ("rouge_l", ("target",), {"tokenizer": 1}, "reward.it.arguments.tokenizer: got 1, expected one of ascii, unicode"),
        ("vader", ("target",), {"target": "target"}, "reward.it.arguments: 'vader' takes no 'target'."),
    ],
)
def test_what_a_built_in_function_could_not_read_is_refused_at_launch(function, columns, arguments, said):
    assert said in complaint(built_in, function, columns, **arguments)


def test_columns_that_are_not_known_at_launch_are_missed_at_the_call():
    said = complaint(built_in("exact_text", None).host, ["", ""], ["", ""], {"answer": ["", ""]})
    assert said == "reward.it: reads its target from the column 'target', which these data do not have."


def test_a_column_of_no_texts_is_refused_by_the_terms_name():
    said = complaint(built_in("exact_text").host, ["", ""], ["", ""], PAIRS | {"target": [1, 2]})
    assert said.startswith("reward.it: its target of sample 0 is 1, expected one text")


def test_a_row_without_target_does_not_apply():
    reward = build(
        {
            "a": RewardTerm(kind="python", function="exact_text", weight=1.0, arguments={}),
            "b": RewardTerm(kind="python", function="regex", weight=4.0, arguments={"pattern": "x|blue"}),
        },
        None,
    )  # pyright: ignore
    terms = reward.host(["", ""], ["blue", "x"], {"target": ["blue", None]})  # pyright: ignore
    np.testing.assert_array_equal(terms["a"], [1.0, np.nan])
    np.testing.assert_array_equal(reward.total(terms), [5.0, 4.0])


def test_every_built_in_function_has_its_preparation_and_a_sentence():
    assert PREPARATIONS.keys() == TEXT_REWARDS.keys()
    assert all(function.__doc__ for function in TEXT_REWARDS.values())


def tried(rows, function="exact_number", **arguments):
    it = RewardTerm(kind="python", function=function, weight=1.0, arguments=arguments)
    never = RewardTerm(kind="python", function="a.module.that.is.not.there", weight=1.0, arguments={})
    try_columns({"it": it, "never": never}, Dataset.from_dict(rows))


def test_columns_are_tried_before_anything_compiles():
    """With the rows of the data, and with no function of the user's."""
    tried({"target": ["1", "2"], "text": ["a", "b"]})
    tried({"target": [None, None], "text": ["a", "b"]})
    tried({"text": ["a"]}, "exact_text", target="text")
    assert "reward.it: its target of sample 1 is 'b'" in complaint(tried, {"target": ["1", "b"]})
    assert "reward.it.arguments.tokenizer: of the target '北京'" in complaint(tried, {"target": ["北京"]}, "rouge_l")
    assert "its target of sample 0 is ['a', 'b'], expected one text" in complaint(tried, {"target": [["a", "b"]]}, "chrf")
