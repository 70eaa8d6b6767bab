"""The scripts as a user calls them, from the base model to the frontier."""

import csv
import io
import json
import logging
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from kljax.analysis.judging.files import checksum, read_key

ROOT = Path(__file__).parents[2]
MOVIES = ROOT.parent / "shared" / "data" / "movie_reviews.parquet"


def call(script, *arguments, code=0):
    """What a script says and how it ends, called as from a shell, but in this process: imports and programs are there.

    `script` is a file of experiments/ or, for python -m, a module.
    """
    said, handlers, level = io.StringIO(), logging.root.handlers[:], logging.root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            run_script(script)
            ended = 0
        except SystemExit as end:
            ended = end.code or 0
        finally:  # Hydra makes some that write to what is redirected here
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
    assert ended == code, said.getvalue()
    return said.getvalue()


def run_script(script):
    if script.endswith(".py"):
        runpy.run_path(str(ROOT / "experiments" / script), run_name="__main__")
        return
    with pytest.MonkeyPatch.context() as patch:  # that another test has imported it is no reason for runpy's warning
        main = f"{script}.__main__"
        patch.delitem(sys.modules, main if main in sys.modules else script, raising=False)
        runpy.run_module(script, run_name="__main__")


@pytest.fixture
def cache(compilation_cache):
    """The key by which scripts that read runs know where compiled programs lie."""
    return f"compilation_cache={compilation_cache}"


@pytest.fixture
def sweep(tiny_overrides, tmp_path):
    """Two betas, two seeds."""
    call("train.py", "-m", *tiny_overrides, "kl.beta=0.1,10", "seed=0,1", "optimizer.learning_rate=0.01", "run.variant=auto")
    return tmp_path / "runs"


def test_sweep_analysis_and_frontier(sweep, cache, tmp_path):
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
    call("analyze.py", cache, f"run={runs[0]}")
    call("analyze.py", cache, f"run={runs[0]}", "prompts=8", "seed=3")
    assert json.loads((runs[0] / "evaluation" / "step_000006.json").read_text())["metrics"] == at_end
    assert (runs[0] / "evaluation" / "step_000006_prompts-8_seed-3.json").exists()
    call("analyze.py", cache, f"run={runs[0]}", "step=2", "prompts=8")
    earlier = json.loads((runs[0] / "evaluation" / "step_000002_prompts-8.json").read_text())["metrics"]
    assert 0 < earlier["kl/reverse_exact_seq"] < at_end["kl/reverse_exact_seq"]

    judged(tmp_path / "judging", cache, f"a={runs[0]}@4", f"b={runs[2]}@4")
    assert (runs[2] / "evaluation" / "step_000004.json").exists()  # as step 4 of the other has been
    assert "has no checkpoint of step 3; it has: 2, 4, 6" in call("analyze.py", cache, f"run={runs[0]}", "step=3", code=2)


def judged(out, cache, *which):
    """A page of two steps of which none was evaluated, a judge who likes reward, and the verdict."""
    assert "completed now" in call("judge.py", cache, *which, f"out={out}", "prompts=12", "repeats=0.25")
    made = read_key(out)
    assert len(made.pairs) == 12
    answers = []
    for i, item in enumerate(made.items, start=1):
        first, second = (made.pairs[item.pair].figures[of]["reward"] for of in item.shows)
        choice = "tie" if first == second else "first" if first > second else "second"
        answers.append({"item": i, "choice": choice, "note": ""})
    lines = "".join(f"{one['item']}\t{one['choice']}\t\n" for one in answers)
    saved = {"kljax_judgments": 1, "page": made.page, "judge": "Ann", "answers": answers}
    (out / "ann.json").write_text(json.dumps(saved | {"checksum": checksum(f"{made.page}\n{lines}")}))
    assert "reward prefers what judges prefer" in call("judge.py", f"score={out}", f"out={out}")
    result = json.loads((out / "result.json").read_text())
    assert result["figures"]["reward"]["share"]["value"] == 1.0
    assert result["judges"][0]["repeats"]["same"] == result["judges"][0]["repeats"]["pairs"] > 0
    assert "prompts: got it beside score=" in call("judge.py", f"score={out}", f"out={out}", "prompts=50", code=2)


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
