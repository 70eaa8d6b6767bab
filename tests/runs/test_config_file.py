"""A run and its step, as commands are given them."""

import pytest

from kljax.errors import UserError
from kljax.runs import digests
from kljax.runs.config_file import CONFIG, check_owner, chosen_step, identity, text_of


@pytest.fixture
def run(tmp_path):
    for name in ("x", "with@5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text("")
    return tmp_path / "x"


def test_a_step_is_given_beside_its_run_or_with_it(run):
    assert chosen_step(f"{run}", "latest") == (run, "latest")
    assert chosen_step(f"{run}", 10) == (run, 10)
    assert chosen_step(f"{run}@10", "latest") == chosen_step(f"{run}@10", 10) == (run, 10)
    assert chosen_step(f"{run}@latest", "latest") == (run, "latest")


def test_a_directory_of_that_name_comes_first(run):
    other = run.with_name("with@5")
    assert chosen_step(f"{other}", "latest") == (other, "latest")
    assert chosen_step(f"{other}@7", "latest") == (other, 7)


def test_two_steps_are_a_mistake(run):
    with pytest.raises(UserError, match=r"^step: got 20 beside run=.*@10, which names step 10"):
        chosen_step(f"{run}@10", 20)
    with pytest.raises(UserError, match=r"^run: got '.*@ten', expected the number of a step"):
        chosen_step(f"{run}@ten", "latest")


def test_what_is_no_run_is_left_to_whoever_reads_it(run):
    assert chosen_step(f"{run}s@10", 3) == (run.with_name("xs@10"), 3)


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ((), ("evaluation.every=2", "evaluation.best=reward"), "evaluation.every is 0 there, 2 here"),
        (("evaluation.every=2",), (), "evaluation.every is 2 there, 0 here"),
        (("evaluation.every=2",), ("evaluation.every=2", "evaluation.best=reward"), "best is 'objective' there, 'reward' here"),
        (("evaluation.every=2", "evaluation.best=null"), ("evaluation.every=2",), "best is null there, 'objective' here"),
        ((), ("evaluation.top_p=0.5",), "evaluation.top_p is 1.0 there, 0.5 here"),
    ],
)
def test_a_field_at_its_default_is_named_with_it(tiny, tmp_path, there, here, says):
    """An identity leaves it out; a run of an older version, which had none, has it by what it means."""
    written = identity(tiny(*there))
    (tmp_path / CONFIG).write_text(text_of("rl", written))
    digests.note(tmp_path, [CONFIG])
    check_owner(tmp_path, written)
    with pytest.raises(UserError, match=says):
        check_owner(tmp_path, identity(tiny(*here)))


def test_a_section_that_is_not_there_is_said_to_be_null(tiny, tmp_path):
    written = identity(tiny())
    (tmp_path / CONFIG).write_text(text_of("rl", written))
    digests.note(tmp_path, [CONFIG])
    scaled = written | {"model": written["model"] | {"rope_scaling": {"kind": "linear", "factor": 2.0}}}
    with pytest.raises(UserError, match=r"model.rope_scaling.kind is nothing \(model.rope_scaling=null\) there, 'linear' here"):
        check_owner(tmp_path, scaled)
