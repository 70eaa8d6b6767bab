"""Nothing in a Hugging Face directory is passed over: each key, tensor and file of it is used, without effect, or refused."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kljax.config import DecoderConfig, Llama3Scaling, YarnScaling
from kljax.models.huggingface import files
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface.families import FAMILIES
from kljax.models.huggingface.keys import keys_of
from tests.models.huggingface.test_errors import (
    BERT,
    DISTILBERT,
    GPT2,
    LLAMA,
    ROBERTA,
    VOCAB,
    change_config,
    change_weights,
    complaint,
    random_params,
    source,
    tokenizer,
)

MODELS = {
    "gpt2": (GPT2, "decoder"),
    "llama": (LLAMA, "decoder"),
    "tied": (replace(LLAMA, tied_head=True), "decoder"),
    "smollm3": (replace(LLAMA, layers=4, nope_every=2), "decoder"),
    "olmo2": (replace(LLAMA, normed="outputs", qk_norm="whole"), "decoder"),
    "bert": (BERT, "masked_lm"),
    "distilbert": (DISTILBERT, "masked_lm"),
    "roberta": (ROBERTA, "masked_lm"),
    "classes": (BERT, "classifier"),
    "reward": (LLAMA, "classifier"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for name, (config, kind) in MODELS.items():
        huggingface.save(root / name, kind, config, VOCAB, random_params(config, kind), tokenizer(), "float32")
    return root


@pytest.fixture
def directory(originals, tmp_path):
    """directory(name, **changes): a copy to spoil, its config.json with these changes."""

    def make(name, **changes) -> Path:
        path = Path(shutil.copytree(originals / name, tmp_path / name))
        change_config(path, **changes)
        return path

    return make


def described(path, **changes) -> huggingface.Pretrained:
    return huggingface.describe(source(path, **changes))


def as_family(path: Path, model_type: str, **changes) -> Path:
    """The Llama directory as one of another family of the same tensors."""
    named = {"model_type": model_type, "architectures": [FAMILIES[model_type].architectures["decoder"]]}
    values = json.loads((path / "config.json").read_text()) | named | changes
    if "mlp_bias" not in FAMILIES[model_type].thought:
        values = {key: value for key, value in values.items() if key not in ("attention_bias", "mlp_bias")}
    (path / "config.json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_that_transformers_has_is_decided_on(model_type):
    """A new version's new key has to be put into one of the tables."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    theirs = {field.name for field in fields(CONFIG_MAPPING[model_type])}
    assert theirs <= keys_of(FAMILIES[model_type], theirs)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "attn_logit_softcapping", 50.0),
        ("llama", "logit_scale", 0.0625),
        ("llama", "embedding_multiplier", 12),
        ("llama", "residual_multiplier", 0.22),
        ("llama", "query_pre_attn_scalar", 256),
        ("llama", "use_rope", False),
        ("llama", "scale_embeddings", True),
        ("llama", "attention_chunk_size", 8192),
        ("llama", "num_local_experts", 8),
        ("llama", "no_rope_layers", [1, 0]),
        ("llama", "vision_config", {"hidden_size": 8}),
        ("llama", "quantization", {"bits": 4}),
        ("gpt2", "rope_theta", 1e4),
        ("gpt2", "attention_types", [[["global", "local"], 1]]),
        ("gpt2", "multi_query", True),
        ("bert", "embedding_size", 4),
        ("bert", "use_relative_positions", False),
        ("bert", "sliding_window", 4),
        ("olmo2", "clip_qkv", 8.0),
        ("distilbert", "hidden_act", "gelu"),
    ],
)
def test_a_key_that_nobody_knows_is_refused_by_its_name_whatever_it_says_but_null(name, key, value, directory):
    path, kind = directory(name, **{key: None}), MODELS[name][1]
    described(path)
    change_config(path, **{key: value})
    sentence = complaint(path, kind)
    assert f"has {key}={json.dumps(value)}, which is no key of {FAMILIES[config_of(path)['model_type']].title}" in sentence
    assert "delete it from config.json" in sentence


def config_of(path: Path) -> dict:
    return json.loads((path / "config.json").read_text())


def test_keys_that_would_rename_others_are_refused(directory):
    path = directory("llama", attribute_map={"rms_norm_eps": "initializer_range"})
    assert "renames keys (attribute_map=" in complaint(path)


def test_a_misspelled_key_is_told_the_right_one(directory):
    assert "Did you mean 'rms_norm_eps'?" in complaint(directory("llama", rms_norm_epsilon=1e-6))


@pytest.mark.parametrize(
    ("name", "key", "neutral", "value"),
    [
        ("llama", "is_encoder_decoder", False, True),
        ("llama", "add_cross_attention", False, True),
        ("llama", "pruned_heads", {}, {"0": [1]}),
        ("llama", "rope_interleaved", False, True),
        ("llama", "use_sliding_window", False, True),
        ("olmo2", "mlp_bias", False, True),
        ("bert", "directionality", "bidi", "unidi"),
        ("gpt2", "n_special", 0, 2),
        ("gpt2", "n_ctx", 6, 5),
        ("distilbert", "tie_weights_", True, False),
        ("gpt2", "hidden_size", 8, 16),
    ],
)
def test_a_key_that_says_what_we_do_is_taken_and_another_value_refused(name, key, neutral, value, directory):
    path = directory(name, **{key: neutral})
    described(path)
    change_config(path, **{key: value})
    sentence = complaint(path, MODELS[name][1])
    assert f" has {key}={json.dumps(value)}" in sentence or f"{key})" in sentence or f"{key}," in sentence


LLAMA_31 = {
    "_name_or_path": "x", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [2, 3],
    "hidden_act": "silu", "initializer_range": 0.02, "mlp_bias": False, "pretraining_tp": 1, "torch_dtype": "bfloat16",
    "rope_theta": 500000.0, "transformers_version": "4.43.0.dev0", "use_cache": True, "unsloth_fixed": True,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip
SMOLLM2 = {
    "is_llama_config": True, "rope_interleaved": False, "rope_scaling": None, "pad_token_id": 2, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
}  # fmt: skip
FIRST_GPT2 = {
    "activation_function": "gelu_new", "attn_pdrop": 0.1, "n_ctx": 6, "output_past": True, "reorder_and_upcast_attn": True,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_type": "cls_index", "n_special": 0,
    "predict_special_tokens": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "_num_labels": 1, "finetuning_task": None, "torchscript": False,
}  # fmt: skip
FIRST_BERT = {
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_type": "first_token_transform",
    "gradient_checkpointing": False, "position_embedding_type": "absolute", "classifier_dropout": None,
    "chunk_size_feed_forward": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"), [("llama", LLAMA_31), ("llama", SMOLLM2), ("gpt2", FIRST_GPT2), ("bert", FIRST_BERT)]
)
def test_files_as_they_are_found_are_taken(name, changes, directory):
    described(directory(name, **changes))


def test_code_of_their_own_and_classes_of_others_are_refused(directory):
    path = directory("llama", auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"})
    assert "has code of its own (auto_map=" in complaint(path)
    change_config(path, auto_map={}, architectures=["XForCausalLM"])
    assert 'has architectures=["XForCausalLM"], of which kljax does not know what they compute' in complaint(path)


@pytest.mark.parametrize(("text", "reason"), [('{"a": 1, "a": 2}', "it has 'a' twice"), ('{"a": NaN}', "NaN is no JSON")])
def test_a_config_that_says_two_things_at_once_is_refused(text, reason, directory):
    path = directory("llama")
    (path / "config.json").write_text(text)
    assert reason in complaint(path)


WINDOWED = {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("model_type", "changes", "window"),
    [
        ("mistral", {"sliding_window": 6}, None),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 5}, 5),
        ("mistral", {}, None),  # 4096 by default
        ("llama", {"sliding_window": 4}, 4),
        ("qwen3", {"sliding_window": 4}, None),
        ("qwen3", WINDOWED | {"max_window_layers": 2}, None),
        ("qwen3", WINDOWED | {"max_window_layers": 1}, 4),
        ("qwen3", WINDOWED | {"layer_types": ["sliding_attention", "full_attention"]}, 4),
        ("qwen3", WINDOWED | {"sliding_window": 6, "max_window_layers": 0}, None),
        ("smollm3", WINDOWED | {"no_rope_layers": [1, 0]}, 4),  # a window where there are no positions
        ("smollm3", WINDOWED | {"no_rope_layers": [1, 1]}, None),
    ],
)
def test_a_window_that_matters_is_refused_with_the_context_in_which_it_does_not(model_type, changes, window, directory):
    path = as_family(directory("llama"), model_type, **changes)
    if model_type == "qwen3":
        norms = {f"model.layers.{i}.self_attn.{name}_norm.weight": np.ones(4, np.float32) for i in (0, 1) for name in "qk"}
        change_weights(path, lambda tensors: tensors.update(norms))
    if window is None:
        described(path)
        return
    sentence = complaint(path)
    assert f"(sliding_window={window}), and a context of 6" in sentence
    assert f"expected model.context={window} or less" in sentence
    assert described(path, context=window).config.context == window


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["chunked_attention", "full_attention"]}, "layers of the type 'chunked_attention'"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "no sliding_window"),
        ({"sliding_window": "4"}, "sliding_window='4'"),
    ],
)
def test_layers_of_other_kinds_are_refused(changes, words, directory):
    assert words in complaint(directory("llama", **changes))


def test_a_mistral_with_types_of_layers_is_another_family_to_transformers(directory):
    path = as_family(directory("llama"), "mistral", sliding_window=None, layer_types=["full_attention"] * 2)
    assert "is of the architecture 'ministral' to transformers, expected 'mistral'" in complaint(path)


LINEAR = {"rope_type": "linear", "factor": 2.0}
THREE = LLAMA_31["rope_scaling"]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *[
            ({"rope_scaling": {"rope_type": kind, "factor": 2.0}}, f"rope_scaling.rope_type={kind!r}, which kljax does not")
            for kind in ("dynamic", "longrope", "proportional", "mrope")
        ],
        (
            {"rope_scaling": {"type": "su", "factor": 2.0}},
            "type='su', which kljax does not compute; expected one of default, linear",
        ),
        ({"rope_scaling": LINEAR | {"type": "yarn"}}, "rope_type='linear' and type='yarn'"),
        ({"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"factor": 3.0}}, "that say different things"),
        ({"rope_scaling": LINEAR | {"rope_theta": 5.0}, "rope_theta": 6.0}, "rope_theta=6.0, but 5.0 in rope_scaling"),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 4}, "original_max_position_embeddings=4, but 8"),
        ({"rope_scaling": LINEAR | {"low_freq_factor": 1.0}}, "low_freq_factor=1.0, which is no part of 'linear'"),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "factor=2.0, which is no part of 'default'"),
        ({"rope_scaling": YARN | {"scale": 2.0}}, "rope_scaling.scale=2.0, which is no part of 'yarn'"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear'; expected a mapping"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": LINEAR | {"partial_rotary_factor": 0.5}}, "rope_scaling.partial_rotary_factor=0.5"),
        ({"rope_scaling": LINEAR | {"factor": 0.0}}, "gives 0.0 for rope_scaling.linear.factor"),
        ({"rope_scaling": LINEAR | {"factor": "2"}}, "factor='2' for linear positions; expected a number"),
        ({"rope_scaling": LINEAR | {"factor": None}}, "factor=None for linear positions; expected a number"),
        ({"rope_scaling": THREE | {"high_freq_factor": 1.0}}, "high_freq_factor: got 1.0, expected more than low_freq_factor"),
        ({"rope_scaling": YARN | {"beta_fast": 1, "beta_slow": 2}}, "beta_fast: got 1.0, expected no less than beta_slow"),
        ({"rope_scaling": YARN, "rope_theta": 1.0}, "model.rope_theta: got 1 with yarn positions"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": -8}}, "original_context"),
        ({"rope_theta": "10000"}, "rope_theta='10000'; expected a number"),
        ({"rope_theta": None}, "rope_theta=None; expected a number"),
    ],
)
def test_positions_that_are_not_computed_or_contradict_themselves_are_refused(changes, words, directory):
    assert words in complaint(directory("llama", **changes))


def rope_of(path) -> DecoderConfig:
    config = described(path).config
    assert isinstance(config, DecoderConfig)
    return config


def test_scaled_positions_are_read_in_both_spellings(directory):
    path = directory("llama", **LLAMA_31)
    expected = Llama3Scaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    assert (rope_of(path).rope_theta, rope_of(path).rope_scaling) == (5e5, expected)
    values = {key: value for key, value in config_of(path).items() if key not in ("rope_theta", "rope_scaling")}
    (path / "config.json").write_text(json.dumps(values | {"rope_parameters": THREE | {"rope_theta": 5e5}}))
    assert (rope_of(path).rope_theta, rope_of(path).rope_scaling) == (5e5, expected)


@pytest.mark.parametrize(
    ("given", "factor", "attention_factor", "original"),
    [
        ({"factor": 4.0, "original_max_position_embeddings": 3}, 4.0, 0.1 * np.log(4.0) + 1, 3),
        ({"factor": None, "original_max_position_embeddings": 3}, 2.0, 0.1 * np.log(2.0) + 1, 3),  # 6/3
        ({"factor": 4.0}, 4.0, 0.1 * np.log(4.0) + 1, 6),
        ({"factor": 4.0, "attention_factor": 1.5}, 4.0, 1.5, 6),
        ({"factor": 4.0, "mscale": 0.5, "mscale_all_dim": 2.0}, 4.0, (0.05 * np.log(4.0) + 1) / (0.2 * np.log(4.0) + 1), 6),
        ({"factor": 1.0, "mscale": 0.5}, 1.0, 1.0, 6),
    ],
)
def test_what_yarn_leaves_open_is_filled_in_as_transformers_does(given, factor, attention_factor, original, directory):
    found = rope_of(directory("llama", rope_scaling={"rope_type": "yarn"} | given)).rope_scaling
    assert isinstance(found, YarnScaling)
    assert (found.factor, found.original_context, found.beta_fast, found.beta_slow) == (factor, original, 32, 1)
    np.testing.assert_allclose(found.attention_factor, attention_factor)


def test_layers_without_positions_at_odd_places_are_refused(directory):
    path = directory("smollm3", no_rope_layers=[1, 0, 0, 1])
    assert "has no positions in layers 2, 3 (no_rope_layers)" in complaint(path)
    change_config(path, no_rope_layers=[1, 0], layer_types=["full_attention"] * 4)
    assert "has 2 entries in no_rope_layers; expected one for each of its 4 layers" in complaint(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "expected a name of its own for each of 0 to 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "expected a name of its own for each of 0 to 1"),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
            "other numbers in label2id than in id2label for 'a'",
        ),
        ({"label2id": 2.0}, "has label2id=2.0; expected a mapping"),
        ({"num_labels": 3}, "num_labels=3, but 2 names in id2label"),
        ({"architectures": ["BertForTokenClassification"]}, "is a BertForTokenClassification by its config.json"),
        ({"architectures": ["BertForMultipleChoice"]}, "is a BertForMultipleChoice by its config.json"),
        ({"architectures": ["BertForMaskedLM"]}, "has a head 'classifier.weight', but is a BertForMaskedLM"),
    ],
)
def test_a_head_whose_outputs_mean_something_else_is_refused(changes, words, directory):
    assert words in complaint(directory("classes", **changes), "classifier")


def test_sizes_that_make_no_heads_are_refused(directory):
    path = directory("bert", num_attention_heads=3)
    assert "parts do not go together: model.heads: got 3, expected a divisor of model.d_model=8" in complaint(path, "masked_lm")
    path = directory("llama", num_attention_heads=4, num_key_value_heads=3, head_dim=2)
    assert "model.kv_heads: got 3, expected a divisor of model.heads=4" in complaint(path)


def test_default_names_that_were_left_in_label2id_are_no_contradiction(directory):
    changes = {"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": None}
    found = described(directory("classes", **changes))
    assert (found.labels, found.problem) == (("a", "b"), "single_label_classification")


def test_one_output_of_one_class_is_refused(directory):
    path = directory("reward", id2label={"0": "only"}, problem_type="single_label_classification")
    change_weights(path, lambda tensors: tensors.update({"score.weight": np.zeros((1, 8), np.float32)}))
    assert "single_label_classification" in complaint(path, "classifier")
    for problem, expected in ((None, "regression"), ("multi_label_classification", "multi_label_classification")):
        change_config(path, problem_type=problem)
        assert described(path).problem == expected


def test_a_classifier_is_no_language_model_whatever_its_file_holds(directory):
    path = directory("reward")
    start = f"'{path}' is a LlamaForSequenceClassification by its config.json (architectures); expected a LlamaForCausalLM."
    assert complaint(path).startswith(start)
    change_config(path, tie_word_embeddings=True)
    assert complaint(path).startswith(start)
    change_config(path, architectures=None)
    assert "has the tensor 'score.weight', for which a model of its config.json has no place" in complaint(path)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("gpt2", "v_head.summary.weight"),
        ("gpt2", "multiple_choice_head.summary.weight"),
        ("gpt2", "qa_outputs.weight"),
        ("llama", "score.weight"),
        ("llama", "model.lm_head.weight"),
        ("llama", "model.layers.0.attn.bias"),
        ("llama", "model.embeddings.position_ids"),
        ("olmo2", "model.layers.0.input_layernorm.weight"),
        ("bert", "score.weight"),
        ("distilbert", "distilbert.pooler.dense.weight"),
    ],
)
def test_heads_and_buffers_of_others_are_refused_by_name(name, extra, directory):
    path = directory(name)
    change_weights(path, lambda tensors: tensors.update({extra: np.zeros((2, 8), np.float32)}))
    sentence = complaint(path, MODELS[name][1])
    assert f"'{extra}'" in sentence
    assert "has no place" in sentence or "has a head 'score.weight', but is a LlamaForCausalLM" in sentence


def test_a_model_inside_another_is_found_but_not_read(directory):
    path = directory("llama")
    tensors = load_file(path / "model.safetensors")
    save_file({f"pretrained_model.{name}": tensor for name, tensor in tensors.items()}, path / "model.safetensors")
    sentence = complaint(path)
    assert "It has 'pretrained_model.model.embed_tokens.weight': save the model that is inside the other by itself." in sentence


@pytest.mark.parametrize(
    ("name", "copy", "original"),
    [
        ("gpt2", "lm_head.weight", "transformer.wte.weight"),
        ("tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("bert", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("roberta", "lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("roberta", "lm_head.decoder.bias", "lm_head.bias"),
        ("distilbert", "vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_tied_tensor_that_is_there_twice_must_be_twice_the_same(name, copy, original, directory, monkeypatch):
    path, kind = directory(name, tie_word_embeddings=True), MODELS[name][1]
    change_weights(path, lambda tensors: tensors.update({copy: tensors[original].astype(np.float64)}))
    monkeypatch.setattr(files, "CHUNK", 128)  # two rows at once
    changed = load_file(path / "model.safetensors")
    changed[copy].flat[-1] += 1e-6
    with pytest.raises(AssertionError, match="a weight was read"):  # all was checked
        complaint(path, kind)
    save_file(changed, path / "model.safetensors")
    assert complaint(path, kind).startswith(f"'{path}' has the tensor '{copy}' beside '{original}', to which its config.json")


def test_a_tensor_under_its_old_and_its_new_name_is_refused(directory):
    path = directory("bert")
    new, old = (f"bert.embeddings.LayerNorm.{end}" for end in ("weight", "gamma"))
    change_weights(path, lambda tensors: tensors.update({old: tensors[new]}))
    assert f"has the tensor '{new}' twice" in complaint(path, "masked_lm")


@pytest.fixture(autouse=True)
def no_weight_may_be_read(monkeypatch):
    def read_block(*_, **__):
        raise AssertionError("a weight was read before all was checked")

    monkeypatch.setattr(files, "read_block", read_block)


def split(path: Path) -> dict[str, str]:
    """The weights in two files, with their index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == file}, path / file)
    write_index(path, where)
    return where


def write_index(path: Path, where: dict[str, str]) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_an_index_and_its_files_must_be_of_one_model(directory):
    path = directory("llama")
    where = split(path)
    described(path)
    first, second = sorted({*where.values()})
    name = next(name for name, file in where.items() if file == first)
    write_index(path, where | {name: second})
    assert f"has the tensor '{name}', which model.safetensors.index.json looks for in {second}" in complaint(path)
    write_index(path, {key: file for key, file in where.items() if key != name})
    assert f"has the tensor '{name}', which model.safetensors.index.json looks for in no file" in complaint(path)
    write_index(path, where | {"model.extra": second})
    assert "has no tensor 'model.extra', which model.safetensors.index.json speaks of" in complaint(path)


@pytest.mark.parametrize("stray", ["model.safetensors", "model-00003-of-00003.safetensors", "value_head.safetensors"])
def test_weights_beside_those_of_the_index_are_refused(stray, directory):
    path = directory("llama")
    shutil.copy(path / "model.safetensors", path / "kept")
    split(path)
    (path / "kept").rename(path / stray)
    assert f"has {stray}, which is no part of the model in model.safetensors.index.json" in complaint(path)


@pytest.mark.parametrize("stray", ["model-00001-of-00002.safetensors", "value_head.bin", "v_head.pt", "model.fp16.safetensors"])
def test_weights_beside_a_whole_model_are_refused(stray, directory):
    path = directory("llama")
    (path / stray).write_bytes(b"")
    assert f"has {stray}, which is no part of the model in model.safetensors" in complaint(path)


def test_the_same_weights_in_other_formats_may_lie_beside(directory):
    path = directory("llama")
    for name in ("consolidated.safetensors", "pytorch_model.bin", "training_args.bin"):
        (path / name).write_bytes(b"")
    write_index(path, dict.fromkeys(load_file(path / "model.safetensors"), "model.safetensors"))  # as MLX has it
    described(path)
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "training_args.bin"):
        (path / name).unlink()
    assert "has only weights of another format (consolidated.safetensors)" in complaint(path)
