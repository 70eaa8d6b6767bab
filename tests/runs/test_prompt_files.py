"""The same run is the same data: other rows are refused by name, and a run directory is enough to look at the run."""

import json
import shutil

import datasets
import jax
import numpy as np
import pytest

from kljax.command_line import compose
from kljax.config import Config, MeshConfig
from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.runs import digests, directory, evaluation, prompt_files
from kljax.runs.restore import restore
from kljax.training.loop import train

REWARD = """
def judge(prompts, completions, completion_ids, stars, review, log_metric, log_extra, trainer_state):
    assert all(text.startswith(prompt) for text, prompt in zip(review, prompts, strict=True))
    assert all(isinstance(star, int) for star in stars)
    log_metric("longest", max(map(len, completions)))
    log_metric("step", trainer_state.global_step)
    log_extra("ids", [len(ids) for ids in completion_ids])
    return [None if star % 2 else float(len(text)) for star, text in zip(stars, completions, strict=True)]
"""


@pytest.fixture(scope="module")
def launched(tiny_in, tmp_path_factory):
    """A run on a CSV with a reward of one's own, its overrides and its directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "reviews.csv").write_text(
        "review,stars\n" + "".join(f"a review of number {i} with words,{i}\n" for i in range(80))
    )
    (folder / "judge_of_run_data.py").write_text(REWARD)
    overrides = [
        *tiny_in(folder / "runs")[1:], "name=own", "data/source=text", f"data.source.path={folder}/reviews.csv",
        "data.source.column=review", "tokenizer=bpe", "tokenizer.vocab_size=300", "steps=4", "reward=length",
        "data.prompt_fraction=0.4", "data.held_out_fraction=0.2", "pretrain.steps=2", "pretrain.optimizer.warmup_steps=0",
        "+reward.judge={kind: python, function: judge_of_run_data.judge, weight: 1.0, arguments: {}}",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.path", list(__import__("sys").path))
        yield folder, overrides, train(compose(overrides, Config))


def test_what_rewards_log_is_in_the_runs_files(launched):
    *_, path = launched
    lines = directory.read_lines(path / "metrics.jsonl")
    assert [line["reward/logged/step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["reward/logged/longest"] > 0 for line in lines)
    assert all(line["reward/terms/judge"] > 0 for line in lines), "the mean is over the samples to which it applies"
    samples = [sample for line in directory.read_lines(path / "samples.jsonl") for sample in line["samples"]]
    assert all(sample["logged"]["ids"] == len(sample["reverse_kl_exact"]) for sample in samples)


def again(overrides, **changed):
    return train(compose([*overrides, *(f"{key}={value}" for key, value in changed.items())], Config))


def test_the_same_rows_go_on_and_other_rows_are_refused(launched):
    folder, overrides, path = launched
    again(overrides)
    original = (folder / "reviews.csv").read_text()
    record = (path / "data.json").read_text()
    try:
        (folder / "reviews.csv").write_text(original.replace("a review of number 1", "the review of number 1"))
        with pytest.raises(
            UserError, match=r"was made of other data: \d+ of the prompts have other tokens; row \d+ is now \{'review'"
        ):
            again(overrides)
        (folder / "reviews.csv").write_text(original.replace("words,", "words,1"))
        with pytest.raises(UserError, match=r"was made of other data: \d+ of the prompts have other columns; row 0 is now"):
            again(overrides)
        (folder / "reviews.csv").write_text(original + "one more,3\n" * 20)
        with pytest.raises(UserError, match=r"was made of other data: it had 32 prompts, now there are 40"):
            again(overrides)
    finally:
        (folder / "reviews.csv").write_text(original)
    assert (path / "data.json").read_text() == record
    about = json.loads(record)
    assert about["columns"] == {"review": "Value('string')", "stars": "Value('int64')"}
    assert (about["prompts"]["rows"], about["held_out"]["rows"]) == (32, 16)


def test_a_folder_that_was_moved_is_a_whole_run(launched, tmp_path):
    """Its data are gone; the reward is code, and code is not data."""
    folder, _, path = launched
    before = evaluation.evaluate(restore(path, "latest", MeshConfig(data=1, fsdp=1, tensor=1)), compose_evaluation())
    shutil.copytree(path, tmp_path / "moved")
    (folder / "reviews.csv").rename(folder / "elsewhere.csv")
    try:
        after = evaluation.evaluate(
            restore(tmp_path / "moved", "latest", MeshConfig(data=1, fsdp=1, tensor=1)), compose_evaluation()
        )
    finally:
        (folder / "elsewhere.csv").rename(folder / "reviews.csv")
    del before.metrics["time/evaluation"], after.metrics["time/evaluation"]
    assert after.metrics == before.metrics
    assert after.samples == before.samples


def compose_evaluation():
    return compose(["evaluation.prompts=8", "evaluation.samples=2"], Config).evaluation


def edited(file, old, new):
    """The file's text before, after this edit of it."""
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    return before


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("model.json", '"norm_eps": 1e-05', '"norm_eps": 0.1', "belongs to another model: its norm_eps was 0.1, that of this"),
        ("model.json", '"rewards": {}', '"rewards": {"judge": "other"}', None),  # it is no reward model now: nothing to compare
        (
            "tokenizer/tokenizer.json",
            '"type": "ByteLevel"',
            '"type": "Fuse"',
            "belongs to another tokenizer, which gives other",
        ),
        (
            "tokenizer/tokenizer_config.json",
            '"bos_token": "<bos>"',
            '"bos_token": "<pad>"',
            "its bos_token_id was 0, now it is 1",
        ),
    ],
)
def test_another_model_or_tokenizer_is_refused(launched, name, old, new, said):
    """As when config.json or a tokenizer's files are edited between two launches; here it is the run's record of them."""
    *_, overrides, path = launched
    if name == "tokenizer/tokenizer.json":
        values = json.loads((path / name).read_text())
        before, values["decoder"] = (path / name).read_text(), {"type": "Fuse"}
        (path / name).write_text(json.dumps(values))
    else:
        before = edited(path / name, old, new)
    digests.note(path, [name])  # not as damage, which is another sentence
    try:
        if said is None:
            again(overrides)
        else:
            with pytest.raises(UserError, match=said):
                again(overrides)
    finally:
        (path / name).write_text(before)
        digests.note(path, [name])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("jax_enable_x64", True), ("jax_default_prng_impl", "rbg"), ("jax_threefry_partitionable", False)],
)
def test_other_settings_of_jax_are_refused(launched, setting, value):
    *_, overrides, path = launched
    file = path / "environment.json"
    kept = file.read_text()
    assert json.loads(kept)["launches"][0]["numerics"] == {}, "those of JAX"
    told = json.loads(kept)
    told["launches"][0]["numerics"] = {setting: value}
    file.write_text(json.dumps(told))
    digests.note(path, [file.name])
    try:
        with pytest.raises(UserError, match=f"was begun with {setting}={value}, and this process has .*{setting.upper()}"):
            again(overrides)
    finally:
        file.write_text(kept)
        digests.note(path, [file.name])


def test_settings_that_are_not_jaxs_own_are_noted():
    assert directory.numerics() == {}
    with jax.threefry_partitionable(False), jax.default_matmul_precision("highest"):
        assert directory.numerics() == {"jax_threefry_partitionable": False, "jax_default_matmul_precision": "highest"}


def test_prompts_come_back_as_they_were(tmp_path):
    """Also columns of two types, nested ones, and conversations."""
    columns = {"a": ["x", None], "n": [1, 2], "deep": [{"k": [1, 2]}, {"k": []}]}
    talk: list = [[{"role": "user", "content": "ä"}], [{"role": "user", "content": "b"}]]
    tokens, mask = np.array([[0, 1], [2, 3]], np.int32), np.array([[False, True], [True, True]])
    rows = PromptRows(tokens, mask, datasets.Dataset.from_dict(columns), talk, [None, "y"])
    parts = {"held_out": rows}
    prompt_files.record(tmp_path, parts, prompt_files.check(tmp_path, parts), whole=("held_out",))
    found = prompt_files.read(tmp_path, "held_out")
    assert found is not None
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.rows.to_dict() == columns
    assert (found.conversations, found.targets) == (talk, [None, "y"])
    assert prompt_files.read(tmp_path, "prompts") is None
    prompt_files.check(tmp_path, {"held_out": found})
