"""The scripts as a user calls them, from the base model to the frontier."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOVIES = ROOT.parent / "shared" / "data" / "movie_reviews.parquet"


def call(script, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def sweep(tiny_overrides, tmp_path):
    """Two betas, two seeds."""
    call("train.py", "-m", *tiny_overrides, "kl.beta=0.1,10", "seed=0,1", "optimizer.learning_rate=0.01", "run.variant=auto")
    return tmp_path / "runs"


def test_sweep_analysis_and_frontier(sweep):
    runs = sorted((sweep / "grammar").iterdir())
    assert len(runs) == 4
    assert len(list((sweep / "bases").iterdir())) == 1  # the runs share their base model

    output = call("frontier.py", sweep / "grammar")
    rows = list(csv.DictReader((sweep / "grammar" / "frontier.csv").read_text().splitlines()))
    assert [(float(row["beta"]), int(row["seeds"])) for row in rows] == [(0.1, 2), (10.0, 2)]
    assert float(rows[0]["kl"]) > float(rows[1]["kl"])
    assert (sweep / "grammar" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "0.1" in output

    at_end = json.loads((runs[0] / "evaluation" / "step_000006.json").read_text())["metrics"]
    call("analyze.py", f"run={runs[0]}")
    assert json.loads((runs[0] / "evaluation" / "step_000006.json").read_text())["metrics"] == at_end
    call("analyze.py", f"run={runs[0]}", "step=2", "prompts=8")
    earlier = json.loads((runs[0] / "evaluation" / "step_000002.json").read_text())["metrics"]
    assert 0 < earlier["kl/reverse_exact_seq"] < at_end["kl/reverse_exact_seq"]

    assert "has no checkpoint of step 3; it has: 2, 4, 6" in call("analyze.py", f"run={runs[0]}", "step=3", code=2)


def test_pretrain_makes_the_base_model_that_train_starts_from(tiny_overrides, tmp_path):
    output = call("pretrain.py", *tiny_overrides)
    assert "forward_kl_data_model_seq" in output
    (base,) = (tmp_path / "runs" / "bases").iterdir()
    fitted = (base / "result.json").stat().st_mtime_ns
    call("train.py", *tiny_overrides)
    assert [base] == list((tmp_path / "runs" / "bases").iterdir())
    assert (base / "result.json").stat().st_mtime_ns == fitted


@pytest.mark.shared
@pytest.mark.skipif(not MOVIES.exists(), reason="needs ../shared/data/movie_reviews.parquet")
def test_movie_reviews_run_on_real_text(tiny_overrides, tmp_path):
    """The experiment's own data, tokenizer, prompts and Python reward, with a model of seconds."""
    small = [override for override in tiny_overrides if not override.startswith(("data.", "rollout.max"))]
    call("train.py", *small, "experiment=movie_reviews", f"data.source.path={MOVIES}", "run.variant=real")
    run = tmp_path / "runs" / "movie_reviews" / "real"
    metrics = json.loads((run / "evaluation" / "step_000006.json").read_text())["metrics"]
    assert metrics["kl/reverse_exact_seq"] > 0
    assert -1 <= metrics["reward/mean"] <= 1
