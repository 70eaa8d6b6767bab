"""Maximum likelihood: it approaches the grammar, stops early, and goes on where it was interrupted."""

import math

import jax
import numpy as np
import pytest

from kljax.data import grammar
from kljax.errors import UserError
from kljax.training import fitting, run_directory
from kljax.training.checkpoints import load_reference
from kljax.training.fitting import ensure_base, read_result
from kljax.training.interrupt import Interrupted
from kljax.training.state import params_hash
from kljax.training.task import base_path, prepare


def base_of(task):
    arch = task.architecture
    return load_reference(base_path(task), arch.shapes, arch.shardings)


def test_maximum_likelihood_lowers_forward_kl_to_the_grammar(tiny):
    short, long = (
        prepare(tiny(f"pretrain.steps={n}", "data.source.sentences=4000", "data.held_out_fraction=0.2")) for n in (10, 80)
    )
    before, after = read_result(ensure_base(short)), read_result(ensure_base(long))
    assert 0 < after["forward_kl_data_model_seq"] < 0.7 * before["forward_kl_data_model_seq"]


def test_forward_kl_is_cross_entropy_less_the_entropy_of_the_data(tiny):
    task = prepare(tiny())
    result = read_result(ensure_base(task))
    texts = task.splits.held_out["text"]
    tokens = sum(len(text.split()) + 1 for text in texts)
    data_nats = -sum(grammar.logp(text) for text in texts) / tokens
    expected = result["held_out_nats_tok"] - data_nats
    assert result["forward_kl_data_model_tok"] == pytest.approx(expected, rel=1e-5)
    assert result["held_out_perplexity_tok"] == pytest.approx(math.exp(result["held_out_nats_tok"]))


def test_early_stopping_keeps_the_best_parameters(tiny, monkeypatch):
    """Held-out figures that rise from the second look on: the fit stops after `patience` more and keeps the second."""
    looks = iter([4.0, 3.0, 3.5, 3.6, 3.7, 3.8])
    seen = []
    real = fitting._remember
    monkeypatch.setattr(fitting, "_remember", lambda state, nats, task: seen.append(real(state, next(looks), task)) or seen[-1])
    task = prepare(tiny("pretrain.steps=60", "pretrain.eval_every=10", "pretrain.patience=2"))
    path = ensure_base(task)
    assert read_result(path)["steps"] == 40
    assert float(seen[-1].best_nats) == 3.0
    assert base_of(task)[1] == params_hash(seen[-1].best_params)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), seen[-1].train.params, seen[-1].best_params)
    assert any(jax.tree.leaves(changed))


def test_an_interrupted_fit_goes_on_bit_for_bit(tiny, monkeypatch):
    whole = prepare(tiny("run.root=" + str(tiny().run.root) + "/whole"))
    ensure_base(whole)
    task = prepare(tiny())
    monkeypatch.setattr(fitting, "StopRequest", StopAfter(steps=7))
    with pytest.raises(Interrupted, match="saved at step 7"):
        ensure_base(task)
    monkeypatch.undo()
    ensure_base(task)
    assert base_of(task)[1] == base_of(whole)[1]
    assert metrics_of(base_path(task)) == metrics_of(base_path(whole))


class StopAfter:
    """Stands in for Ctrl-C after a number of steps."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left == 0


def metrics_of(path):
    lines = run_directory.read_lines(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def test_a_base_model_is_fitted_once(tiny):
    task = prepare(tiny())
    path = ensure_base(task)
    written = (path / "metrics.jsonl").stat().st_mtime_ns
    assert ensure_base(prepare(tiny("kl.beta=2"))) == path
    assert (path / "metrics.jsonl").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "override", ["model.layers=2", "pretrain.seed=1", "data.source.seed=3", "pretrain.optimizer.weight_decay=0.2"]
)
def test_another_recipe_is_another_base_model(tiny, override):
    assert base_path(prepare(tiny(override))) != base_path(prepare(tiny()))


@pytest.mark.parametrize("override", ["kl.beta=1", "seed=4", "data.prompt.max_tokens=3", "rollout.samples=4"])
def test_what_only_rlhf_uses_leaves_the_base_model_alone(tiny, override):
    assert base_path(prepare(tiny(override))) == base_path(prepare(tiny()))


def test_dropout_and_weight_decay_reach_the_fit(tiny):
    plain = base_hash(tiny)
    assert base_hash(tiny, "model.dropout=0.5") != plain
    assert base_hash(tiny, "pretrain.optimizer.weight_decay=0.5") != plain


def base_hash(tiny, *overrides):
    task = prepare(tiny(*overrides))
    ensure_base(task)
    return base_of(task)[1]


def test_grammar_sentences_longer_than_a_window_are_refused(tiny):
    with pytest.raises(UserError, match=r"pretrain.length: got 8, expected at least"):
        ensure_base(prepare(tiny("pretrain.length=8")))


def test_held_out_rows_are_all_counted_whatever_the_batch(tiny):
    """400 sentences leave 20 held-out rows: batches of 16 wrap around, of 4 do not."""
    results = []
    for batch in (16, 4):
        task = prepare(tiny(f"pretrain.batch={batch}"))
        rows = fitting.token_rows(task.tokenizer, list(task.splits.held_out["text"]), 32)
        params = task.architecture.init(task.config.model, 0)
        results.append(fitting._compile(task, rows).held_out(params))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    assert len(results[0]) == len(results[1]) == 20
