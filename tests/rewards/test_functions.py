"""Python rewards are called and fed as TRL calls and feeds them; what would be fed wrongly is refused at launch.

The functions under `DOCUMENTED` do what TRL's documentation shows of custom rewards, each in words of its own.
"""

import asyncio
import copy
import functools
import math
import pickle
import re
import threading
import time
from dataclasses import asdict, replace
from decimal import Decimal

import numpy as np
import pandas
import pytest

from kljax.config import RewardTerm
from kljax.errors import UserError
from kljax.rewards.combination import build
from kljax.rewards.functions import Function, Logged, Samples, TrainerState, call

PROMPTS, COMPLETIONS = ["the sky is", "the sun is"], [" blue.", " in the sky"]
COLUMNS = {"prompt": PROMPTS, "answer": [" blue.", " hot"], "task": ["math", "code"]}
IDS = [[5, 6, 1], [7, 8]]


def term(function, weight=1.0, **arguments):
    return RewardTerm(kind="python", function=f"{__name__}.{function}", weight=weight, arguments=arguments)


def build_all(columns=tuple(COLUMNS), **functions):
    return build({name: term(f) if isinstance(f, str) else f for name, f in functions.items()}, None, columns)  # pyright: ignore


def rewards_of(function, prompts=PROMPTS, completions=COMPLETIONS, logged=None, step=3):
    host = build_all(it=function).host
    assert host is not None
    state = TrainerState(step, 10)
    return host(prompts, completions, COLUMNS, completion_ids=IDS, state=state, logged=logged)["it"].tolist()


def complaint(call, *args, **kwargs):
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- what TRL documents ------------------------------------------------------


def longer_ids(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def longer_texts(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


def in_the_format(completions, **kwargs):
    found = [re.match(r"^<think>.*?</think>.*$", completion[0]["content"]) for completion in completions]
    return [1.0 if match else 0.0 for match in found]


def is_the_answer(completions, answer, **kwargs):
    return [1.0 if completion == right else 0.0 for completion, right in zip(completions, answer, strict=True)]


def of_maths(prompts, completions, task, **kwargs):
    return [float(len(completion)) if kind == "math" else None for completion, kind in zip(completions, task, strict=True)]


def of_code(prompts, completions, task, **kwargs):
    return [-1.0 if kind == "code" else None for kind in task]


async def slow(prompts, completions, **kwargs):
    await asyncio.sleep(0.0)
    return [0.5 for _ in completions]


def by_step(completions, trainer_state, **kwargs):
    return [float(trainer_state.global_step)] * len(completions)


def logging(completions, log_metric=None, log_extra=None, **kwargs):
    sizes = [len(completion) for completion in completions]
    log_extra("size", np.array(sizes))
    log_metric("longest", max(sizes))
    log_metric("longest", 0)
    return sizes


DOCUMENTED = {
    "longer_ids": [3.0, 2.0],
    "longer_texts": [6.0, 11.0],
    "is_the_answer": [1.0, 0.0],
    "slow": [0.5, 0.5],
    "by_step": [3.0, 3.0],
    "logging": [6.0, 11.0],
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_trl_documents_runs(name):
    assert rewards_of(name, logged=Logged()) == DOCUMENTED[name]


def test_conversations_come_as_messages():
    prompts = [[{"role": "user", "content": "?"}]] * 2
    answers = [[{"role": "assistant", "content": text}] for text in ("<think>a</think>b", "b")]
    assert rewards_of("in_the_format", prompts, answers) == [1.0, 0.0]


def test_a_term_that_does_not_apply_is_left_out_of_the_sum():
    reward = build_all(maths="of_maths", code=term("of_code", 2.0))
    terms = reward.host(PROMPTS, COMPLETIONS, COLUMNS)
    np.testing.assert_array_equal(terms["maths"], [6.0, np.nan])
    np.testing.assert_array_equal(reward.total(terms), [6.0, -2.0])
    np.testing.assert_array_equal(reward.applies("maths", terms["maths"]), [True, False])


def test_a_sample_without_any_reward_is_named():
    sentence = complaint(rewards_of, "of_maths")
    assert sentence.startswith("reward: no term applies to sample 1: it returned None")
    assert "its completion ' in the sky'" in sentence


def test_a_term_of_weight_zero_is_no_reward():
    reward = build_all(maths="of_maths", shown=term("longer_texts", 0.0))
    assert "no term applies to sample 1" in complaint(reward.host, PROMPTS, COMPLETIONS, COLUMNS)


def test_metrics_are_means_and_extras_are_lists():
    logged = Logged()
    rewards_of("logging", logged=logged)
    assert logged.means() == {"reward/logged/longest": 5.5}
    assert logged.extras == {"size": [6, 11]}


# --- what a function asks for ------------------------------------------------


class Tensor:
    """As much of PyTorch's as counts here."""

    def __init__(self, values):
        self._values = np.array(values)
        self.shape = self._values.shape

    def tolist(self):
        return self._values.tolist()

    def item(self):
        return self._values.item()


seen = {}


def everything(**given):
    seen.update(given)
    return [0.0, 0.0]


def names_few(completions, prompt):
    seen.update(few=[completions, prompt])
    return [0.0, 0.0]


def test_a_function_with_kwargs_gets_all_and_one_without_what_it_names():
    rewards_of("everything")
    passed = {"prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra"}
    assert seen.keys() == passed | COLUMNS.keys()
    assert all(seen[name] == COLUMNS[name] for name in COLUMNS)
    rewards_of("names_few")
    assert seen["few"] == [COMPLETIONS, PROMPTS]


LOOKS = {
    "at its step": (lambda state: state.global_step + isinstance(state, TrainerState), False),
    "at its length": (lambda state: state.max_steps, True),
    "through getattr": (lambda state: getattr(state, "max_steps"), True),  # noqa: B009
    "at all": (vars, True),
    "by printing it": (repr, True),
    "as a dictionary": (asdict, True),
    "at a copy": (lambda state: copy.deepcopy(state).max_steps, True),
    "at a changed copy": (lambda state: replace(state, global_step=5).max_steps, True),
    "at what another process gets": (lambda state: pickle.loads(pickle.dumps(state)).max_steps, True),
}


@pytest.mark.parametrize("look", LOOKS)
def test_it_is_noted_who_looks_at_the_length_of_the_run(look):
    """With what it sees as without: transformers' names, and the numbers."""
    (glance, notices), asked, got = LOOKS[look], set(), []
    takes = frozenset({"trainer_state"})
    function = Function("reward.it", lambda trainer_state: got.append(glance(trainer_state)) or [0.0], takes, {})
    call([function], Samples(["a"], ["b"], {}, state=TrainerState(3, 10)), Logged(), asked)
    assert asked == ({"reward.it"} if notices else set())
    assert got == [glance(TrainerState(3, 10))]


def asks_for_more(completions, anwser, weight=1.0):
    raise AssertionError


def by_position(prompts, completions, /):
    raise AssertionError


REFUSED = {
    "asks_for_more": r"asks for 'anwser', which no column of the data has; they have: prompt, answer, task\. .* 'answer'\?",
    "by_position": r"takes 'prompts' by position only",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_called_is_refused_at_launch(name):
    assert re.search(REFUSED[name], complaint(build_all, it=name))


@pytest.mark.parametrize("column", ["prompts", "completions", "completion_ids", "trainer_state", "log_metric"])
def test_a_column_with_the_name_of_what_is_passed_is_refused(column):
    assert f"have a column '{column}'" in complaint(build_all, ("text", column), it="longer_texts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"task": "x"}, "'task' is a column of the data, too"), ({"prompts": 1}, "'prompts' is what kljax passes itself")],
)
def test_an_argument_that_would_hide_something_is_refused(arguments, said):
    assert said in complaint(build_all, it=term("everything", **arguments))


def test_an_argument_that_nothing_takes_is_refused():
    assert "takes no 'promt'. Did you mean 'prompt'?" in complaint(build_all, it=term("names_few", promt=1))


# --- what can be called ------------------------------------------------------


def spoils(prompts, completions, answer, scale):
    prompts[0][0]["content"] = completions[0] = answer[0] = scale["by"] = None
    return [1.0, 1.0]


def test_what_a_function_does_to_its_lists_nobody_sees():
    messages, answer = [[{"content": "?"}], [{"content": "!"}]], ["a", "b"]
    reward = build({"a": term("spoils", scale={"by": 1}), "b": term("everything")}, None, ("answer",))  # pyright: ignore
    for _ in range(2):
        reward.host(messages, COMPLETIONS, {"answer": answer})
        assert seen["prompts"] == messages == [[{"content": "?"}], [{"content": "!"}]]
        assert seen["answer"] == answer == ["a", "b"]
        assert seen["completions"] == COMPLETIONS


class Judge:
    """An object that can be called, and one with a method."""

    def __call__(self, completions, scale=1.0):
        return [scale] * len(completions)

    def method(self, completions):
        return [2.0] * len(completions)

    @staticmethod
    def static(completions):
        return [3.0] * len(completions)


judge = Judge()
partial = functools.partial(longer_texts, unused=1)
partial_of_coroutine = functools.partial(slow, prompts=None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("judge", 1.0), ("judge.method", 2.0), ("Judge.static", 3.0), ("partial_of_coroutine", 0.5)],
)
def test_objects_methods_and_partials_work(name, expected):
    assert rewards_of(name) == [expected] * 2


def test_a_partial_gets_its_columns():
    assert rewards_of("partial") == [6.0, 11.0]


order = []


async def first(completions):
    order.append("first begins")
    while "second begins" not in order:
        await asyncio.sleep(0.001)
    return [1.0, 2.0]


async def second(completions):
    order.append("second begins")
    return Tensor([3.0, 4.0])


def test_coroutines_of_several_terms_run_at_once():
    terms = build_all(a="first", b="second").host(PROMPTS, COMPLETIONS, COLUMNS)
    assert terms["a"].tolist() == [1.0, 2.0]
    assert terms["b"].tolist() == [3.0, 4.0]


def test_it_works_where_a_loop_runs_already():
    """As in a notebook."""

    async def notebook():
        return rewards_of("slow")

    assert asyncio.run(notebook()) == [0.5, 0.5]


async def fails_late(completions):
    await asyncio.sleep(0)
    raise ValueError("in the coroutine")


def test_an_error_in_a_coroutine_has_its_line():
    sentence = complaint(rewards_of, "fails_late")
    assert f"raised ValueError: in the coroutine at {__file__}:" in sentence


def shown_with(function):
    @functools.wraps(function)
    def wrapper(prompts, completions, **kwargs):
        kwargs["log_metric"]("seen", len(prompts))
        return function(completions, kwargs["answer"])

    return wrapper


@shown_with
def wrapped(completions, answer):
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]


def test_a_decorator_gets_what_it_takes_itself():
    logged = Logged()
    assert rewards_of("wrapped", logged=logged) == [1.0, 0.0]
    assert logged.means() == {"reward/logged/seen": 2.0}


@pytest.mark.parametrize("name", ["Judge", "Judge.method"])
def test_a_class_is_no_function(name):
    assert "is a class or a method of one" in complaint(build_all, it=name)


def leaves(completions):
    raise SystemExit(0)


async def leaves_late(completions):
    await asyncio.sleep(0)
    raise SystemExit(0)


async def too_late(completions):
    raise TimeoutError("too late")


@pytest.mark.parametrize("name", ["leaves", "leaves_late", "too_late"])
def test_what_would_end_the_process_or_the_loop_is_an_error_with_its_line(name):
    assert f" at {__file__}:" in complaint(rewards_of, name)
    assert rewards_of("slow") == [0.5, 0.5], "the loop lives"


extra = None


def logs(completions, log_extra, log_metric):
    log_metric(extra[0], 1.0)
    log_extra("x", extra[1])
    return [0.0, 0.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("", [1, 2]), "log_metric got ('', 1.0)"),
        ((3, [1, 2]), "log_metric got (3, 1.0)"),
        (("a", [1]), "log_extra got 1 values for 'x'"),
        (("a", "ab"), "log_extra got str for 'x'"),
        (("a", {1: 2, 3: 4}), "log_extra got dict for 'x'"),
        (("a", 5), "log_extra got int for 'x'"),
    ],
)
def test_what_cannot_be_logged_is_refused(monkeypatch, given, said):
    monkeypatch.setattr(f"{__name__}.extra", given)
    assert complaint(rewards_of, "logs").startswith(f"reward.it: {said}")


def test_what_json_has_not_is_logged_as_null_or_text(monkeypatch):
    monkeypatch.setattr(f"{__name__}.extra", ("a", [math.nan, ["\ud83d", np.float32(1), {1: None}]]))
    logged = Logged()
    rewards_of("logs", logged=logged)
    assert logged.extras == {"x": [None, ["?", 1.0, {"1": None}]]}
    complaint(rewards_of, "logs", logged=logged)  # the same name twice in one step


# --- what it may return ------------------------------------------------------

returned = None


def returns(completions):
    return returned


TAKEN = [
    [1, 2],
    (1.0, 2.0),
    np.array([1, 2]),
    Tensor([1.0, 2.0]),
    [np.float32(1), np.int64(2)],
    [Tensor(1.0), np.array(2)],
    [Decimal(1), Decimal(2)],
    {"a": 1, "b": 2}.values(),
    (x for x in (1, 2)),
]


@pytest.mark.parametrize("value", TAKEN, ids=lambda value: type(value).__name__)
def test_numbers_in_any_list_are_taken(monkeypatch, value):
    monkeypatch.setattr(f"{__name__}.returned", value)
    assert rewards_of("returns") == [1.0, 2.0]


def test_booleans_are_numbers(monkeypatch):
    monkeypatch.setattr(f"{__name__}.returned", [True, np.bool_(False)])
    assert rewards_of("returns") == [1.0, 0.0]


def endless():
    while True:
        yield 1.0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1.0, 2.0}, "returned set, expected a list of 2 numbers"),
        (frozenset({1.0, 2.0}), "returned frozenset"),
        ({"a": 1.0, "b": 2.0}, "returned dict"),
        (1.0, "returned float"),
        (Tensor(1.0), "returned Tensor"),
        ("12", "returned str"),
        (b"12", "returned bytes"),
        (None, "returned NoneType"),
        (endless(), "returned 3 rewards, expected 2"),
        ([Decimal("sNaN"), 1.0], "the reward of sample 0 is Decimal"),
        (pandas.DataFrame({0: [1.0], 1: [2.0]}), "returned DataFrame"),
        (Tensor([[1.0], [1.0]]), r"the reward of sample 0 is \[1.0\], expected a finite number"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused(monkeypatch, value, said):
    monkeypatch.setattr(f"{__name__}.returned", value)
    assert re.search(said, complaint(rewards_of, "returns"))


# --- where it is found, and where it failed ----------------------------------


def test_the_current_directory_is_importable(tmp_path, monkeypatch):
    name = f"rewards_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text("def one(completions):\n    import helper_of_it\n    return [helper_of_it.one] * 2\n")
    (tmp_path / "helper_of_it.py").write_text("one = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path != ""])
    reward = build({"it": RewardTerm(kind="python", function=f"{name}.one", weight=1.0, arguments={})}, None)  # pyright: ignore
    assert reward.host(PROMPTS, COMPLETIONS, {})["it"].tolist() == [1.0, 1.0]


def fails_in_a_library(completions):
    return [float(np.linalg.inv(np.zeros((2, 2)))[0, 0])]


def test_an_error_inside_a_library_is_told_at_the_users_line():
    sentence = complaint(rewards_of, "fails_in_a_library")
    line = fails_in_a_library.__code__.co_firstlineno + 1
    assert sentence.endswith(f"raised LinAlgError: Singular matrix at {__file__}:{line}, given 2 completions.")


def test_the_loop_of_coroutines_is_one_thread_for_all():
    for _ in range(3):
        rewards_of("slow")
    time.sleep(0)
    assert [thread.name for thread in threading.enumerate()].count("rewards") == 1
