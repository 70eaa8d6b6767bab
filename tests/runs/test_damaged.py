"""A run whose files were cut off or lost: one sentence names the file and the cause, and what it proposes works."""

import json
import shutil

import pytest

from kljax.config import MeshConfig
from kljax.errors import UserError
from kljax.fitting.fit import ensure_base, read_result
from kljax.runs.restore import restore
from kljax.runs.setup import base_path, prepare
from kljax.training.loop import train


@pytest.fixture(scope="module")
def runs(tiny_in, tmp_path_factory):
    """The config of a finished run, below a root that is copied for each test."""
    from kljax.command_line import compose
    from kljax.config import Config

    root = tmp_path_factory.mktemp("damaged")

    def config(where):
        return compose([*tiny_in(where), "run.variant=v"], Config)

    return root, config, train(config(root)).relative_to(root)


@pytest.fixture
def run(runs, tmp_path):
    root, config, path = runs
    shutil.copytree(root, tmp_path / "runs")
    return config(tmp_path / "runs"), tmp_path / "runs" / path


def cut(file, share=0.5):
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def look(path):
    restore(path, "latest", MeshConfig(data=1, fsdp=1, tensor=1)).held_out_prompts()


def complaint(act, *arguments):
    with pytest.raises(UserError) as raised:
        act(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_config_that_was_cut_off_is_not_taken_for_another_config(run):
    """Wherever it was cut: what is left is YAML in most places."""
    config, path = run
    file = path / "config.yaml"
    whole = file.read_text()
    for size in range(len(whole) // 10, len(whole), len(whole) // 10):
        file.write_text(whole[:size])
        for act, argument in ((look, path), (train, config)):
            sentence = complaint(act, argument)
            assert str(file) in sentence
            assert "was cut off" in sentence or "cannot be read as a YAML mapping" in sentence
    file.write_text(whole.rpartition("\n  ")[0] + "\n")  # of the last section all but the last line
    assert f"run: {file} is not as this version of kljax reads it: run.cpu_devices: missing, " in complaint(look, path)
    file.write_text(whole + "future: 3\n")
    assert "reads it: future: no such config key. It was cut off, changed by hand, or written by" in complaint(look, path)


@pytest.mark.parametrize("spoil", [cut, lambda file: file.write_text("{}"), lambda file: file.write_text("")])
def test_a_broken_model_json_is_written_again_where_it_is_deleted(run, spoil):
    config, path = run
    before = (path / "model.json").read_text()
    spoil(path / "model.json")
    for act, argument in ((look, path), (train, config)):
        assert complaint(act, argument).startswith(f"run: {path}/model.json is broken: it was cut off or changed. Restore")
    (path / "model.json").unlink()
    assert "model.json is missing; was the run interrupted" in complaint(look, path)
    train(config)
    again, before = json.loads((path / "model.json").read_text()), json.loads(before)
    assert again["reference"].pop("model") != before["reference"].pop("model")  # where the copy has its base
    assert again == before


def test_a_broken_result_is_written_again_where_it_is_deleted(run):
    setup = prepare(run[0])
    base = base_path(setup)
    before = read_result(base)
    cut(base / "result.json")
    assert f"run: {base}/result.json cannot be read (" in complaint(read_result, base)
    (base / "result.json").unlink()
    assert read_result(ensure_base(setup)) == before
    shutil.rmtree(base / "checkpoints" / "reference")
    assert f"is missing, the model of a finished fit; delete {base}/result.json, and" in complaint(train, run[0])
    (base / "result.json").unlink()
    assert read_result(ensure_base(setup)) == before


def test_a_damaged_checkpoint_is_named_with_the_one_before_it(run):
    config, path = run
    (path / "checkpoints" / "6" / "state" / "_METADATA").unlink()
    for act, argument in ((look, path), (train, config)):
        sentence = complaint(act, argument)
        assert sentence.startswith(f"run: {path}/checkpoints/6 cannot be read (")
        assert "or delete it: the run goes on from step 4" in sentence
    shutil.rmtree(path / "checkpoints" / "6")
    assert train(config) == path
    look(path)
    (path / "checkpoints" / "reference" / "_METADATA").unlink()
    assert f"delete {path}/checkpoints/reference: the command" in complaint(look, path)
    shutil.rmtree(path / "checkpoints" / "reference")
    train(config)
    look(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer/tokenizer.json", "tokenizer' (tokenizer.json was cut off or changed: "),
        ("tokenizer/tokenizer_config.json", "tokenizer' (tokenizer_config.json was cut off or changed: "),
        ("data/held_out.npz", "cannot read the prompts in "),
        ("data/held_out.json", "One of held_out.npz, .parquet and .json is missing or was cut off; restore"),
    ],
)
def test_other_files_are_named(run, name, words):
    cut(run[1] / name)
    assert words in complaint(look, run[1])


def test_the_record_of_the_prompts_is_made_anew_where_it_is_deleted(run):
    config, path = run
    cut(path / "data" / "rows.npz")
    assert f"run: {path}/data/rows.npz cannot be read (" in complaint(train, config)
    (path / "data.json").unlink()
    train(config)
    train(config)
