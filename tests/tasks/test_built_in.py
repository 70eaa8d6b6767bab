"""The built-in tasks (words: tests/runs/test_task_figures.py): from a file to a run's figures, and on rows of real data."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from kljax.command_line import compose
from kljax.config import Config, TextTask
from kljax.errors import UserError
from kljax.runs.evaluation import evaluate
from kljax.runs.restore import restore
from kljax.runs.setup import prepare
from kljax.tasks.figures import Read, figures
from kljax.tasks.measuring import measure_of
from kljax.tasks.translation import translation
from kljax.training.loop import train
from kljax.training.trainer import build_trainer

DATA = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["the", "old", "new", "fast", "slow", "red", "house", "car", "tree", "sea"]


def sentence(i):
    return " ".join(WORDS[(i * step + step) % 10] for step in (1, 3, 7, 9, 11))


ROWS = {
    "summarisation": lambda i: {"article": f"{sentence(i)} {sentence(i + 1)}.", "headline": sentence(i)},
    "translation": lambda i: {"en": sentence(i), "de": sentence(i)[::-1]},
    "numbers": lambda i: {"question": f"what is {i} and 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"},
    "sentiment": lambda i: {"text": f"{sentence(i)} größe", "label": i % 2},
}
FIGURES = {
    "summarisation": {"rouge_1", "rouge_2", "rouge_l", "compression", "novelty"},
    "translation": {"sentence_chrf", "bleu", "chrf"},
    "numbers": {"exact_match", "format", "exact_match_pass_2"},
    "sentiment": {"right", "accuracy", "no_label", "recall/negative", "recall/positive", "macro_f1"},
}
RIGHT = {"compression": None, "novelty": None, "bleu": 100.0, "chrf": 100.0, "no_label": 0.0}
"""Figures of the right answers that are not 1; None: any."""
BEGIN = ["data/source=text", "data/prompt=whole", "tokenizer=bpe", "pretrain/objective=target", "reward=task"]


def of(task, path, *overrides):
    return [f"task={task}", *BEGIN, f"data.source.path={path}", *overrides]


def figures_of_answers(setup):
    """What the task says of the right answers to the held-out prompts."""
    task, rows = setup.task, setup.splits.held_out
    measured = measure_of(task, rows.column_names)(rows["prompt"][:], rows["target"][:], rows.to_dict())
    once = TextTask(kind="text", function="", arguments={}, readings=["sampled"], resamples=2, seed=0)
    found = figures(task, once, {"sampled": Read(measured, np.arange(len(rows)))}, samples=1)
    return {name.removeprefix("task/"): value for name, value in found.items() if not name.endswith(("_se", "_low", "_high"))}


def check_right(task, found):
    assert FIGURES[task] - {"exact_match_pass_2"} <= {*found}
    for name, value in found.items():
        if (expected := RIGHT.get(name, 1.0)) is not None:
            assert value == pytest.approx(expected), name


@pytest.mark.parametrize("task", ROWS)
def test_from_a_file_to_the_figures_of_a_run(task, tiny_in, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(ROWS[task](i)) + "\n" for i in range(80)))
    own = [one for one in tiny_in(tmp_path / "runs") if not one.startswith("data.source")]
    short = ["steps=1", "optimizer.warmup_steps=0", "pretrain.steps=4", "pretrain.eval_every=2", "pretrain.length=180"]
    prompt = ["task.arguments.prompt='Say: {text}'", "data.prompt.max_tokens=120", "tokenizer.vocab_size=270"]
    size = ["model.context=192", "evaluation.prompts=4", "task.resamples=5"]
    config = compose([*own, *of(task, tmp_path / "rows.jsonl", *short, *prompt, *size)], Config)
    check_right(task, figures_of_answers(prepare(config)))
    run = restore(train(config), "latest", config.mesh)
    found = evaluate(run, replace(config.evaluation)).metrics
    some = {name for name in FIGURES[task] if f"task/{name}" in found}
    assert some >= FIGURES[task] - {"recall/negative", "recall/positive"}  # of four prompts one class may be missing
    greedy = {name for name in some if "_pass_" not in name}
    assert all(f"task/{reading}_{name}" in found for reading in ("greedy", "best_of_2", "reference_greedy") for name in greedy)
    assert found["answers/nats_seq"] > 0 and "reward/terms/task" in found


REAL = {
    "summarisation": ("news_headlines.parquet", []),
    "translation": ("multi30k_validation.parquet", ["task.arguments.source=de", "task.arguments.target=en"]),
    "numbers": ("gsm8k_test.parquet", []),
    "sentiment": ("sst2_dev.parquet", []),
}


@pytest.mark.shared
@pytest.mark.parametrize("task", REAL)
def test_on_real_rows_the_right_answers_are_right(task, tiny_in, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    name, overrides = REAL[task]
    if not (DATA / name).exists():
        pytest.skip(f"needs ../shared/data/{name}")
    own = [one for one in tiny_in(tmp_path / "runs") if not one.startswith("data.source")]
    more = ["data.prompt.max_tokens=400", "data.prompt.too_long=drop", "data.share=[0.0,0.2]", "tokenizer.vocab_size=400"]
    setup = prepare(compose([*own, *of(task, DATA / name, *overrides, *more), "model.context=1024"], Config))
    check_right(task, figures_of_answers(setup))
    build_trainer(setup)  # its metrics are tried


def test_a_translation_into_its_own_language_is_refused():
    with pytest.raises(UserError, match=r"target: got 'de', which is the source, too"):
        translation(source="de", target="de", prompt="{text}", tokenize="13a")
