"""A model of someone else's comes in, is trained against a reward model inside the compiled step, and goes back out."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from transformers import GenerationConfig

from kljax.command_line import compose
from kljax.config import Config, EncoderConfig, HuggingFaceModel
from kljax.data import grammar, tokenizers
from kljax.errors import UserError
from kljax.models.classifier import Classifier
from kljax.models.decoder import Decoder
from kljax.models.huggingface import models as huggingface
from kljax.runs import config_file, digests, directory
from kljax.runs.adapter import cast
from kljax.runs.reference import first_reference
from kljax.runs.restore import restore
from kljax.runs.setup import prepare
from kljax.training.loop import train
from kljax.training.trainer import MAX_KL_AT_START
from tests.e2e.test_scripts import call
from tests.models.huggingface.peft_directories import pairs, write_adapter

SOURCE = {
    "kind": "huggingface",
    "context": None,
    "dropout": 0.0,
    "dtype": "float32",
    "remat": "none",
    "logit_chunk": 16,
    "vocab_chunk": None,
}


@pytest.fixture(scope="module")
def models(tiny_in, tmp_path_factory):
    """A Llama and a reward model of the grammar's words, as Hugging Face directories."""
    folder = tmp_path_factory.mktemp("models")
    overrides = ["model=llama", "model.layers=1", "model.d_model=16", "model.d_mlp=24", "model.heads=2", "model.kv_heads=1"]
    config = compose([*overrides, "model.head_dim=8"], Config).model
    words = tokenizers.build(compose([], Config).tokenizer, grammar.sample_sentences(400, 0))
    decoder = nnx.to_pure_dict(nnx.state(Decoder(config, len(words), rngs=nnx.Rngs(0))))
    ends = [words.eos_token_id, words.get_vocab()["."], words.get_vocab()["film"]]
    huggingface.save(folder / "llama", "decoder", config, len(words), decoder, words, "float32", ends=ends)
    other = jax.tree.map(lambda p: 2 * p, decoder)
    huggingface.save(folder / "other", "decoder", config, len(words), other, words, "float32")
    scorer = nnx.to_pure_dict(nnx.state(Classifier(config, len(words), 1, rngs=nnx.Rngs(1))))
    scorer = jax.tree.map(lambda p: 10 * p, scorer)
    huggingface.save(folder / "scorer", "classifier", config, len(words), scorer, words, "float32", ["score"])
    return folder


@pytest.fixture
def overrides(models, tiny_overrides):
    """A run of seconds from the Llama, with LoRA, against the reward model on its tokens; VADER is only reported."""
    llama = models / "llama"
    kept = [override for override in tiny_overrides if not override.startswith(("model.", "pretrain.steps"))]
    return [
        *kept, "model=huggingface", f"model.path={llama}", "tokenizer=pretrained", f"tokenizer.path={llama}",
        "pretrain.steps=0", "adapter=lora", "adapter.rank=2", "reward=[model,vader]",
        f"reward.model.arguments.path={models / 'scorer'}", "reward.vader.weight=0.0",
        "optimizer.learning_rate=0.05", "kl.beta=0.0",
    ]  # fmt: skip


def read_back(path, setup, base=None):
    pretrained = huggingface.describe(HuggingFaceModel(path=str(path), base=base, param_dtype="float32", **SOURCE))
    arch = setup.architecture
    return huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings)


def test_in_through_training_and_out_again(overrides, models, tmp_path, compilation_cache, capsys):
    """Restored and exported without the files that it came from."""
    copy = tmp_path / "copy"
    shutil.copytree(models / "llama", copy)
    overrides = [*overrides, "rollout.temperature=0.9"]
    config = compose([override.replace(str(models / "llama"), str(copy)) for override in overrides], Config)
    edit(copy / "generation_config.json", temperature=0.9, repetition_penalty=1.1)
    setup = prepare(config)
    path = train(config)
    assert not (path.parents[1] / "bases").exists()  # the model is taken as it is: no copy of it is made
    told = capsys.readouterr().out
    assert "A completion ends with <eos> (2), . (4) or film (11), as generation_config.json says.\n" in told
    assert "This run does not follow repetition_penalty=1.1 of generation_config.json: it samples" in told
    assert json.loads((path / "model.json").read_text())["generation_config_not_followed"] == {"repetition_penalty": 1.1}
    check_that_other_ends_are_not_resumed(config, path, copy)
    shutil.rmtree(copy)
    metrics = directory.read_lines(path / "metrics.jsonl")
    assert metrics[0]["kl/reverse_exact_tok_max"] < MAX_KL_AT_START["float32"]
    assert metrics[-1]["kl/reverse_exact_tok"] > 1e-4
    assert all(line["reward/mean"] == line["reward/terms/model"] != line["reward/terms/vader"] for line in metrics)
    assert metrics[0]["reward/terms/model"] != metrics[-1]["reward/terms/model"]
    original = read_back(models / "llama", setup)
    assert jax.tree.all(jax.tree.map(np.array_equal, restore(path, "latest", config.mesh).reference, original))

    out = tmp_path / "exported"
    cache = f"compilation_cache={compilation_cache}"
    call("export.py", cache, f"run={path}", f"out={out}", "step=4")
    merged = restore(path, 4, config.mesh).policy
    assert jax.tree.all(jax.tree.map(np.array_equal, read_back(out, setup), merged))
    written = json.loads((out / "config.json").read_text())
    assert (written["architectures"], written["eos_token_id"]) == (["LlamaForCausalLM"], [2, 4, 11])
    theirs = GenerationConfig.from_pretrained(out)
    assert (theirs.eos_token_id, theirs.do_sample, theirs.temperature, theirs.top_k) == ([2, 4, 11], True, 0.9, 0)
    assert str(out) in call("export.py", cache, f"run={path}", f"out={out}", code=2)  # it is there already

    alone, asked = tmp_path / "adapter", [cache, f"run={path}", "merge=false", "step=4"]
    said = call("export.py", *asked, f"out={alone}", code=2)
    assert f"model.path: '{copy}' is no directory" in said
    assert "say so with base=DIR" in said
    said = call("export.py", *asked, f"out={alone}", f"base={models / 'other'}", code=2)
    assert "is not the one that the adapters of" in said
    assert "embed.embedding differs" in said
    call("export.py", *asked, f"out={alone}", f"base={models / 'llama'}")
    values = json.loads((alone / "adapter_config.json").read_text())
    assert (values["base_model_name_or_path"], values["revision"]) == (str(models / "llama"), None)
    for policy, again in zip(jax.tree.leaves(merged), jax.tree.leaves(read_back(alone, setup)), strict=True):
        np.testing.assert_allclose(again, policy, atol=1e-6)
    said = call("export.py", cache, f"run={path}", f"out={tmp_path / 'x'}", f"base={models / 'llama'}", code=2)
    assert "base: got" in said
    assert "with merge=true" in said


def test_an_adapter_is_policy_reference_and_reward(overrides, models, tmp_path):
    """The policy begins as base and adapter together; held to the base, it is away from it at once."""
    rng = np.random.default_rng(0)
    adapters = {}
    for name, setup, head in (("llama", "CAUSAL_LM", {}), ("scorer", "SEQ_CLS", {"modules_to_save": ["score"]})):
        tensors = pairs(models / name, {"q_proj": 2, "up_proj": 2})
        if head:
            tensors["score.weight"] = rng.standard_normal((1, 16)).astype(np.float32)
        targets = ["q_proj", "up_proj"]
        adapters[name] = write_adapter(tmp_path / name, models / name, tensors, target_modules=targets, task_type=setup, **head)
    chosen = [f"model.path={adapters['llama']}", f"reference.path={models / 'llama'}", "adapter.targets=[q,gate]", "steps=2"]
    chosen += [f"reward.model.arguments.path={adapters['scorer']}", "optimizer.warmup_steps=0"]
    config = compose([*overrides, *chosen], Config)
    path = train(config)
    first = directory.read_lines(path / "metrics.jsonl")[0]
    assert first["kl/reverse_exact_tok"] > 1e-3
    setup = prepare(config)
    restored = restore(path, "latest", config.mesh)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.base, read_back(adapters["llama"], setup)))
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.reference, read_back(models / "llama", setup)))
    held = prepare(compose([*overrides, f"reference.path={adapters['llama']}"], Config))
    assert jax.tree.all(jax.tree.map(np.array_equal, first_reference(held, None), restored.base))
    moved = write_adapter(
        tmp_path / "moved", None, pairs(models / "llama", {"q_proj": 2, "up_proj": 2}), target_modules=targets
    )
    held = prepare(compose([*overrides, f"reference.path={moved}", f"reference.base={models / 'llama'}"], Config))
    assert jax.tree.all(jax.tree.map(np.array_equal, first_reference(held, None), restored.base))
    said = call("export.py", f"run={path}", f"out={tmp_path / 'x'}", "merge=false", code=2)
    assert "is an adapter itself, and PEFT's files name a whole model as their base" in said


def test_adapters_of_a_run_that_has_none_or_whose_base_has_no_name_are_refused(tiny, tmp_path):
    for options, words in (
        (["run.variant=all"], "has no adapters (adapter=none); expected true."),
        (
            ["adapter=lora", "run.variant=lora"],
            "was fitted here (pretrain.steps=20) and has no name that PEFT could load it by",
        ),
    ):
        config = tiny(*options)
        path = config_file.run_path(config)
        directory.create(path, "rl", directory.to_dict(config))
        said = call("export.py", f"run={path}", f"out={tmp_path / 'x'}", "merge=false", code=2)
        assert said.startswith("kljax: merge: got false, but ")
        assert words in said


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def check_that_other_ends_are_not_resumed(config, path, model):
    """Nor with those of a run from before they were recorded, which ended with the tokenizer's own alone."""
    recorded = (path / "model.json").read_text()
    assert restore(path, "latest", config.mesh).setup.sampler(1).eos_ids == (2, 4, 11)
    edit(model / "generation_config.json", eos_token_id=[2, 4], temperature=0.5)
    expected = (
        r"its completions end with <eos> \(2\), . \(4\) or film \(11\), those of this launch with <eos> \(2\) or . \(4\), "
    )
    with pytest.raises(UserError, match=expected):
        train(config)
    assert (path / "model.json").read_text() == recorded
    older = {key: value for key, value in json.loads(recorded).items() if key != "ends"}
    (path / "model.json").write_text(json.dumps(older))
    digests.note(path, ["model.json"])
    assert restore(path, "latest", config.mesh).setup.sampler(1).eos_ids == (2,)
    with pytest.raises(
        UserError,
        match=r"end with <eos> \(2\), those of this launch with <eos> \(2\) or . \(4\), as gen.*the eos_token_id \[2\] ",
    ):
        train(config)
    (path / "model.json").write_text(recorded)
    digests.note(path, ["model.json"])


def test_what_a_run_cannot_do_as_the_model_asks_is_refused_before_anything_is_written(overrides, models, tmp_path):
    shutil.copytree(models / "llama", tmp_path / "copy")
    edit(tmp_path / "copy" / "generation_config.json", suppress_tokens=[7])
    overrides = [override.replace(str(models / "llama"), str(tmp_path / "copy")) for override in overrides]
    said = call("train.py", *overrides, code=2)
    assert f"'{tmp_path}/copy/generation_config.json' has suppress_tokens=[7]: it forces or forbids tokens" in said
    assert not (tmp_path / "runs").exists()


def test_a_base_model_ends_as_the_one_that_it_came_from(overrides, tmp_path):
    """Without a way of sampling: none was trained with."""
    call("pretrain.py", *overrides, f"run.export_to={tmp_path / 'out'}")
    expected = {"bos_token_id": 1, "eos_token_id": [2, 4, 11], "pad_token_id": 0}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == expected
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [2, 4, 11]


def test_a_hugging_face_directory_is_a_reference(overrides, models):
    setup = prepare(compose([*overrides, f"reference.path={models / 'llama'}", "reference.dtype=bfloat16"], Config))
    expected = cast(read_back(models / "llama", setup), "bfloat16")
    assert jax.tree.all(jax.tree.map(np.array_equal, first_reference(setup, None), expected))


def test_an_encoder_is_refused_as_a_policy(tiny_overrides):
    kept = [override for override in tiny_overrides if not override.startswith("model.")]
    with pytest.raises(UserError, match=r"model: got an encoder, which writes no text; expected a decoder"):
        train(compose([*kept, "model=bert"], Config))
    assert isinstance(compose([*kept, "model=bert"], Config).model, EncoderConfig)
