"""A model of someone else's comes in, is trained against a reward model inside the compiled step, and goes back out."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from kljax.command_line import compose
from kljax.config import Config, EncoderConfig, HuggingFaceModel
from kljax.data import grammar, tokenizers
from kljax.errors import UserError
from kljax.models import huggingface
from kljax.models.classifier import Classifier
from kljax.models.decoder import Decoder
from kljax.training import run_directory
from kljax.training.adaptation import cast
from kljax.training.loop import MAX_KL_AT_START, train
from kljax.training.references import first_reference
from kljax.training.restore import restore
from kljax.training.task import prepare
from tests.e2e.test_scripts import call

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
    huggingface.save(folder / "llama", "decoder", config, len(words), decoder, words, "float32")
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


def read_back(path, task):
    pretrained = huggingface.describe(HuggingFaceModel(path=str(path), param_dtype="float32", **SOURCE))
    arch = task.architecture
    return huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings)


def test_in_through_training_and_out_again(overrides, models, tmp_path, compilation_cache):
    """Restored and exported without the files that it came from."""
    copy = tmp_path / "copy"
    shutil.copytree(models / "llama", copy)
    config = compose([override.replace(str(models / "llama"), str(copy)) for override in overrides], Config)
    task = prepare(config)
    path = train(config)
    shutil.rmtree(copy)
    metrics = run_directory.read_lines(path / "metrics.jsonl")
    assert metrics[0]["kl/reverse_exact_tok_max"] < MAX_KL_AT_START["float32"]
    assert metrics[-1]["kl/reverse_exact_tok"] > 1e-4
    assert all(line["reward/mean"] == line["reward/terms/model"] != line["reward/terms/vader"] for line in metrics)
    assert metrics[0]["reward/terms/model"] != metrics[-1]["reward/terms/model"]
    original = read_back(models / "llama", task)
    assert jax.tree.all(jax.tree.map(np.array_equal, restore(path, "latest", config.mesh).reference, original))

    out = tmp_path / "exported"
    cache = f"compilation_cache={compilation_cache}"
    call("export.py", cache, f"run={path}", f"out={out}", "step=4")
    merged = restore(path, 4, config.mesh).policy
    assert jax.tree.all(jax.tree.map(np.array_equal, read_back(out, task), merged))
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert str(out) in call("export.py", cache, f"run={path}", f"out={out}", code=2)  # it is there already


def test_a_hugging_face_directory_is_a_reference(overrides, models):
    task = prepare(compose([*overrides, f"reference.path={models / 'llama'}", "reference.dtype=bfloat16"], Config))
    expected = cast(read_back(models / "llama", task), "bfloat16")
    assert jax.tree.all(jax.tree.map(np.array_equal, first_reference(task, None), expected))


def test_an_encoder_is_refused_as_a_policy(tiny_overrides):
    kept = [override for override in tiny_overrides if not override.startswith("model.")]
    with pytest.raises(UserError, match=r"model: got an encoder, which writes no text; expected a decoder"):
        train(compose([*kept, "model=bert"], Config))
    assert isinstance(compose([*kept, "model=bert"], Config).model, EncoderConfig)
