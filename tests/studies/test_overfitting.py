"""The study of overfitting in a form of seconds: what its variants differ in, what it reads of fits, and what it refuses."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from experiments.studies.overfitting import picture, study, variants
from experiments.studies.overfitting.study import Curve
from experiments.studies.overfitting.variants import VARIANTS
from kljax.command_line import compose
from kljax.config import Config, to_dict
from kljax.errors import UserError
from kljax.fitting.fit import read_result
from kljax.runs.setup import base_path, prepare
from tests.fitting.conftest import toy

__all__ = ["toy"]

SHORT = ["pretrain.steps=40", "pretrain.eval_every=10", "pretrain.train_rows=24", "pretrain.patience=9"]


def configs_of(*overrides):
    """Those of the study, which reads no data for them."""
    return {
        (name, seed): compose(["experiment=overfitting", *measures, *overrides, f"pretrain.seed={seed}"], Config)
        for name, measures in VARIANTS.items()
        for seed in range(2)
    }


def differences(one, other, path=()):
    """The keys in which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {found for key in one for found in differences(one[key], other[key], (*path, key))}
    return set() if one == other else {".".join(path)}


def test_a_variant_differs_from_none_in_its_measure_alone():
    configs = configs_of()
    variants.check(configs)
    bare = configs["no measure", 0]
    assert bare.model.dropout == bare.pretrain.optimizer.weight_decay == 0
    assert set(to_dict(bare.pretrain.augmentation).values()) == {0.0}
    noise = {"pretrain.augmentation.delete", "pretrain.augmentation.mask"}
    expected = {
        "no measure": set(),
        "weight decay": {"pretrain.optimizer.weight_decay"},
        "dropout": {"model.dropout"},
        "augmentation": noise,
        "all three": {"pretrain.optimizer.weight_decay", "model.dropout", *noise},
    }
    for name, keys in expected.items():
        assert differences(to_dict(bare), to_dict(configs[name, 0])) - {"run.variant"} == keys


WRONG = {
    "pretrain/objective: got regression": ["pretrain/objective=regression"],
    "pretrain.train_rows: got 0": ["pretrain.train_rows=0"],
    "pretrain.steps: got 100, expected a multiple of pretrain.eval_every (30)": ["pretrain.steps=100"],
    "pretrain.patience: got 3, expected at least 16": ["pretrain.patience=3"],
    "pretrain.watch: got f1, expected loss": ["pretrain.watch=f1"],
    "was set for all of them": ["model.dropout=0.3"],
}


@pytest.mark.parametrize("said", WRONG)
def test_what_would_make_no_curves_is_refused(said):
    with pytest.raises(UserError) as error:
        variants.check(configs_of(*WRONG[said]))
    assert said in str(error.value)


@pytest.fixture(scope="module")
def curve(toy):
    """A fit of seconds of a classifier, and its config."""
    config = toy("classification", toy.test_rows, *SHORT)
    return study.run("no measure", config), config


def test_a_curve_is_that_of_the_fit(curve):
    """Its best look is the step that the fit kept, with the held-out figures of its result; the test figures are its own."""
    curve, config = curve
    result = read_result(base_path(prepare(config)))
    assert curve.steps.tolist() == [10, 20, 30, 40]
    assert curve.steps[curve.best] == result["best_step"]
    for name in study.FIGURES:
        assert curve.held_out[name][curve.best] == pytest.approx(result[f"held_out_{name}"], rel=1e-4)
        assert curve.test[name] == result[f"test/{name}"]
    assert curve.train["loss"][-1] < curve.train["loss"][0]


def test_a_fit_that_is_at_its_best_before_any_step_is_refused(curve, monkeypatch):
    """As one from a pretrained model can be: the lowest look of its curve would have the test figures of other parameters."""
    monkeypatch.setattr(study, "read_result", lambda path: read_result(path) | {"best_step": 0})
    with pytest.raises(UserError, match="no look has a lower held-out loss than the model before its first step"):
        study.run("no measure", curve[1])


def test_training_rows_are_looked_at_without_noise(toy, curve):
    """With dropout and noise a batch's loss is of other texts; that of the rows looked at is of the parameters alone."""
    from kljax.fitting import fit, objectives

    setup = prepare(toy("classification", *SHORT, "pretrain.augmentation.delete=0.5", "model.dropout=0.5"))
    objective = objectives.build(setup)
    rows = objective.train(24)
    assert len(rows.label) == 24
    outputs = fit._compile_outputs(setup, objective)
    params = objective.architecture.init(0)
    figures = [objective.figures(outputs(params, rows), rows)["loss"] for _ in range(2)]
    assert figures[0] == figures[1]
    plain = objectives.build(prepare(toy("classification", *SHORT))).train(24)
    np.testing.assert_array_equal(rows.texts.tokens, plain.texts.tokens)


def made(variant, seed, held_out):
    rising = np.array(held_out, float)
    figures = {"loss": rising, "accuracy": 1 - rising / 2, "f1": 1 - rising / 3}
    return Curve(variant, seed, np.array([10, 20, 30]), {n: v / 2 for n, v in figures.items()}, figures, {}, best=1)


def test_numbers_and_picture_are_written(tmp_path, capsys):
    curves = [made(v, s, [0.7, 0.5 + s / 10, 0.9]) for v in ("no measure", "dropout") for s in range(2)]
    study.write_csv(curves, tmp_path / "o.csv")
    picture.plot(curves, tmp_path / "o.png")
    study.show(curves)
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 3
    assert [row["step"] for row in rows if row["kept"] == "1"] == ["20"] * 4
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    said = " ".join(capsys.readouterr().out.split())
    assert "0.550" in said and "0.071" in said  # mean and standard deviation of the best looks, 0.5 and 0.6
    study.show([replace(curves[0], test={"accuracy": 0.8, "f1": 0.7})])
    assert "0.800" in capsys.readouterr().out
