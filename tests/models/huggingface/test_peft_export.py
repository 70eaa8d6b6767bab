"""Adapters out: what is written is read again as the merged policy, by us and, where PEFT is installed, by PEFT."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import tree_leaves_with_path
from safetensors.numpy import load_file

from kljax.config import LoraAdapter
from kljax.errors import UserError
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface import peft_export
from kljax.models.lora import add_adapters, merge
from tests.models.huggingface.peft_directories import BASES, VOCAB, load, source, tokenizer, write_base

CASES = {
    # base, adapter's targets and alpha → what adapter_config.json says of them
    "llama": ("llama", None, 6.0, {"r": 2, "lora_alpha": 6, "rank_pattern": {}, "alpha_pattern": {}, "target_modules": [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]}),
    "llama, keys alone": ("llama", ["k"], 2.5, {"lora_alpha": 2.5, "target_modules": ["k_proj"], "fan_in_fan_out": False}),
    "gpt2": ("gpt2", None, 6.0, {"r": 2, "rank_pattern": {"c_attn": 6}, "alpha_pattern": {"c_attn": 18}, "target_modules": [
        "attn.c_proj", "c_attn", "c_fc", "mlp.c_proj"], "fan_in_fan_out": True}),
    "gpt2, queries alone": ("gpt2", ["q"], 6.0, {"rank_pattern": {}, "target_modules": ["c_attn"]}),
    "gpt2, values and keys": ("gpt2", ["v", "down", "k"], 2.5, {
        "rank_pattern": {"c_attn": 4}, "alpha_pattern": {"c_attn": 5.0}, "target_modules": ["c_attn", "mlp.c_proj"]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_base(folder, name) for name in ("llama", "gpt2")}


def adapted(base, name, targets, alpha):
    """Random adapters over that base, and the policy's parameters that they are merged."""
    config = BASES[name][0]
    adapter = LoraAdapter(kind="lora", rank=2, alpha=alpha, targets=targets)
    model = nnx.eval_shape(lambda: add_adapters(Decoder(config, VOCAB, rngs=nnx.Rngs(0)), adapter, rngs=nnx.Rngs(0)))
    graphdef, shapes, _ = nnx.split(model, nnx.LoRAParam, ...)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), nnx.to_pure_dict(shapes))
    whole = nnx.merge(graphdef, params, load(base))
    return adapter, params, merge(nnx.to_pure_dict(nnx.state(whole)), adapter)


def write(out, bases, name):
    base, targets, alpha, _ = CASES[name]
    adapter, params, merged = adapted(bases[base], base, targets, alpha)
    options = {"base": str(bases[base]), "revision": None}
    peft_export.save(out, BASES[base][0], adapter, params, tokenizer(), "float32", **options)
    return merged


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_as_the_merged_policy(name, bases, tmp_path):
    merged = write(tmp_path / "out", bases, name)
    actual = load(tmp_path / "out")
    for (path, ours), (_, theirs) in zip(tree_leaves_with_path(actual), tree_leaves_with_path(merged), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-6, err_msg=str(path))
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    values["target_modules"].sort()
    assert values.items() >= (CASES[name][3] | {"peft_type": "LORA", "task_type": "CAUSAL_LM"}).items()
    assert huggingface.describe(source(tmp_path / "out")).tokenizer_path == tmp_path / "out"


def test_files_are_those_that_anyone_may_read_in_the_dtype_that_was_asked_for(bases, tmp_path):
    adapter, params, _ = adapted(bases["gpt2"], "gpt2", ["q"], 6.0)
    out, options = tmp_path / "out", {"base": "org/name", "revision": "v1"}
    peft_export.save(out, BASES["gpt2"][0], adapter, params, tokenizer(), "bfloat16", **options)
    values = json.loads((out / "adapter_config.json").read_text())
    assert (values["base_model_name_or_path"], values["revision"]) == ("org/name", "v1")
    tensors = load_file(out / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"bfloat16"}
    b = tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"].astype(np.float32)
    assert (b != 0).any(axis=1).tolist() == [True] * 8 + [False] * 16
    assert len({os.stat(file).st_mode for file in out.glob("adapter_*")}) == 1
    with pytest.raises(UserError, match="is there already"):
        peft_export.save(out, BASES["gpt2"][0], adapter, params, tokenizer(), "bfloat16", **options)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_peft_gives_the_logits_of_the_merged_policy(name, bases, tmp_path):
    torch = pytest.importorskip("torch")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    merged = write(tmp_path / "out", bases, name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(bases[CASES[name][0]])
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    tokens, mask = np.random.default_rng(0).integers(0, VOCAB, (3, 6)), jnp.ones((3, 6), bool)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    ours = nnx.merge(nnx.graphdef(Decoder(BASES[CASES[name][0]][0], VOCAB, rngs=nnx.Rngs(0))), merged)
    actual = ours.logits(ours(jnp.asarray(tokens), positions_of(mask), causal_mask(mask))[0])
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
