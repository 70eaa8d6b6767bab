"""A run whose files were cut off or lost: one sentence names the file and the cause, and what it proposes works."""

import json
import shutil

import pytest

from kljax.config import MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import params_hash
from kljax.errors import UserError
from kljax.fitting.fit import ensure_base, read_result
from kljax.runs.checkpoints import load_params
from kljax.runs.models import as_directory
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
    """Wherever it was cut: what is left is YAML in most places. Here of an older version, which kept no digests."""
    config, path = run
    file = path / "config.yaml"
    (path / "manifest.json").unlink()
    whole = "".join(file.read_text().splitlines(keepends=True)[2:])  # without format and kind
    for size in range(len(whole) // 10, len(whole), len(whole) // 10):
        file.write_text(whole[:size])
        for act, argument in ((look, path), (train, config)):
            sentence = complaint(act, argument)
            assert str(file) in sentence, sentence
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
        assert complaint(act, argument).startswith(f"run: {path}/model.json has ")
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
    assert f"run: {base}/result.json has " in complaint(read_result, base)
    (base / "result.json").unlink()
    assert read_result(ensure_base(setup)) == before
    arch = setup.architecture
    for part in ("fitted", "reference"):
        was = params_hash(load_params(base, arch.shapes, arch.shardings, part))
        shutil.rmtree(base / "checkpoints" / part)
        assert read_result(ensure_base(setup)) == before
        assert params_hash(load_params(base, arch.shapes, arch.shardings, part)) == was


def strip_times(line):
    return {name: value for name, value in json.loads(line).items() if not name.startswith(("time/", "memory/"))}


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(run, capsys):
    config, path = run
    (path / "checkpoints" / "6" / "state" / "_METADATA").unlink()
    sentence = complaint(look, path)
    assert sentence.startswith(f"run: {path}/checkpoints/6/state/_METADATA is missing; restore it from a copy, or")
    assert f"delete {path}/checkpoints/6: the run goes on from step 4" in sentence
    before = (path / "metrics.jsonl").read_bytes()
    assert train(config) == path
    said = "".join(capsys.readouterr().out.split())
    assert "checkpoints/6/state/_METADATAismissing.Itissetaside,in" in said
    assert (path / "checkpoints" / "set_aside" / "6").is_dir()
    assert [strip_times(line) for line in before.splitlines()] == [
        strip_times(line) for line in (path / "metrics.jsonl").read_bytes().splitlines()
    ]
    look(path)
    (path / "checkpoints" / "reference" / "_METADATA").unlink()
    assert f"delete {path}/checkpoints/reference: the command" in complaint(look, path)
    shutil.rmtree(path / "checkpoints" / "reference")
    train(config)
    look(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer/tokenizer.json", "tokenizer: the command that began the run writes it again."),
        ("tokenizer/tokenizer_config.json", "tokenizer: the command that began the run writes it again."),
        ("data/held_out.npz", "data.json: the command that began the run then notes its prompts again."),
        ("data/held_out.json", "data.json: the command that began the run then notes its prompts again."),
    ],
)
def test_other_files_are_named(run, name, words):
    cut(run[1] / name)
    sentence = complaint(look, run[1])
    assert sentence.startswith(f"run: {run[1] / name} has ")
    assert sentence.endswith(words)
    (run[1] / "data.json" if name.startswith("data") else run[1] / "tokenizer").rename(run[1] / "away")
    train(run[0])
    look(run[1])


def test_held_out_prompts_that_are_lost_are_not_made_of_what_the_data_are_now(run):
    (run[1] / "data" / "held_out.npz").unlink()
    assert complaint(look, run[1]).startswith(f"run: {run[1]}/data/held_out.npz is missing; ")


def test_beginning_from_an_older_run_leaves_it_as_it_was(run):
    """It has no digests: a manifest of what is exported alone would say that all else was changed."""
    _, path = run
    (path / "manifest.json").unlink()
    text = "".join((path / "config.yaml").read_text().splitlines(keepends=True)[2:])  # without format and kind
    (path / "config.yaml").write_text(text)
    mesh = meshes.build(MeshConfig(data=1, fsdp=1, tensor=1))
    assert as_directory(f"{path}@6", "model.path", mesh) == str(path / "exported" / "6")
    look(path)
    assert as_directory(f"{path}@6", "model.path", mesh) == str(path / "exported" / "6")


def test_the_record_of_the_prompts_is_made_anew_where_it_is_deleted(run):
    config, path = run
    cut(path / "data" / "rows.npz")
    assert f"run: {path}/data/rows.npz has " in complaint(train, config)
    (path / "data.json").unlink()
    train(config)
    train(config)
