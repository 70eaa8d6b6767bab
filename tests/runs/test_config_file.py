"""A run and its step, as commands are given them."""

import pytest

from kljax.errors import UserError
from kljax.runs.config_file import CONFIG, chosen_step


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
