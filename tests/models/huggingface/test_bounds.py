"""Names that lead out of a directory, sizes that no file has, patterns without end: refused before anything is made of them."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kljax.errors import UserError
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface import peft_configs
from tests.models.huggingface.peft_directories import pairs, source, write_adapter, write_base


@pytest.fixture
def llama(tmp_path):
    return write_base(tmp_path, "llama")


def complaint(folder, **changes):
    with pytest.raises(UserError) as said:
        huggingface.describe(source(folder, **changes))
    return str(said.value)


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "", ".", "a/b.safetensors", "config.json", 3, None])
def test_a_shard_lies_in_its_directory(llama, name):
    tensors = load_file(llama / "model.safetensors")
    where = dict.fromkeys(tensors, "model.safetensors") | {sorted(tensors)[0]: name}
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    said = complaint(llama)
    assert f"says that the tensor '{sorted(tensors)[0]}' is in {json.dumps(name)}; expected the name of" in said


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json"])
def test_a_fifo_is_not_waited_for(llama, file):
    (llama / file).unlink(missing_ok=True)
    if file == "adapter_config.json":
        (llama / "model.safetensors").unlink()
    os.mkfifo(llama / file)
    assert "it is a FIFO, expected a regular file" in complaint(llama)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a number of at most 10,000"),
        ({"num_hidden_layers": 9999}, "num_hidden_layers=9,999 in config.json, but its weights are"),
        ({"num_labels": 10**9}, "num_labels=1000000000; expected a number of at most 100,000"),
        ({"vocab_size": 2**40}, "vocab_size=1099511627776; expected a number of at most 2,147,483,647"),
        (
            {"vocab_size": 10**9},
            "vocab_size=1,000,000,000 in config.json, but no tensor of its weights has an axis of more than 12",
        ),
        ({"hidden_size": 10**6, "head_dim": 4}, "hidden_size=1,000,000 in config.json"),
        ({"intermediate_size": 10**9}, "intermediate_size=1,000,000,000 in config.json"),
        ({"num_attention_heads": 2 * 10**6, "num_key_value_heads": 2}, "not a multiple of the number of attention heads"),
        ({"max_position_embeddings": 2**30}, "has a context of 1,073,741,824 tokens with a head_dim of 4"),
        ({"hidden_size": 0}, "gives 0 for d_model"),
        ({"num_hidden_layers": -1}, "layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": "12"}, "vocab_size"),
        ({"intermediate_size": 12.5}, "intermediate_size"),
        ({"rope_theta": -1.0}, "rope_theta"),
    ],
)
def test_sizes_are_those_of_the_weights(llama, values, reason):
    edit(llama / "config.json", **values)
    assert reason in complaint(llama)


def test_a_context_that_is_too_long_can_be_shortened(llama):
    edit(llama / "config.json", max_position_embeddings=2**30)
    assert huggingface.describe(source(llama, context=64)).config.context == 64


def test_a_tensor_that_holds_nothing_says_no_size(llama):
    tensors = load_file(llama / "model.safetensors") | {"extra": np.zeros((0, 10**6), np.float32)}
    save_file(tensors, llama / "model.safetensors")
    assert "its tensor 'extra' has the shape [0, 1000000], which holds nothing" in complaint(llama)


def test_a_pattern_without_end_is_refused(tmp_path, llama):
    tensors = pairs(llama, {"q_proj": 2})
    adapter = write_adapter(tmp_path / "peft", llama, tensors, target_modules="(((.+)+)+)+x")
    with pytest.raises(UserError, match=r"the pattern '\(\(\(\.\+\)\+\)\+\)\+x' takes more than 0.5 seconds; expected"):
        peft_configs.read(adapter / "adapter_config.json", "model.path").targets("model.layers.0.self_attn.q_proj", True)
    edit(adapter / "adapter_config.json", target_modules=r".*\.(q|v)_proj")
    config = peft_configs.read(adapter / "adapter_config.json", "model.path")
    assert config.targets("model.layers.0.self_attn.q_proj", True)
    assert not config.targets("model.layers.0.self_attn.k_proj", True)


@pytest.mark.parametrize("rank", [-1, 0, 2**40, "2", 2.5, True])
def test_a_rank_is_that_of_its_matrices(tmp_path, llama, rank):
    from tests.models.huggingface.peft_directories import load

    adapter = write_adapter(tmp_path / "peft", llama, pairs(llama, {"q_proj": 2}), r=rank)
    with pytest.raises(UserError, match=r"has r=|has 'base_model"):
        load(adapter)
