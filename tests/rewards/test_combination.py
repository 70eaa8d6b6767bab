"""The weighted sum of reward terms, and one sentence for everything that a user's function can get wrong."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import RewardTerm, WordTokenizer
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.rewards.combination import build
from kljax.types import Rollout

PROMPTS, COMPLETIONS = ["so", "so", "and"], ["good film.", "bad", "a longer one"]

MODULE = '''
"""A user's rewards."""
import jax.numpy as jnp
import numpy as np

seen = {}
value = 3

def letters(prompts, completions, **columns):
    seen.update(columns, prompts=prompts, completions=completions)
    return [len(completion) for completion in completions]

def numbers(prompts, completions, *, kind, **columns):
    """As many different types as a number can have."""
    return {"array": np.arange(3.0), "ints": [0, 1, 2], "scalars": list(np.arange(3, dtype=np.float16)),
            "generator": (float(i) for i in range(3)), "tuple": (0.0, 1.0, 2.0), "on device": jnp.arange(3.0)}[kind]

def bad(prompts, completions, *, returned, **columns):
    return returned

def raises(prompts, completions, **columns):
    raise KeyError("no such thing")

def raises_late(prompts, completions, *, error, **columns):
    yield 1.0
    raise error

def factory(tokenizer, *, made):
    return made

def raising_factory(tokenizer):
    raise ValueError("of the factory")

def nats(tokenizer, scale):
    return lambda rollout: scale * rollout.behaviour_logp.sum(-1)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, under a name of its own for each test."""
    name = f"rewards_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.build(WordTokenizer(kind="words"), ["so good film and a longer bad one"])


@pytest.fixture(scope="module")
def rollout():
    mask = jnp.arange(4) < jnp.array([[4], [1], [2]])
    return Rollout(jnp.zeros((3, 6), int), jnp.ones((3, 2), bool), mask, jnp.arange(12.0).reshape(3, 4))


def term(kind, function, weight=1.0, /, **arguments):
    return RewardTerm(kind=kind, function=function, weight=weight, arguments=arguments)


def host(tokenizer, columns=None, **terms):
    reward = build(terms, tokenizer)
    assert reward.host is not None
    return np.asarray(reward.total(reward.host(PROMPTS, COMPLETIONS, columns or {})))


def complaint(tokenizer, **terms):
    with pytest.raises(UserError) as raised:
        host(tokenizer, **terms)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def device_complaint(tokenizer, rollout, function, **arguments):
    """What is said while the step is traced."""
    with pytest.raises(UserError) as raised:
        jax.eval_shape(build({"mine": term("jax", function, **arguments)}, tokenizer).device, {}, rollout)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_device_terms_are_summed_with_their_weights(tokenizer, rollout):
    terms = {"long": term("jax", "length", -0.5), "again": term("jax", "repetition", 2.0)}
    reward = build(terms, tokenizer)
    assert reward.host is None, "one compiled step"
    repetition = [2 / 3, 0, 0]  # of equal tokens: three bigrams, one new; none; one, new
    expected = -0.5 * np.array([4, 1, 2]) + 2 * np.array(repetition)
    np.testing.assert_allclose(reward.total(reward.device({}, rollout)), expected, rtol=1e-6)


def test_host_terms_are_summed_with_their_weights(tokenizer, mine):
    terms = {"ends": term("python", "regex", 0.5, pattern="[.]$"), "letters": term("python", f"{mine}.letters", -2.0)}
    expected = [0.5 * text.endswith(".") - 2 * len(text) for text in COMPLETIONS]
    np.testing.assert_allclose(host(tokenizer, **terms), expected)


def test_device_and_host_terms_stay_apart(tokenizer, rollout, mine):
    reward = build({"long": term("jax", "length"), "letters": term("python", f"{mine}.letters")}, tokenizer)
    on_device, on_host = reward.device({}, rollout), reward.host(PROMPTS, COMPLETIONS, {})
    assert set(on_device) == {"long"}
    assert set(on_host) == {"letters"}
    np.testing.assert_array_equal(on_device["long"], [4, 1, 2])
    np.testing.assert_array_equal(on_host["letters"], [len(text) for text in COMPLETIONS])


def test_a_weight_of_zero_reports_and_does_not_count(tokenizer, rollout):
    """Not even where the term is infinite: 0 · inf is no number."""
    reward = build({"long": term("jax", "length"), "gold": term("jax", "length", 0.0)}, tokenizer)
    terms = reward.device({}, rollout) | {"gold": jnp.full(3, jnp.inf)}
    np.testing.assert_array_equal(reward.total(terms), [4, 1, 2])


def test_a_dotted_path_names_a_jax_factory(tokenizer, rollout, mine):
    reward = build({"mine": term("jax", f"{mine}.nats", 2.0, scale=3.0)}, tokenizer)
    np.testing.assert_allclose(reward.total(reward.device({}, rollout)), 2.0 * 3.0 * np.arange(12.0).reshape(3, 4).sum(-1))


def test_columns_and_arguments_are_passed(tokenizer, mine):
    host(tokenizer, {"text": ["x", "y", "z"], "stars": [1, 2, 3]}, mine=term("python", f"{mine}.letters", target=7))
    seen = __import__(mine).seen
    passed = {"prompts": PROMPTS, "completions": COMPLETIONS, "text": ["x", "y", "z"], "stars": [1, 2, 3], "target": 7}
    assert {name: seen[name] for name in passed} == passed


@pytest.mark.parametrize("kind", ["array", "ints", "scalars", "generator", "tuple", "on device"])
def test_numbers_of_every_kind_are_taken(tokenizer, mine, kind):
    rewards = host(tokenizer, mine=term("python", f"{mine}.numbers", kind=kind))
    np.testing.assert_array_equal(rewards, np.arange(3, dtype=np.float32))
    assert rewards.dtype == np.float32


@pytest.mark.parametrize(
    "wrong",
    [math.nan, math.inf, -math.inf, "0.5", [1.0], 1j, np.array([1.0])],
    ids=repr,
)
def test_a_reward_that_is_no_number_is_refused_with_its_sample(tokenizer, mine, wrong):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad", returned=[0.5, 1.0, wrong]))
    assert sentence == (
        f"reward.mine: the reward of sample 2 is {wrong!r}, expected a finite number, or None where it does not apply; its "
        "prompt is 'and', its completion 'a longer one'."
    )


@pytest.mark.parametrize(
    ("large", "shown"),
    [(1e39, "1e+39"), (-1e300, "-1e+300"), (10**39, f"{10**39}"), (-(10**400), "a whole number of 1329 bits")],
    ids=["float", "double", "integer", "no float"],
)
def test_a_number_that_float32_cannot_hold_is_said_to_be_one(tokenizer, mine, large, shown):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad", returned=[0.5, large, 1.0]))
    assert sentence.startswith(f"reward.mine: the reward of sample 1 is {shown}, which float32 cannot hold, expected a finite")
    assert "its completion 'bad'" in sentence


def test_a_sum_or_a_weight_that_float32_cannot_hold_is_named(tokenizer, mine):
    big = term("python", f"{mine}.bad", 1e30, returned=[0.5, None, 1e10])
    sentence = complaint(tokenizer, big=big, letters=term("python", f"{mine}.letters", 2.0))
    assert sentence == (
        "reward: the weighted sum of sample 2 is too large for float32: 1e+30·1e+10 (big) + 2·12 (letters); expected smaller "
        "rewards, or lower weights (reward.NAME.weight=…). Its prompt is 'and', its completion 'a longer one'."
    )
    with pytest.raises(UserError, match=r"^reward.long.weight: got -1e\+39, expected a number that float32 can hold"):
        build({"long": term("jax", "length", -1e39)}, tokenizer)


def test_terms_of_the_device_are_looked_at_where_they_have_come_from(tokenizer, rollout, mine):
    """Terms of weight 0 do not count; None of a Python function is no NaN of a JAX one."""
    reward = build(
        {"long": term("jax", "length"), "gold": term("jax", "length", 0.0), "own": term("python", "regex", pattern="a")},
        tokenizer,
    )
    terms = {
        "long": jnp.array([1.0, 2.0, 3.0]),
        "gold": jnp.full(3, jnp.nan),
        "own": np.array([math.nan, 1.0, 0.0], np.float32),
    }
    reward.check(terms)
    with pytest.raises(UserError) as raised:
        reward.check(terms | {"long": jnp.array([1.0, jnp.inf, jnp.nan])}, PROMPTS, COMPLETIONS)
    assert str(raised.value) == (
        "reward.long: the reward of sample 1 is inf (2 of 3 samples have no finite one), expected finite numbers. Its prompt "
        "is 'so', its completion 'bad'."
    )
    with pytest.raises(UserError, match=r"^reward: the weighted sum of sample 2 is too large for float32: .*\)\.$"):
        reward.check(terms | {"long": np.full(3, 3e38, np.float32), "own": np.array([0, 0, 3e38], np.float32)})


def test_an_array_of_complex_numbers_is_refused(tokenizer, mine):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad", returned=np.ones(3, complex)))
    assert sentence.startswith("reward.mine: the reward of sample 0 is (1+0j), expected a finite number")


@pytest.mark.parametrize("wrong", [[], [0.1, 0.2], [0.1] * 4])
def test_a_wrong_count_is_refused(tokenizer, mine, wrong):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad", returned=wrong))
    assert sentence == f"reward.mine: the reward function returned {len(wrong)} rewards, expected 3, one a completion."


@pytest.mark.parametrize("wrong", [None, 0.5, 3, {0: 1.0, 1: 2.0, 2: 3.0}, "123"], ids=repr)
def test_what_is_no_list_is_refused(tokenizer, mine, wrong):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad", returned=wrong))
    assert sentence == f"reward.mine: the reward function returned {type(wrong).__name__}, expected a list of 3 numbers."


def test_a_reward_that_raises_is_reported_with_its_line(tokenizer, mine, tmp_path):
    line = MODULE.splitlines().index('    raise KeyError("no such thing")') + 1
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.raises"))
    assert sentence.startswith("reward.mine: the reward function raised KeyError: 'no such thing'")
    assert f"{tmp_path}/{mine}.py:{line}" in sentence
    assert "3 completions" in sentence


@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyError("boom"), "KeyError: 'boom'"), (TypeError("boom"), "TypeError: boom"), (ValueError("a\nb"), "ValueError: a b")],
    ids=repr,
)
def test_a_generator_that_raises_on_the_way_is_reported(tokenizer, mine, tmp_path, error, said):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.raises_late", error=error))
    assert sentence.startswith(f"reward.mine: the reward function raised {said} at {tmp_path}/{mine}.py:")


def test_a_missing_argument_of_a_built_in_reward_is_named_before_the_first_call(tokenizer):
    with pytest.raises(UserError, match=r"^reward.ends.arguments: .*'pattern'.*\+reward.ends.arguments.pattern=…"):
        build({"ends": term("python", "regex")}, tokenizer)


def test_a_missing_argument_of_a_users_reward_is_named_without_a_line_of_kljax(tokenizer, mine):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.bad"))
    assert sentence.startswith("reward.mine: the reward function raised TypeError: ")
    assert "'returned'" in sentence
    assert ".py:" not in sentence


@pytest.mark.parametrize(("arguments", "named"), [({}, "'scale'"), ({"scale": 1, "shift": 2}, "'shift'")])
def test_wrong_arguments_of_a_jax_reward_are_named(tokenizer, mine, arguments, named):
    sentence = complaint(tokenizer, mine=term("jax", f"{mine}.nats", **arguments))
    assert sentence.startswith("reward.mine.arguments: ")
    assert named in sentence


def test_a_factory_that_raises_is_reported(tokenizer, rollout, mine, tmp_path):
    sentence = device_complaint(tokenizer, rollout, f"{mine}.raising_factory")
    assert sentence.startswith("reward.mine: its factory ")
    assert f"ValueError: of the factory at {tmp_path}/{mine}.py:" in sentence


def test_a_factory_that_makes_no_function_is_refused(tokenizer, rollout, mine):
    sentence = device_complaint(tokenizer, rollout, f"{mine}.factory", made=None)
    assert sentence.startswith("reward.mine: its factory ")
    assert "returned NoneType, expected a function" in sentence


def test_a_jax_reward_that_raises_is_reported_with_its_line(tokenizer, rollout, mine):
    sentence = device_complaint(tokenizer, rollout, f"{mine}.factory", made=lambda rollout: 1 / 0)
    assert sentence.startswith("reward.mine: the reward function raised ZeroDivisionError: division by zero at ")
    assert f"{__file__}:" in sentence


def test_a_shape_error_inside_jax_is_told_at_the_users_line(tokenizer, rollout, mine):
    sentence = device_complaint(tokenizer, rollout, f"{mine}.factory", made=lambda rollout: jnp.ones(3) + jnp.ones(2))
    assert sentence.startswith("reward.mine: the reward function raised TypeError: ")
    assert f" at {__file__}:" in sentence


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        ("float32[3, 4]", lambda rollout: rollout.mask * 1.0),
        ("float32[2]", lambda rollout: jnp.ones(2)),
        ("float32[]", lambda rollout: 1.0),
        ("int32[3]", lambda rollout: rollout.mask.sum(-1)),
    ],
)
def test_a_jax_reward_of_another_shape_or_kind_is_refused(tokenizer, rollout, mine, shape, made):
    sentence = device_complaint(tokenizer, rollout, f"{mine}.factory", made=made)
    assert sentence.startswith(f"reward.mine: the reward function returned {shape}, expected float[3]")


@pytest.mark.parametrize(("kind", "typo", "right"), [("jax", "sentimnt", "sentiment"), ("python", "vadr", "vader")])
def test_an_unknown_name_is_answered_with_the_nearest(tokenizer, kind, typo, right):
    sentence = complaint(tokenizer, mine=term(kind, typo))
    assert sentence.startswith(f"reward.mine.function: no built-in reward '{typo}'")
    assert sentence.endswith(f"Did you mean '{right}'?")


@pytest.mark.parametrize(("kind", "name"), [("jax", "vader"), ("python", "length")])
def test_a_reward_of_the_other_kind_is_not_taken(tokenizer, kind, name):
    assert complaint(tokenizer, mine=term(kind, name)).startswith(f"reward.mine.function: no built-in reward '{name}'")


def test_a_module_that_is_not_there_is_named(tokenizer):
    sentence = complaint(tokenizer, mine=term("python", "no_such_module.reward"))
    assert sentence.startswith("reward.mine.function: cannot import 'no_such_module' (ModuleNotFoundError")


def test_a_module_that_does_not_import_is_named(tokenizer, mine, tmp_path):
    (tmp_path / f"broken_{mine}.py").write_text("1 / 0")
    sentence = complaint(tokenizer, mine=term("python", f"broken_{mine}.reward"))
    line = f"{tmp_path}/broken_{mine}.py:1"
    assert sentence == f"reward.mine.function: cannot import 'broken_{mine}' (ZeroDivisionError: division by zero at {line})."


def test_a_missing_function_is_answered_with_the_nearest(tokenizer, mine):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.leters"))
    assert sentence == f"reward.mine.function: module '{mine}' has no function 'leters'. Did you mean 'letters'?"


def test_what_is_no_function_is_refused_and_not_suggested(tokenizer, mine):
    sentence = complaint(tokenizer, mine=term("python", f"{mine}.value"))
    assert sentence.startswith("reward.mine.function: ")
    assert "Did you mean 'value'" not in sentence
