"""The demo's notebook, on runs of seconds."""

import runpy
import sys

import numpy as np
import pytest

from kljax.command_line import compose
from kljax.config import Config, MeshConfig
from kljax.runs import evaluation, evaluation_files
from kljax.runs.restore import restore
from kljax.training.loop import train
from tests.readme.commands import ROOT

pytest.importorskip("marimo", reason="needs the extra notebook")
NOTEBOOK = ROOT / "docs" / "notebooks" / "demo.py"


@pytest.fixture(scope="module")
def runs(tiny_in, tmp_path_factory):
    """A folder with two seeds of one beta, the first analysed at an earlier step, too, and a run of another beta."""
    root = tmp_path_factory.mktemp("runs")
    for beta, seed in ((0.5, 0), (0.5, 1), (2.0, 0)):
        changed = ["name=demo", "steps=2", "run.save_every=1", f"kl.beta={beta}", f"seed={seed}"]
        config = compose([*tiny_in(root), *changed, f"run.variant=kl.beta-{beta}+seed-{seed}"], Config)
        path = train(config)
        for step in ("latest", 1) if (beta, seed) == (0.5, 0) else ("latest",):
            found = evaluation.evaluate(restore(path, step, MeshConfig(data=1, fsdp=1, tensor=1)), config.evaluation)
            evaluation_files.save_own(found, path)
    return root / "demo"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:marimo.*")
def test_every_cell_runs_and_shows_what_it_is_for(runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(NOTEBOOK), "--runs", str(runs)])
    outputs, names = runpy.run_path(str(NOTEBOOK))["app"].run()
    own = names["runs"]["kl.beta-2.0+seed-0"].evaluations.iloc[0]
    assert list(names["runs"]["kl.beta-0.5+seed-0"].evaluations["step"]) == [1, 2]
    table = names["table"].set_index("beta")
    assert table["step"].to_dict() == {0.5: 2, 2.0: 2} and table["seeds"].to_dict() == {0.5: 2, 2.0: 1}
    assert table.loc[2.0, "KL(π‖ρ)"] == pytest.approx(own["kl/reverse_exact_seq"], abs=6e-4)
    assert np.isfinite(table.drop(columns="curve").to_numpy(float)).all()
    assert names["picture"].startswith(b"\x89PNG")
    assert names["drawn"].drawn.by == names["policy"].name != names["reference"].name
    assert names["reverse"].is_sequence_kl and names["forward"].is_sequence_kl
    assert "<ruby" in names["tokens"]._repr_html_()
    assert names["by_position"]["completions"].iloc[0] == 256
    pictures = [output for output in outputs if type(output).__name__ == "Figure"]
    assert len(pictures) == 2 and all(axes.has_data() for picture in pictures for axes in picture.axes)
    left, right = pictures[-1].axes
    assert len(left.lines) == 3 and len(right.lines) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning:marimo.*")
def test_without_runs_it_says_how_to_make_some(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(NOTEBOOK), "--runs", str(tmp_path)])
    outputs, names = runpy.run_path(str(NOTEBOOK))["app"].run()
    assert not names["runs"] and "points" not in names and any("make demo" in getattr(output, "text", "") for output in outputs)
