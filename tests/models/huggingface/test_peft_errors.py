"""What is wrong with a PEFT adapter, or is not computed here, is said in one sentence before a weight is read."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kljax.errors import UserError
from kljax.models.huggingface import files
from tests.models.huggingface.peft_directories import WEIGHTS, WIDTH, load, pairs, write_adapter, write_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_base(folder, name) for name in ("llama", "gpt2", "bert")}


@pytest.fixture
def llama(bases, tmp_path):
    """llama(**config): an adapter on the queries of the Llama, to spoil."""
    tensors = pairs(bases["llama"], {"q_proj": 2})

    def write(change=lambda tensors: None, base=bases["llama"], **config):
        changed = dict(tensors)
        change(changed)
        return write_adapter(tmp_path / "spoilt", base, changed, **config)

    return write


def complaint(path, kind="decoder", **changes) -> str:
    with pytest.raises(UserError) as error:
        load(path, kind, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


REFUSED = {
    # what adapter_config.json says → what the sentence says
    "another method": ({"peft_type": "ADALORA"}, "has peft_type='ADALORA'; expected 'LORA'."),
    "no method": ({"peft_type": None}, "has peft_type=None; expected 'LORA'."),
    "DoRA": ({"use_dora": True}, "has use_dora=True, which kljax does not compute"),
    "biases of B": ({"lora_bias": True}, "has lora_bias=True, which"),
    "layers used twice": ({"layer_replication": [[0, 1], [0, 2]]}, "has layer_replication=[[0, 1], [0, 2]], which"),
    "Megatron": ({"megatron_config": {"tp": 2}}, "has megatron_config={'tp': 2}, which"),
    "rows of the embedding": ({"trainable_token_indices": [1]}, "has trainable_token_indices=[1], which"),
    "parameters": ({"target_parameters": ["q_proj.weight"]}, "has target_parameters=['q_proj.weight'], which"),
    "activation by tokens": ({"alora_invocation_tokens": [3, 4]}, "has alora_invocation_tokens=[3, 4], which"),
    "an option of a later version": ({"use_brand_new": 0.5}, "has use_brand_new=0.5, which kljax does not compute"),
    "an option that is a 0": ({"use_brand_new": 0}, "has use_brand_new=0, which kljax does not compute"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights='pissa_niter_4', which changes the weights of"),
    "OLoRA": ({"init_lora_weights": "olora"}, "has init_lora_weights='olora', which changes the weights of its base"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "has init_lora_weights='loftq', which changes the weights of its base"),
    "a rank of 0": ({"r": 0}, "has r=0: "),
    "a rank as text": ({"r": "2"}, "has r='2': "),
    "no alpha": ({"lora_alpha": None}, "has lora_alpha=None: "),
    "a rank of a pattern": ({"rank_pattern": {"q_proj": 1.5}}, "has rank_pattern={'q_proj': 1.5}: "),
    "no targets": ({"target_modules": None}, "has target_modules=None: "),
    "a broken expression": ({"target_modules": "(q"}, "has '(q' in target_modules, which is no regular expression: "),
    "a broken pattern": ({"alpha_pattern": {"*": 3}}, "has '*' in alpha_pattern, which is no regular expression: "),
    "a matrix that the weights lack": (
        {"target_modules": ["q_proj", "v_proj"]},
        "has no 'base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight', which target_modules in adapter_config.json",
    ),
    "a matrix that it does not name": (
        {"layers_to_transform": [0]},
        "has the tensor 'base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight', but target_modules",
    ),
    "a whole module that the weights lack": (
        {"modules_to_save": ["lm_head"]}, "has no tensor 'lm_head.weight', which modules_to_save in adapter_config.json names."
    ),
    "another rank than its tensors": ({"r": 3}, "q_proj.lora_A.weight' of the shape [2, 8] and the type F32; expected [3, 8]"),
    "a classifier's": ({"task_type": "SEQ_CLS"}, "was trained for task_type=SEQ_CLS; expected CAUSAL_LM here."),
    "a class instead of a task": (
        {"task_type": None, "auto_mapping": {"base_model_class": "LlamaForSequenceClassification"}}, "task_type=SEQ_CLS; exp"
    ),
    "a task that is none": ({"task_type": "SEQ_2_SEQ_LM"}, "was trained for task_type=SEQ_2_SEQ_LM; expected CAUSAL_LM"),
    "a revision of a directory": ({"revision": "main"}, "got 'main', but"),
    "no base": ({"base_model_name_or_path": None}, "does not say which model it was made for; name it with model.base=DIR."),
    "an empty name of a base": ({"base_model_name_or_path": ""}, "does not say which model it was made for"),
    "a base that is gone": (
        {"base_model_name_or_path": "/gone"},
        "model.path: '/gone' is no directory; expected one with config.json and model.safetensors, or a hub name. That is the",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_adapter_says_and_kljax_does_not_do_is_refused_by_its_key(name, llama, monkeypatch):
    def read_block(*_, **__):
        raise AssertionError("a weight was read before all was checked")

    monkeypatch.setattr(files, "read_block", read_block)
    config, words = REFUSED[name]
    path = llama(**config)
    sentence = complaint(path)
    assert words in sentence
    assert str(path) in sentence


TENSORS = {
    "DoRA's": "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    "of a named adapter": "model.layers.0.self_attn.q_proj.lora_A.default.weight",
    "of another model": "model.layers.7.self_attn.q_proj.weight",
    "of a head": "score.weight",
    "under a pair, not beside it": "model.layers.0.self_attn.q_proj.weight",
    "beside no pair": "model.layers.0.self_attn.k_proj.base_layer.weight",
    "an original that was saved, too": "lm_head.original_module.weight",
}


@pytest.mark.parametrize("which", TENSORS)
def test_a_tensor_without_a_place_is_named(which, llama):
    path = llama(lambda tensors: tensors.update({TENSORS[which]: np.ones((WIDTH, WIDTH), np.float32)}))
    sentence = complaint(path)
    assert f"'{path}' has the tensor 'base_model.model.{TENSORS[which]}', for which there is no place" in sentence


def test_tensors_that_do_not_fit_are_named(llama):
    name = "model.layers.0.self_attn.q_proj.lora_B.weight"
    assert f"has no tensor 'base_model.model.{name}', only the other" in complaint(llama(lambda tensors: tensors.pop(name)))
    path = llama(lambda tensors: tensors.update({name: tensors[name].astype(np.int8)}))
    assert f"{name}' of the shape [8, 2] and the type I8; expected [8, 2]" in complaint(path)
    path = llama(lambda tensors: tensors.update({"model.norm.weight": np.ones(3, np.float32)}))
    assert "'base_model.model.model.norm.weight' in" in complaint(path)
    assert "expected [8]" in complaint(path)
    path = llama()
    weights = load_file(path / WEIGHTS)
    save_file({key.removeprefix("base_model.model."): tensor for key, tensor in weights.items()}, path / WEIGHTS)
    assert "expected names that begin with 'base_model.model.', as PEFT writes them" in complaint(path)


def test_files_that_are_missing_or_meant_otherwise_are_named(llama, bases):
    path = llama()
    (path / WEIGHTS).rename(path / "adapter_model.bin")
    assert "has only pickled weights (adapter_model.bin), which can run any code when opened; expected" in complaint(path)
    (path / "adapter_model.bin").unlink()
    assert f"has no weights; expected {WEIGHTS}." in complaint(path)
    path = llama()
    (path / "adapter_config.json").unlink()
    assert "has no adapter_config.json, which says what its weights are" in complaint(path)
    (path / "adapter_config.json").write_text("[]")
    assert "holds no JSON object" in complaint(path)
    (path / "adapter_config.json").write_text("{")
    assert "cannot read" in complaint(path)
    path = llama()
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-8])
    assert "is cut off" in complaint(path)
    path = llama(lambda tensors: tensors.clear(), target_modules=[])
    assert f"has no tensor in {WEIGHTS}; expected what PEFT writes, or its base alone." in complaint(path)
    path = llama()
    assert complaint(path.parent) == (
        f"model.path: '{path.parent}' holds no model, but folders with adapters; expected {path.parent}/spoilt."
    )
    shutil.copy(bases["gpt2"] / "config.json", path)
    assert f"'{path}' has a config.json of another model than '{bases['llama']}'" in complaint(path)
    shutil.copy(bases["llama"] / "config.json", path)
    load(path)
    shutil.copy(bases["llama"] / "model.safetensors", path)
    assert f"'{path}' holds a whole model and an adapter" in complaint(path)


def test_an_adapter_on_an_adapter_and_a_base_of_no_adapter_are_refused(llama, bases, tmp_path):
    twice = write_adapter(tmp_path / "twice", llama(), pairs(bases["llama"], {"q_proj": 2}))
    assert f"'{llama()}' is an adapter itself, expected a whole model" in complaint(twice)
    assert complaint(bases["llama"], base="x") == (
        f"model.base: got 'x', but '{bases['llama']}' holds a whole model, no adapter; expected null."
    )
    assert complaint(bases["llama"], revision="v1") == (
        f"model.revision: got 'v1', but '{bases['llama']}' is a directory, which has none."
    )


def test_a_base_that_cannot_be_used_is_said_to_be_the_adapters(llama, bases, tmp_path):
    base = shutil.copytree(bases["llama"], tmp_path / "base")
    values = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(values | {"quantization_config": {"bits": 4}}))
    sentence = complaint(llama(base=base))
    assert (
        "holds quantised weights (quantization_config); expected plain floats. That is the base of the adapter in" in sentence
    )
    assert sentence.endswith("name another with model.base=DIR.")
    load(llama(base=base), base=str(bases["llama"]))


def test_a_masked_language_model_keeps_its_embedding(bases, tmp_path):
    tensors = pairs(bases["bert"], {"word_embeddings": 2})
    path = write_adapter(tmp_path / "a", bases["bert"], tensors, task_type=None, target_modules=["word_embeddings"])
    assert "changes the embedding, and for PEFT not the output matrix, which are one in this model" in complaint(
        path, "masked_lm"
    )


def test_an_adapter_that_cannot_be_had_from_the_hub_is_named_with_its_revision(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    sentence = complaint("someone/adapter", revision="v3")
    assert sentence.startswith("model.path: no directory 'someone/adapter', and no model of that name and revision 'v3' could")
