"""`--help KEY`: every field of the schema is explained, with the value that it has, in a page of any width."""

import re
import typing
from dataclasses import fields

import pytest
from rich.console import Console

from kljax.command_line import CONFIGS, compose
from kljax.config import AnalysisConfig, Config, ExportConfig, JudgeConfig, RewardTerm, to_dict
from kljax.config.in_words import description, in_words
from kljax.config.mistakes import leaf_keys, members
from kljax.errors import UserError
from kljax.overrides.help import asked_about, page, show


def sections(schema):
    """A class of the schema and all below it, every choice included."""
    yield schema
    for field in fields(schema):
        for part in members(typing.get_type_hints(schema)[field.name]):
            yield from sections(part)


EVERY_SECTION = sorted(
    {*sections(Config), *sections(AnalysisConfig), *sections(ExportConfig), *sections(JudgeConfig), RewardTerm}, key=str
)


@pytest.mark.parametrize("section", EVERY_SECTION, ids=lambda section: section.__name__)
def test_every_field_is_explained(section):
    """By a sentence of its own below it; and what it may be can be said."""
    assert section.__doc__
    hints = typing.get_type_hints(section, include_extras=True)
    for field in fields(section):
        says = description(section, field.name)
        assert re.fullmatch(r"\S.*\.", says), (field.name, says)
        assert in_words(hints[field.name])


def said(*keys, schema=Config, values=None, width=80):
    console = Console(width=width, file=None, highlight=False)
    with console.capture() as captured:
        show(page(keys, schema, to_dict(compose([], Config)) if values is None else values), console)
    return captured.get()


def entries(text):
    """The page as {head: what is said below it}."""
    found, head = {}, ""
    for line in text.splitlines():
        if re.match(r" *(\S+=|[a-z_]+(\.\w+)+)", line):
            head = line.strip()
            found[head] = ""
        else:
            found[head] = f"{found.get(head, '')} {line.strip()}".strip()
    return found


def test_a_key_has_its_type_its_value_and_its_explanation():
    assert said("kl.beta") == (
        "kl.beta = 0.5\n    Number >= 0. Reward units per nat, at the start where a controller moves it;\n    0: no penalty.\n"
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_are_no_wider_than_the_terminal_and_end_without_blanks(width):
    lines = said("kl", "reward", "experiment", "model", width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_a_part_has_every_key_below_it():
    text = said("run")
    below = [key for key in leaf_keys(Config) if key.startswith("run.")]
    assert below and all(f"{key} = " in text or f"{key}\n" in text for key in below)


def test_each_key_of_the_schema_can_be_asked_for():
    values = to_dict(compose([], Config))
    for key in dict.fromkeys(leaf_keys(Config)):
        if not key.startswith("reward."):
            assert page([key], Config, values), key


def test_a_choice_has_its_options_each_with_its_keys():
    found = entries(said("kl/controller"))
    assert found["kl/controller=adaptive | fixed | scheduled | target"] == "How beta moves in training."
    assert "kl/controller=fixed   [chosen now]" in found
    assert found["kl.controller.horizon"].startswith("Number > 0. Sequences;")
    assert said("kl/controller") == said("kl.controller")


def test_of_a_choice_that_is_made_the_values_are_shown():
    values = to_dict(compose(["kl/controller=adaptive"], Config))
    found = entries(said("kl.controller", values=values))
    assert f"kl.controller.target = {values['kl']['controller']['target']}" in found
    assert "kl.controller.budget" in found
    assert "kl.controller.target   [of adaptive, not chosen now]" in entries(said("kl.controller.target"))


def test_a_key_of_several_choices_is_that_of_the_one_that_is_chosen():
    assert said("model.heads") == "model.heads = 4\n    Whole number >= 1. Query heads.\n"
    values = to_dict(compose(["model=bert", "pretrain/objective=masked_token"], Config))
    assert "a divisor of d_model" in said("model.heads", values=values)
    assert said("kl.divergence.alpha").count("not chosen now") == 2  # neither is: Rényi's and the alpha divergence's


def test_what_a_file_leaves_out_has_its_default():
    values = to_dict(compose([], Config))
    del values["run"]["keep"], values["evaluation"]["top_p"]
    assert "evaluation.top_p = 1.0" in said("evaluation.top_p", values=values)
    assert "run.keep" in said("run.keep", values=values)


def test_what_must_be_given_says_so():
    assert "run   [must be given]" in said("run", schema=AnalysisConfig, values={"run": "???"})


def test_rewards_are_the_terms_that_are_chosen_and_the_options():
    text = said("reward")
    assert "reward.sentiment.weight = 1.0" in text
    assert {file.stem for file in (CONFIGS / "reward").glob("*.yaml")} <= set(text.split())
    assert "The factor of the term" in said("reward.sentiment.weight")
    assert "compound sentiment" in said("reward.vader")


def test_experiments_are_listed_each_with_its_question():
    text = said("experiment")
    assert {file.stem for file in (CONFIGS / "experiment").glob("*.yaml")} <= set(text.split())
    assert "Does RLHF with this penalty reach the optimum" in text
    assert "@package" not in text


def test_the_beginning_of_keys_is_all_that_begin_so():
    assert [head.split()[0] for head in entries(said("run.sam"))] == ["run.sample_every", "run.samples_shown"]


@pytest.mark.parametrize(
    ("key", "schema", "sentence"),
    [
        ("kl.bta", Config, "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        ("beta", Config, "beta: no such config key. Did you mean 'kl.beta'?"),
        ("num_generations", Config, "rollout.samples"),
        ("reward.sentimant", Config, "Did you mean 'reward.sentiment'?"),
        ("reward.sentiment.wieght", Config, "Did you mean 'reward.sentiment.weight'?"),
        ("promts", AnalysisConfig, "promts: no such config key. Did you mean 'prompts'?"),
        ("experiment", ExportConfig, "experiment: no such config key."),
        ("", Config, "got an empty key"),
    ],
)
def test_what_is_no_key_is_answered_with_the_nearest(key, schema, sentence):
    with pytest.raises(UserError) as raised:
        page([key], schema, {})
    assert sentence in str(raised.value)


def test_keys_are_told_from_overrides():
    assert asked_about(["kl", "kl.beta=1", "~reward.sentiment", "run.keep"]) == (
        ["kl", "run.keep"],
        ["kl.beta=1", "~reward.sentiment"],
    )
