"""A file of the reader's own, as README and docs show it."""

import re

import pytest

from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from tests.readme.commands import ROOT


@pytest.mark.parametrize("page", ["README.md", "docs/bring_your_own.md"])
def test_the_file_that_is_shown_is_chosen(page, tmp_path, monkeypatch):
    shown = re.search(r"^```\n(# @package _global_\n.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert shown, page
    file = tmp_path / "configs" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(shown[1], "utf-8")
    monkeypatch.chdir(tmp_path)
    config = compose(["experiment=mine"], Config)
    assert (config.name, config.kl.beta) == ("mine", 0.3)
    file.write_text(shown[1].partition("\n")[2], "utf-8")
    with pytest.raises(UserError, match="@package _global_"):
        compose(["experiment=mine"], Config)
