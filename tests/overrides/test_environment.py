"""A file that is not there, where an environment variable says where it would be."""

import pytest
from omegaconf import OmegaConf

from kljax.errors import UserError
from kljax.overrides.environment import named, variables


def test_variables_are_known_by_the_keys_of_their_values():
    given = {"data": {"source": {"path": "${oc.env:FOLDER,x}/a.csv", "column": "${name}"}}, "name": "y", "steps": 3}
    assert variables(OmegaConf.create(given)) == {"data.source.path": "FOLDER"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("data.source.path: no file 'x/a.csv' (looked in /).", True),
        ("data.source.path: no file 'x/a.csv' (looked in /). Did you mean 'b.csv'?", True),
        ("data.source.path: no directory 'x', and no model of that name could be had from the hub: offline", True),
        ("data.source.path: 'x' is no directory; expected one with config.json.", True),
        ("data.source.path: got a 'zip' file, expected csv.", False),
        ("data.source.held_out_path: no file 'x/a.csv' (looked in /).", False),
    ],
)
@pytest.mark.parametrize("value", [None, "elsewhere"])
def test_what_is_not_there_is_told_with_the_variable(monkeypatch, said, told, value):
    monkeypatch.delenv("FOLDER", raising=False)
    if value is not None:
        monkeypatch.setenv("FOLDER", value)
    with pytest.raises(UserError) as found, named({"data.source.path": "FOLDER"}):
        raise UserError(said)
    now = "it is not set" if value is None else "it is 'elsewhere'"
    added = f"{'' if said.endswith(('.', '?')) else '.'} FOLDER says in which folder it lies; {now}."
    assert str(found.value) == said + (added if told else "")
