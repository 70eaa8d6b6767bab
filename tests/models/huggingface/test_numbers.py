"""Weights that are no finite numbers, or are none in the type that is asked for, are refused by file and tensor."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kljax.errors import UserError
from kljax.models.huggingface import models as huggingface
from tests.models.huggingface.peft_directories import (
    WEIGHTS,
    architecture_of,
    load,
    pairs,
    source,
    tokenizer,
    write_adapter,
    write_base,
)

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def llama(tmp_path):
    return write_base(tmp_path, "llama")


def plant(file, name, value, dtype=np.float32):
    """All tensors in this type, one number of one of them in another way."""
    tensors = {key: tensor.astype(dtype) for key, tensor in load_file(file).items()}
    tensors[name][-1, 1] = value
    save_file(tensors, file)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_number_that_is_not_finite_is_named_with_its_tensor_and_file(llama, dtype, value):
    load(llama)
    plant(llama / "model.safetensors", NAME, value, dtype)
    with pytest.raises(UserError) as raised:
        load(llama)
    assert str(raised.value).startswith(f"'{NAME}' in '{llama}/model.safetensors' holds {value}, expected finite numbers.")


@pytest.mark.parametrize(("value", "dtype"), [(1e39, "float32"), (-3.402e38, "bfloat16")])
def test_a_number_that_the_asked_type_has_no_room_for_is_not_made_infinite(llama, value, dtype):
    plant(llama / "model.safetensors", NAME, value, np.float64)
    with pytest.raises(UserError) as raised:
        load(llama, param_dtype=dtype)
    expected = {"float32": "smaller numbers", "bfloat16": "float32"}[dtype]
    assert f"model.safetensors' holds {value:g}, for which {dtype} is too small; expected {expected}." in str(raised.value)


@pytest.mark.parametrize("which", ["lora_A", "lora_B"])
def test_an_adapters_numbers_are_looked_at_and_named_as_its_own(llama, tmp_path, which):
    name = f"model.layers.0.self_attn.q_proj.{which}.weight"
    path = write_adapter(tmp_path / "adapter", llama, pairs(llama, {"q_proj": 2}))
    load(path)
    plant(path / WEIGHTS, f"base_model.model.{name}", np.nan)
    with pytest.raises(UserError, match=rf"^'base_model.model.{name}' in '{path}/{WEIGHTS}' holds nan, expected finite"):
        load(path)


def test_an_export_makes_no_infinite_numbers(llama, tmp_path):
    pretrained = huggingface.describe(source(llama))
    arch = architecture_of(pretrained.config, "decoder")
    params = huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings)
    up = params["layers"]["mlp"]["up"]
    up["kernel"] = up["kernel"].at[0, 0, 0].set(3.402e38)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"^dtype: the model's 'model.layers.0.mlp.up_proj.weight' holds 3.402e\+38, for which"):
        huggingface.save(out, "decoder", pretrained.config, 12, params, tokenizer(), "bfloat16")
    assert not out.exists()
    huggingface.save(out, "decoder", pretrained.config, 12, params, tokenizer(), "float32")
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 12
