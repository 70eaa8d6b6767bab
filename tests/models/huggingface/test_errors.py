"""What is wrong with a Hugging Face directory is said in one sentence before a weight is read; nothing half-written is left."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel, MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import architecture
from kljax.errors import UserError
from kljax.models.classifier import Classifier
from kljax.models.decoder import Decoder
from kljax.models.encoder import MaskedLm
from kljax.models.huggingface import files
from kljax.models.huggingface import models as huggingface

VOCAB, PAD = 12, 0
SIZES: dict[str, Any] = {
    "layers": 2, "d_model": 8, "d_mlp": 12, "heads": 2, "context": 6, "norm_eps": 1e-12, "dropout": 0.0, "dtype": "float32",
    "param_dtype": "float32", "remat": "none", "logit_chunk": 4,
}  # fmt: skip
DECODER: dict[str, Any] = {
    "kind": "decoder", "vocab_chunk": None, "kv_heads": 2, "head_dim": 4, "rope_theta": 1e4, "qk_norm": False,
    "tied_head": False,
}  # fmt: skip
ROTARY: dict[str, Any] = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": "none"}
ENCODER: dict[str, Any] = {"kind": "encoder", "first_position": 0, "segments": 2, "head": "tanh"}
GPT2 = DecoderConfig(**SIZES | DECODER, positions="learned", norm="layer", mlp="gelu", bias="all")
LLAMA = DecoderConfig(**SIZES | DECODER | ROTARY)
QWEN3 = replace(LLAMA, qk_norm=True)
BERT = EncoderConfig(**SIZES | ENCODER)
DISTILBERT = replace(BERT, segments=0, head="relu")
ROBERTA = replace(BERT, first_position=PAD + 1, segments=1)
MODELS = {
    "gpt2": (GPT2, "decoder"),
    "llama": (LLAMA, "decoder"),
    "qwen3": (QWEN3, "decoder"),
    "bert": (BERT, "classifier"),
    "distilbert": (DISTILBERT, "masked_lm"),
    "roberta": (ROBERTA, "classifier"),
    "reward": (LLAMA, "classifier"),
}


def architecture_of(config, kind, vocab=VOCAB):
    makes: dict[str, Any] = {
        "decoder": lambda rngs: Decoder(config, vocab, rngs=rngs),
        "masked_lm": lambda rngs: MaskedLm(config, vocab, rngs=rngs),
        "classifier": lambda rngs: Classifier(config, vocab, 2, rngs=rngs),
    }
    return architecture(makes[kind], meshes.build(MeshConfig(data=1, fsdp=1, tensor=1)))


def random_params(config, kind):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), architecture_of(config, kind).shapes)


def tokenizer(size: int = VOCAB) -> PreTrainedTokenizerFast:
    vocab = {f"w{i}": i for i in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(tokenizer_models.WordLevel(vocab)), pad_token="w0", bos_token="w1", eos_token="w2"
    )


def source(path, **changes) -> HuggingFaceModel:
    values = {key: SIZES[key] for key in ("dropout", "dtype", "param_dtype", "remat", "logit_chunk")}
    return HuggingFaceModel(
        **{"kind": "huggingface", "vocab_chunk": None, "path": str(path), "context": None} | values | changes
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for name, (config, kind) in MODELS.items():
        huggingface.save(root / name, kind, config, VOCAB, random_params(config, kind), tokenizer(), "float32")
    return root


@pytest.fixture
def directory(originals, tmp_path):
    """directory(name): a copy to spoil."""
    return lambda name: Path(shutil.copytree(originals / name, tmp_path / name))


def change_config(path: Path, **changes) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def complaint(path, kind="decoder", **changes) -> str:
    """The one sentence that a look at the directory, or reading it, gives."""
    with pytest.raises(UserError) as error:
        pretrained = huggingface.describe(source(path, **changes))
        arch = architecture_of(pretrained.config, kind, pretrained.vocab_size)
        huggingface.load_params(pretrained, kind, arch.shapes, arch.shardings)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture(autouse=True)
def no_weight_may_be_read(monkeypatch):
    def read_block(*_, **__):
        raise AssertionError("a weight was read before all was checked")

    monkeypatch.setattr(files, "read_block", read_block)


def test_a_missing_tensor_is_named(directory):
    path = directory("llama")
    change_weights(path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert complaint(path) == f"'{path}' has no tensor 'model.layers.1.mlp.up_proj.weight', which its config.json speaks of."


@pytest.mark.parametrize(
    ("name", "kind", "tensor"),
    [
        ("llama", "decoder", "lm_head.weight"),
        ("reward", "classifier", "score.weight"),
        ("bert", "classifier", "classifier.weight"),
        ("bert", "classifier", "bert.pooler.dense.bias"),
        ("distilbert", "masked_lm", "vocab_projector.bias"),
        ("roberta", "classifier", "classifier.dense.weight"),
    ],
)
def test_a_head_is_there_as_a_whole_or_not_at_all(name, kind, tensor, directory):
    path = directory(name)
    change_weights(path, lambda tensors: tensors.pop(tensor, None))
    assert f"has no tensor '{tensor}'" in complaint(path, kind)


def test_half_a_pooler_is_not_enough_where_no_head_is_claimed(directory):
    path = directory("bert")
    change_config(path, architectures=["BertModel"])
    change_weights(path, lambda tensors: [tensors.pop(f"classifier.{end}") for end in ("weight", "bias")])
    change_weights(path, lambda tensors: tensors.pop("bert.pooler.dense.bias"))
    assert "has no tensor 'bert.pooler.dense.bias'" in complaint(path, "classifier")


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("gpt2", "transformer.h.2.ln_1.weight"),
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("llama", "model.layers.0.self_attn.q_norm.weight"),
        ("llama", "lm_head.bias"),
        ("qwen3", "visual.weight"),
    ],
)
def test_a_tensor_too_many_is_named(name, extra, directory):
    path = directory(name)
    change_weights(path, lambda tensors: tensors.update({extra: np.zeros(8, np.float32)}))
    assert complaint(path).startswith(f"'{path}' has the tensor '{extra}', for which a model of its config.json has no place")


@pytest.mark.parametrize(
    ("name", "tensor", "found", "expected"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", [8, 8], [8, 24]),
        ("gpt2", "transformer.wpe.weight", [7, 8], [6, 8]),
        ("llama", "model.layers.0.mlp.up_proj.weight", [8, 12], [12, 8]),
        ("llama", "model.embed_tokens.weight", [13, 8], [12, 8]),
    ],
)
def test_a_shape_that_disagrees_is_named_with_the_other(name, tensor, found, expected, directory):
    path = directory(name)
    change_weights(path, lambda tensors: tensors.update({tensor: np.zeros(found, np.float32)}))
    start = f"'{tensor}' in '{path}/model.safetensors' has the shape {found}; expected {expected}"
    assert complaint(path).startswith(start)
    assert complaint(path, context=3).startswith(start)


def test_a_head_of_other_outputs_than_the_config_names_is_refused(directory):
    path = directory("bert")
    change_config(path, id2label={"0": "a", "1": "b", "2": "c"})
    assert "has a head 'classifier.weight' of 2 outputs, but names 3" in complaint(path, "classifier")


def test_quantised_numbers_are_refused(directory):
    path = directory("llama")
    change_weights(path, lambda tensors: tensors.update({"model.norm.weight": np.zeros(8, np.int8)}))
    assert complaint(path) == (
        f"'model.norm.weight' in '{path}/model.safetensors' has the type I8; expected one of F64, F32, F16, BF16."
    )


def test_an_unknown_architecture_is_told_what_is_supported(directory):
    path = directory("llama")
    change_config(path, model_type="mamba")
    assert complaint(path) == (
        f"model.path: '{path}' is of the architecture 'mamba', expected one of GPT-2 (gpt2), Llama (llama), Mistral (mistral), "
        "Qwen2 and Qwen2.5 (qwen2), Qwen3 (qwen3), SmolLM3 (smollm3), OLMo 2 (olmo2), BERT (bert), DistilBERT (distilbert), "
        "RoBERTa (roberta)."
    )


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function='relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type='dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial"),
        ("llama", {"attention_bias": True}, "attention_bias=True and mlp_bias=False"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "model.context=4"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_its_key(name, changes, words, directory):
    path = directory(name)
    change_config(path, **changes)
    sentence = complaint(path)
    assert sentence.startswith(f"model.path: '{path}' ")
    assert words in sentence


def test_a_value_of_a_wrong_type_is_named(directory):
    path = directory("llama")
    change_config(path, hidden_size="large")
    sentence = complaint(path)  # the reason is in the words of transformers, where its version checks types
    assert sentence.startswith("model.path: ")
    assert str(path) in sentence
    assert "large" in sentence


def test_a_size_that_makes_no_model_is_named(directory):
    path = directory("llama")
    change_config(path, num_hidden_layers=0)
    assert complaint(path) == f"model.path: '{path}' gives 0 for layers: Input should be greater than or equal to 1."


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta"])
def test_a_context_beyond_the_models_own_is_refused(name, directory):
    path = directory(name)
    assert complaint(path, context=7) == (
        f"model.path: '{path}' was made for 6 tokens at most, got context=7; expected no more, or null for all."
    )


@pytest.mark.parametrize("kept", [0, 5, 100, 2000])
def test_a_truncated_file_is_named_with_its_size(kept, directory):
    path = directory("llama")
    file = path / "model.safetensors"
    assert file.stat().st_size > 2000
    file.write_bytes(file.read_bytes()[:kept])
    start = f"model.path: cannot read '{file}' of {kept:,} bytes, which is no safetensors file or is cut off ("
    assert complaint(path).startswith(start)


def test_pickled_weights_are_refused_unopened_with_the_way_to_convert_them(directory, tmp_path):
    path = directory("llama")
    (path / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/opened",)

    import pickle

    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    sentence = complaint(path)
    assert sentence.startswith(f"model.path: '{path}' has only pickled weights (pytorch_model.bin)")
    assert "save_pretrained" in sentence
    assert not (tmp_path / "opened").exists()


def test_a_directory_without_weights_is_named(directory):
    path = directory("llama")
    (path / "model.safetensors").unlink()
    assert complaint(path).startswith(f"model.path: '{path}' has no weights; expected model.safetensors")


def test_an_absent_file_of_several_is_named(directory):
    path = directory("llama")
    names = sorted(load_file(path / "model.safetensors"))
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert "has no model-00002-of-00002.safetensors, which model.safetensors.index.json speaks of" in complaint(path)
    (path / "model.safetensors.index.json").write_text("{}")
    assert "index.json' has no weight_map" in complaint(path)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "has no config.json"), ("{", "cannot read"), ("[]", "holds []; expected a JSON object")]
)
def test_a_config_that_is_absent_or_broken_is_named(content, words, directory):
    path = directory("llama")
    (path / "config.json").unlink()
    if content is not None:
        (path / "config.json").write_text(content)
    assert words in complaint(path)


def test_a_path_that_is_no_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent", tmp_path / "file"):
        assert complaint(path).startswith(f"model.path: '{path}' is no directory; expected one with config.json")


def test_a_hub_name_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert complaint("someone/model").startswith("model.path: no directory 'someone/model', and no model of that name")


def test_messages_begin_with_the_field_that_is_given(tmp_path):
    with pytest.raises(UserError, match=r"^reference\.path: "):
        huggingface.describe(source(tmp_path / "absent"), "reference.path")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(directory):
    pretrained = huggingface.describe(source(directory("llama")))
    huggingface.check_tokenizer(pretrained, tokenizer())
    with pytest.raises(UserError, match=r"^tokenizer: the tokenizer has 13 tokens, but the model in '.*' only 12; expected"):
        huggingface.check_tokenizer(pretrained, tokenizer(VOCAB + 1))


def test_a_fingerprint_changes_with_the_weights_and_the_config_alone(directory):
    path = directory("llama")
    seen = [huggingface.describe(source(path, dropout=dropout)).fingerprint for dropout in (0.0, 0.1)]
    assert seen[0] == seen[1]
    change_weights(path, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"] + 1e-6}))
    seen.append(huggingface.describe(source(path)).fingerprint)
    change_config(path, rms_norm_eps=1e-6)
    seen.append(huggingface.describe(source(path)).fingerprint)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        (replace(GPT2, norm="rms"), "decoder", "the nearest, GPT-2, would need model.norm=layer (it is rms)."),
        (replace(GPT2, kv_heads=1), "decoder", "the nearest, GPT-2, would need model.kv_heads=2, as many as heads (it is 1)."),
        (replace(GPT2, head_dim=8), "decoder", "GPT-2, would need model.head_dim=4, d_model/heads (it is 8)."),
        (replace(QWEN3, bias="all"), "decoder", "would need model.qk_norm=false (it is true)."),
        (replace(LLAMA, bias="qkv", head_dim=8), "decoder", "Llama, would need model.bias=none or all (it is qkv)."),
        (replace(LLAMA, norm="layer"), "classifier", "would need model.norm=rms (it is layer)."),
        (replace(BERT, head="relu"), "classifier", "BERT, would need model.head=tanh (it is relu)."),
        (replace(DISTILBERT, norm_eps=1e-5), "masked_lm", "DistilBERT, would need model.norm_eps=1e-12 (it is 1e-05)."),
    ],
)
def test_parts_that_no_architecture_has_are_refused_with_what_would_do(config, kind, words, tmp_path):
    with pytest.raises(UserError) as error:
        huggingface.check_exportable(config, kind)
    assert str(error.value).startswith("model: no Hugging Face architecture has these parts; the nearest, ")
    assert words in str(error.value)
    with pytest.raises(UserError):
        huggingface.save(tmp_path / "out", kind, config, VOCAB, {}, tokenizer(), "float32")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_transformers_would_not_read_back_is_refused():
    with pytest.raises(UserError, match=r"^tokenizer: transformers makes a Qwen2Tokenizer of whatever"):
        huggingface.check_exportable(replace(LLAMA, bias="qkv"), "decoder", tokenizer())
    with pytest.raises(UserError, match=r"^model\.first_position: got 2, but RoBERTa's positions begin after the padding"):
        huggingface.check_exportable(replace(ROBERTA, first_position=2), "masked_lm", tokenizer())
    huggingface.check_exportable(ROBERTA, "masked_lm", tokenizer())


def test_a_directory_that_is_not_empty_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    params = random_params(GPT2, "decoder")
    huggingface.save(tmp_path / "out", "decoder", GPT2, VOCAB, params, tokenizer(), "float32")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"out' is there already; expected a directory that is not there yet, or is empty\.$"):
        huggingface.save(tmp_path / "out", "decoder", GPT2, VOCAB, params, tokenizer(), "float32")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder: Path, *_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_weights", fail)
    with pytest.raises(KeyboardInterrupt):
        huggingface.save(tmp_path / "out", "decoder", GPT2, VOCAB, random_params(GPT2, "decoder"), tokenizer(), "float32")
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import json, sys
import jax
from kljax.config import HuggingFaceModel, MeshConfig
from kljax.models.huggingface import models as huggingface
from kljax.models.decoder import Decoder
from kljax.devices import mesh
from kljax.devices.state import architecture

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

pretrained = huggingface.describe(HuggingFaceModel(
    kind="huggingface", path=sys.argv[1], context=None, dropout=0.0, dtype="float32", param_dtype="float32", remat="none",
    logit_chunk=4, vocab_chunk=None,
))
meshed = mesh.build(MeshConfig(data=1, fsdp=1, tensor=1))
arch = architecture(lambda rngs: Decoder(pretrained.config, pretrained.vocab_size, rngs=rngs), meshed)
jax.block_until_ready(jax.device_put(0.0, mesh.replicated(meshed)))
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS")
params = jax.block_until_ready(huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings))
shards = sum(shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards)
print(json.dumps({"beyond": status("VmHWM") - before - shards, "shards": shards}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure the memory of a process")
def test_the_host_holds_no_more_than_the_largest_tensor_beside_the_shards(tmp_path):
    config, vocab = replace(LLAMA, d_model=256, heads=4, head_dim=64, layers=1), 60_000
    shapes = architecture_of(config, "decoder", vocab).shapes
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    huggingface.save(tmp_path / "out", "decoder", config, vocab, params, tokenizer(), "float32")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "out")]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    largest = 4 * vocab * 256
    assert measured["shards"] > 2 * largest
    assert measured["beyond"] < 1.2 * largest
