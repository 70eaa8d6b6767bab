"""Maximum likelihood: it approaches the grammar, stops early, and goes on where it was interrupted."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kljax.data import grammar
from kljax.devices.state import params_hash
from kljax.errors import UserError
from kljax.fitting import fit as fitting
from kljax.fitting import objectives
from kljax.fitting.fit import ensure_base, read_result
from kljax.interrupt import Interrupted, StopRequest
from kljax.models.layers import stack
from kljax.runs import directory
from kljax.runs.checkpoints import load_fitted
from kljax.runs.setup import base_path, prepare


def base_of(setup):
    arch = objectives.build(setup).architecture
    return load_fitted(base_path(setup), arch.shapes, arch.shardings)


def test_maximum_likelihood_lowers_forward_kl_to_the_grammar(tiny):
    short, long = (
        prepare(tiny(f"pretrain.steps={n}", "data.source.sentences=4000", "data.held_out_fraction=0.2")) for n in (10, 80)
    )
    before, after = read_result(ensure_base(short)), read_result(ensure_base(long))
    assert 0 < after["forward_kl_data_model_seq"] < 0.7 * before["forward_kl_data_model_seq"]


def test_forward_kl_is_cross_entropy_less_the_entropy_of_the_data(tiny):
    setup = prepare(tiny())
    result = read_result(ensure_base(setup))
    texts = setup.splits.held_out["text"]
    tokens = sum(len(text.split()) + 1 for text in texts)
    data_nats = -sum(grammar.logp(text) for text in texts) / tokens
    expected = result["held_out_nats_tok"] - data_nats
    assert result["forward_kl_data_model_tok"] == pytest.approx(expected, rel=1e-5)
    assert result["held_out_perplexity_tok"] == pytest.approx(math.exp(result["held_out_nats_tok"]))


@pytest.mark.parametrize(
    ("watch", "figures"), [("loss", [0.4, 0.3, 0.35, 0.36, 0.37]), ("accuracy", [0.5, 0.7, 0.7, 0.6, 0.9])]
)
def test_early_stopping_keeps_the_best_parameters(toy, monkeypatch, watch, figures):
    """Held-out figures that are not better from the third look on: the fit stops after two more and keeps the second's."""
    looks, seen = iter(figures), []
    real = fitting._remember
    monkeypatch.setattr(fitting, "_remember", lambda state, _, setup: seen.append(real(state, next(looks), setup)) or seen[-1])
    config = ["pretrain.steps=60", "pretrain.eval_every=10", "pretrain.patience=2", f"pretrain.watch={watch}"]
    setup = prepare(toy("classification", *config))
    path = ensure_base(setup)
    assert read_result(path)["steps"] == 40
    assert float(seen[-1].best) == pytest.approx({"loss": 0.3, "accuracy": -0.7}[watch])
    assert params_hash(base_of(setup)) == params_hash(stack(seen[1].best_params))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), seen[-1].train.params, seen[1].best_params)
    assert any(jax.tree.leaves(changed))


def test_an_interrupted_fit_goes_on_bit_for_bit(tiny, monkeypatch):
    whole, setup = prepare(tiny(f"run.root={tiny().run.root}/whole")), prepare(tiny())
    check_resumption(whole, setup, monkeypatch)


def test_an_interrupted_fit_of_a_classifier_goes_on_bit_for_bit(toy, monkeypatch):
    """With dropout and noise, which have to be those of the fit that was never stopped."""
    noisy = ["model.dropout=0.2", "pretrain.steps=20", "pretrain.eval_every=10"]
    noisy += ["pretrain.augmentation.delete=0.1", "pretrain.augmentation.swap=0.1"]
    whole, setup = (prepare(toy("classification", *noisy)) for _ in range(2))
    check_resumption(whole, setup, monkeypatch)
    assert read_result(base_path(setup)) == read_result(base_path(whole))


def test_an_interrupted_fit_of_an_older_version_is_said_to_be_one(tiny, monkeypatch):
    setup = prepare(tiny())
    save = fitting.Checkpoints.save
    monkeypatch.setattr(fitting.Checkpoints, "save", lambda self, step, state: save(self, step, state, {"reference": "none"}))
    monkeypatch.setattr(fitting, "StopRequest", StopAfter(steps=7))
    with pytest.raises(Interrupted):
        ensure_base(setup)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"was written by an older version of kljax, .*; remove .*/bases/grammar-\w+ to fit anew"
    ):
        ensure_base(setup)


def test_an_interrupted_fit_that_goes_on_in_the_other_form_says_so(tiny, monkeypatch, capsys):
    stacked, one_by_one = (prepare(tiny(f"run.unroll_layers={each}")) for each in ("false", "true"))
    monkeypatch.setattr(fitting, "StopRequest", StopAfter(steps=7))
    with pytest.raises(Interrupted):
        ensure_base(stacked)
    monkeypatch.undo()
    ensure_base(one_by_one)
    said = " ".join(capsys.readouterr().out.split())
    assert "Other circumstances than at the last launch: unroll_layers False then, True now. The same steps" in said


def check_resumption(whole, setup, monkeypatch):
    ensure_base(whole)
    monkeypatch.setattr(fitting, "StopRequest", StopAfter(steps=7))
    with pytest.raises(Interrupted, match="saved at step 7"):
        ensure_base(setup)
    monkeypatch.undo()
    ensure_base(setup)
    assert params_hash(base_of(setup)) == params_hash(base_of(whole))
    assert metrics_of(base_path(setup)) == metrics_of(base_path(whole))


class StopAfter(StopRequest):
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
    lines = directory.read_lines(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines]


def test_a_base_model_is_fitted_once(tiny):
    setup = prepare(tiny())
    path = ensure_base(setup)
    written = (path / "metrics.jsonl").stat().st_mtime_ns
    first, *others = directory.read_lines(path / "metrics.jsonl")
    assert 0 < first["time/compile"] < first["time/seconds"]
    assert others and not any("time/compile" in line for line in others)
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
    setup = prepare(tiny(*overrides))
    ensure_base(setup)
    return params_hash(base_of(setup))


def test_grammar_sentences_longer_than_a_window_are_refused(tiny):
    with pytest.raises(UserError, match=r"pretrain.length: got 8, expected at least"):
        ensure_base(prepare(tiny("pretrain.length=8")))


def test_held_out_rows_are_all_counted_whatever_the_batch(tiny):
    """400 sentences leave 20 held-out rows: batches of 16 wrap around, of 4 do not."""
    results = []
    for batch in (16, 4):
        setup = prepare(tiny(f"pretrain.batch={batch}"))
        objective = objectives.build(setup)
        params = setup.architecture.init(0)
        results.append(fitting._compile_outputs(setup, objective)(params, objective.held_out))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    assert len(results[0]) == len(results[1]) == 20


@pytest.fixture(scope="module")
def classifier(toy):
    """The directory of a finished fit of a classifier."""
    return ensure_base(prepare(toy("classification", toy.test_rows)))


def test_test_rows_change_nothing_but_their_own_figures(toy, classifier, tmp_path):
    """Twice the same fit, the second time with other test rows."""
    file = tmp_path / "other.jsonl"
    file.write_text('{"text": "dull film", "label": "pos"}\n{"text": "great film", "label": "neg"}\n')
    setup = prepare(toy("classification", f"data.source.test_path={file}"))
    other = ensure_base(setup)
    assert metrics_of(other) == metrics_of(classifier)
    here, there = read_result(other), read_result(classifier)
    assert (here["test/accuracy"], here["test/confusion_matrix"]) == (0.0, [[0, 1], [1, 0]])
    of_test = [name for name in here if name.startswith("test/")]
    assert [name for name in here if here[name] != there[name]] == of_test
    assert not any(name.startswith("test/") for line in metrics_of(other) for name in line)


def imported(classifier):
    """The overrides of a model that begins where that fit ended."""
    place = classifier / "huggingface"
    return ["model=huggingface", f"model.path={place}", "tokenizer=pretrained", f"tokenizer.path={place}"]


def test_an_imported_model_is_used_as_it_is(toy, classifier):
    setup = prepare(toy("classification", toy.test_rows, "pretrain.steps=0", *imported(classifier), model=None))
    path = ensure_base(setup)
    result, original = read_result(path), read_result(classifier)
    assert (result["steps"], original["steps"]) == (0, 60)
    assert (result["best_step"], original.pop("best_step")) == (0, 60)
    del result["best_step"]
    assert result.keys() - original.keys() == {"held_out_rows"}
    assert result["held_out_rows"] == 40
    for name in original.keys() - {"steps"}:
        expected = original[name]
        assert result[name] == (pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else expected), name
    assert not (path / "metrics.jsonl").exists()
    assert (path / "huggingface" / "model.safetensors").exists()


def test_a_fit_begins_from_an_imported_body_and_makes_the_head_that_it_lacks(toy, classifier):
    setup = prepare(toy("masked_token", *imported(classifier), model=None))
    setup.tokenizer.mask_token = "<pad>"
    start = fitting._start(setup, objectives.build(setup))
    arch = objectives.build(prepare(toy("classification"))).architecture
    fitted = load_fitted(classifier, arch.shapes, arch.shardings)
    assert params_hash(start["body"]) == params_hash(fitted["body"])
    assert start["dense"]["kernel"].shape == (16, 16)


def test_a_head_that_an_imported_model_lacks_has_to_be_fitted(toy, classifier, tmp_path):
    headless = tmp_path / "headless"
    headless.mkdir()
    for file in (classifier / "huggingface").iterdir():
        (headless / file.name).write_bytes(file.read_bytes())
    tensors = load_file(headless / "model.safetensors")
    save_file(
        {name: array for name, array in tensors.items() if not name.startswith("classifier")}, headless / "model.safetensors"
    )
    body = json.loads((headless / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (headless / "config.json").write_text(json.dumps(body))
    overrides = [f"model.path={headless}" if o.startswith("model.path") else o for o in imported(classifier)]
    setup = prepare(toy("classification", "pretrain.steps=0", *overrides, model=None))
    with pytest.raises(UserError, match=r"^pretrain.steps: got 0 .*headless' has no out.* expected a number >= 1"):
        ensure_base(setup)


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        ("classification", {"problem_type": "multi_label_classification"}, "is for multi_label_classification"),
        ("classification", {"problem_type": "regression"}, "is for regression (problem_type in its config.json)"),
        (
            "classification",
            {"id2label": {"0": "bad", "1": "good"}, "label2id": None},
            "calls its classes bad, good, and the data neg",
        ),
        ("regression", {}, "is for single_label_classification"),
        ("rated_pairs", {}, "is for single_label_classification"),
    ],
)
def test_a_model_that_is_used_as_it_is_must_mean_what_the_objective_reads(toy, classifier, tmp_path, objective, changes, words):
    other = tmp_path / "other"
    shutil.copytree(classifier / "huggingface", other)
    values = json.loads((other / "config.json").read_text()) | changes
    (other / "config.json").write_text(json.dumps(values))
    overrides = [f"model.path={other}" if o.startswith("model.path") else o for o in imported(classifier)]
    with pytest.raises(UserError) as raised:
        objectives.build(prepare(toy(objective, "pretrain.steps=0", *overrides, model=None)))
    assert words in str(raised.value)
    objectives.build(prepare(toy(objective, "pretrain.steps=20", *overrides, model=None)))


def test_an_export_goes_where_it_is_asked_for_and_nowhere_else(toy, classifier, tiny, tmp_path):
    """A decoder's directory is made for it, another's is a copy."""
    for name, config in {
        "decoder": tiny(f"run.export_to={tmp_path}/decoder"),
        "classifier": toy("classification", toy.test_rows, f"run.export_to={tmp_path}/classifier"),
    }.items():
        setup = prepare(config)
        fitting.check_export(setup)
        fitting.export_base(setup, ensure_base(setup))
        assert (tmp_path / name / "config.json").exists()
        with pytest.raises(
            UserError, match=f"^run.export_to: '{tmp_path}/{name}' is there already, expected a path that is free"
        ):
            fitting.check_export(setup)
    there = {file.name: file.read_bytes() for file in (classifier / "huggingface").iterdir()}
    written = {file.name: file.read_bytes() for file in (tmp_path / "classifier").iterdir()}
    assert b"pipeline_tag: text-classification" in written.pop("README.md")
    assert written == there
    assert b"pipeline_tag: text-generation" in (tmp_path / "decoder" / "README.md").read_bytes()


def test_what_has_no_hugging_face_form_is_refused_before_it_is_fitted(toy, tiny, tmp_path):
    setup = prepare(toy("classification", "model.segments=0"))
    with pytest.raises(UserError, match=r"^model: no Hugging Face architecture has these parts"):
        ensure_base(setup)
    assert not base_path(setup).exists()
    odd = prepare(tiny("model.bias=none", f"run.export_to={tmp_path}/odd"))
    with pytest.raises(UserError, match=r"^model: no Hugging Face architecture has these parts"):
        fitting.check_export(odd)


def test_a_fit_on_a_mesh_has_the_losses_of_one_on_a_device(toy):
    """Pairs, which lie two by two on the devices."""
    short = ["pretrain.steps=6", "pretrain.eval_every=3"]
    one, many = (
        metrics_of(ensure_base(prepare(toy("rated_pairs", *short, *mesh))))
        for mesh in ([], ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"])
    )
    assert len(one) == len(many) == 2
    for here, there in zip(one, many, strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)
