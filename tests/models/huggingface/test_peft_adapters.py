"""PEFT's adapters, loaded, are the whole model that merging by hand gives, in every layout and on every mesh."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import tree_leaves_with_path
from safetensors.numpy import load_file, save_file

from kljax.config import MeshConfig
from kljax.errors import UserError
from kljax.models.huggingface import files
from kljax.models.huggingface import models as huggingface
from kljax.models.layers import unroll
from tests.models.huggingface.peft_directories import (
    BASES,
    VOCAB,
    WIDTH,
    architecture_of,
    load,
    pairs,
    source,
    tokenizer,
    write_adapter,
    write_base,
    write_merged,
)

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


QUERY, VALUE = "self_attn.q_proj", "self_attn.v_proj"
CASES = {
    # base, what adapter_config.json says, ends of modules → (rank, scale), whole tensors
    "two matrices": ("llama", {"target_modules": ["q_proj", "down_proj"]}, {"q_proj": (2, 3.0), "down_proj": (2, 3.0)}, {}),
    "a scale of alpha/√rank": ("llama", {"r": 4, "use_rslora": True}, {"q_proj": (4, 3.0)}, {}),
    "a regular expression": ("llama", {"target_modules": r".*\.1\.mlp\.(up|gate)_proj"},
                             {"layers.1.mlp.up_proj": (2, 3.0), "layers.1.mlp.gate_proj": (2, 3.0)}, {}),
    "every linear layer": ("llama", {"target_modules": "all-linear", "lora_alpha": 1},
                           {f"{name}_proj": (2, 0.5) for name in ("q", "k", "v", "o", "up", "gate", "down")}, {}),
    "ranks and alphas by pattern, the first that fits": (
        "llama",
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 3, "^model.layers.0.*v_proj": 1},
         "alpha_pattern": {"q_proj": 9, "layers.1.self_attn.q_proj": 100}},
        {f"0.{QUERY}": (2, 4.5), f"1.{QUERY}": (3, 3.0), f"0.{VALUE}": (1, 6.0), f"1.{VALUE}": (2, 3.0)}, {},
    ),
    "one layer": ("llama", {"layers_to_transform": [1], "layers_pattern": "layers"}, {f"1.{QUERY}": (2, 3.0)}, {}),
    "but one": ("llama", {"exclude_modules": ["model.layers.0.self_attn.q_proj"]}, {f"1.{QUERY}": (2, 3.0)}, {}),
    "keys without effect": (
        "llama", {"lora_dropout": 0.1, "megatron_core": "megatron.core", "fan_in_fan_out": True, "peft_version": "0.99",
                  "eva_config": {"rho": 2}, "later_than_this_test": None, "init_lora_weights": "gaussian"},
        {"q_proj": (2, 3.0)}, {},
    ),
    "embedding and output matrix": ("llama", {"target_modules": ["embed_tokens", "lm_head"]},
                                    {"embed_tokens": (2, 3.0), "lm_head": (2, 3.0)}, {}),
    "whole tensors, and a product on one of them": (
        "llama", {"target_modules": ["lm_head"], "modules_to_save": ["norm", "embed_tokens"]}, {"lm_head": (2, 3.0)},
        {"lm_head.base_layer.weight": (VOCAB, WIDTH), "model.embed_tokens.weight": (VOCAB, WIDTH)}
        | {"model.norm.weight": (WIDTH,)}
        | {f"model.layers.{i}.{name}_layernorm.weight": (WIDTH,) for i in (0, 1) for name in ("input", "post_attention")},
    ),
    "a Conv1D of three, and biases": (
        "gpt2", {"target_modules": ["c_attn", "mlp.c_proj", "wpe"], "bias": "lora_only"},
        {"c_attn": (2, 3.0), "mlp.c_proj": (2, 3.0), "wpe": (2, 3.0)},
        {"transformer.h.1.attn.c_attn.base_layer.bias": (3 * WIDTH,), "transformer.h.0.mlp.c_proj.base_layer.bias": (WIDTH,)},
    ),
    "a masked language model": ("bert", {"target_modules": ["query", "output.dense"], "task_type": None},
                                {"query": (2, 3.0), "output.dense": (2, 3.0)}, {}),
    "a classifier and its head": (
        "bert classifier", {"target_modules": ["query", "word_embeddings"], "task_type": "SEQ_CLS",
                            "modules_to_save": ["classifier", "score"]},
        {"query": (2, 3.0), "word_embeddings": (2, 3.0)}, {"classifier.weight": (3, WIDTH), "classifier.bias": (3,)},
    ),
    "a reward model": ("reward", {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}, {"q_proj": (2, 3.0)},
                       {"score.weight": (1, WIDTH)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_base(folder, name) for name in BASES}


def write_case(folder, bases, name):
    """The adapter, and the model that it is merged."""
    base, config, products, whole = CASES[name]
    tensors = pairs(bases[base], {end: rank for end, (rank, _) in products.items()})
    tensors |= {key: normal(*shape) for key, shape in whole.items()}
    adapter = write_adapter(folder / "adapter", bases[base], tensors, **config)
    return adapter, write_merged(folder / "merged", bases[base], tensors, {end: s for end, (_, s) in products.items()})


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, ours), (_, theirs) in zip(tree_leaves_with_path(actual), tree_leaves_with_path(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-6, err_msg=str(path))


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_is_the_model_that_merging_by_hand_makes(name, bases, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 8 * WIDTH * 3)  # three rows at once, or one: the joins are seen
    adapter, merged = write_case(tmp_path, bases, name)
    kind = BASES[CASES[name][0]][1]
    expected = load(merged, kind)
    assert_close(load(adapter, kind), expected)
    base = load(bases[CASES[name][0]], kind)
    pairs = zip(jax.tree.leaves(unroll(base, 2)), jax.tree.leaves(unroll(expected, 2)), strict=True)
    changed = sum(not np.array_equal(a, b) for a, b in pairs)
    assert changed >= len(CASES[name][2])
    assert huggingface.describe(source(adapter)).config == huggingface.describe(source(merged)).config


@pytest.mark.parametrize("name", ["embedding and output matrix", "a Conv1D of three, and biases"])
def test_each_device_adds_its_part_of_the_product(name, bases, tmp_path):
    adapter, _ = write_case(tmp_path, bases, name)
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    sharded, pretrained = load(adapter, mesh=mesh), huggingface.describe(source(adapter))
    assert_close(sharded, load(adapter))
    expected = architecture_of(pretrained.config, "decoder", mesh=mesh).shardings
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == expected


def test_in_lower_precision_the_sum_is_rounded_once(bases, tmp_path):
    adapter, _ = write_case(tmp_path, bases, "two matrices")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), load(adapter))
    assert jax.tree.all(jax.tree.map(np.array_equal, load(adapter, param_dtype="bfloat16"), rounded))


TIES = {
    "the embedding": ({"modules_to_save": ["embed_tokens"]}, ["model.embed_tokens.weight"]),
    "the output matrix": ({"modules_to_save": ["lm_head"]}, ["lm_head.weight"]),
    "both": (
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        ["model.embed_tokens.weight", "lm_head.weight"],
    ),
}


@pytest.mark.parametrize("name", TIES)
def test_what_changes_one_of_two_tied_matrices_leaves_the_other(name, bases, tmp_path):
    config, names = TIES[name]
    own = {key: normal(VOCAB, WIDTH) for key in names}
    adapter = write_adapter(tmp_path / "adapter", bases["tied"], pairs(bases["tied"], {"q_proj": 2}) | own, **config)
    assert not huggingface.describe(source(adapter)).config.tied_head
    params, table = load(adapter), load(bases["tied"])["embed"]["embedding"]
    np.testing.assert_array_equal(params["embed"]["embedding"], own.get("model.embed_tokens.weight", table))
    np.testing.assert_array_equal(params["head"]["kernel"].T, own.get("lm_head.weight", table))
    arch = architecture_of(BASES["tied"][0], "decoder")  # as a reference of a policy that has one matrix for both
    with pytest.raises(UserError, match=r"changes the embedding, and for PEFT not|no place in a language model"):
        huggingface.load_params(huggingface.describe(source(adapter)), "decoder", arch.shapes, arch.shardings)


def test_a_longer_vocabulary_of_the_adapter_is_the_models(bases, tmp_path):
    own = {"model.embed_tokens.weight": normal(VOCAB + 4, WIDTH), "lm_head.weight": normal(VOCAB + 4, WIDTH)}
    adapter = write_adapter(tmp_path / "adapter", bases["llama"], pairs(bases["llama"], {"q_proj": 2}) | own)
    pretrained = huggingface.describe(source(adapter))
    assert pretrained.vocab_size == VOCAB + 4
    np.testing.assert_array_equal(load(adapter)["head"]["kernel"].T, own["lm_head.weight"])
    huggingface.check_tokenizer(pretrained, tokenizer(VOCAB + 4))


def test_a_head_on_a_language_model_is_a_reward_model(bases, tmp_path):
    """Its outputs are those of the adapter's own head, named as transformers does."""
    for outputs in (1, 4):
        own = {"score.weight": normal(outputs, WIDTH)}
        adapter = write_adapter(
            tmp_path / str(outputs), bases["llama"], pairs(bases["llama"], {"q_proj": 2}) | own,
            task_type="SEQ_CLS", modules_to_save=["classifier", "score"],
        )  # fmt: skip
        pretrained = huggingface.describe(source(adapter))
        assert (pretrained.outputs, pretrained.labels) == (outputs, tuple(f"LABEL_{i}" for i in range(outputs)))
        np.testing.assert_array_equal(load(adapter, "classifier")["out"]["kernel"].T, own["score.weight"])
        with pytest.raises(UserError, match=r"trained for task_type=SEQ_CLS; expected CAUSAL_LM here"):
            load(adapter)


def test_the_fingerprint_changes_with_the_adapter_and_with_the_base(bases, tmp_path):
    base = shutil.copytree(bases["llama"], tmp_path / "base")
    tensors = pairs(base, {"q_proj": 2})
    seen = [huggingface.describe(source(base)).fingerprint]
    for changed in (tensors, {name: tensor + 1e-6 for name, tensor in tensors.items()}):
        seen += [huggingface.describe(source(write_adapter(tmp_path / "adapter", base, changed))).fingerprint for _ in range(2)]
    weights = load_file(base / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] + 1e-6}, base / "model.safetensors")
    seen.append(huggingface.describe(source(tmp_path / "adapter")).fingerprint)
    assert (seen[1], seen[3]) == (seen[2], seen[4])
    assert len(set(seen)) == 4


def test_the_base_is_the_one_that_is_named(bases, tmp_path, monkeypatch):
    """In adapter_config.json, relative to where one stands; or by the config, which goes before it."""
    monkeypatch.chdir(bases["llama"].parent)
    tensors = pairs(bases["llama"], {"q_proj": 2})
    relative = write_adapter(tmp_path / "relative", "llama", tensors)
    moved = write_adapter(tmp_path / "moved", "/gone/with/its/machine", tensors, revision="v2")
    assert huggingface.describe(source(relative)).path.resolve() == bases["llama"]
    given = huggingface.describe(source(moved, base=str(bases["llama"])))
    assert given.path == bases["llama"]
    assert given.tokenizer_path == bases["llama"]
    tokenizer().save_pretrained(str(moved))
    assert huggingface.describe(source(moved, base=str(bases["llama"]))).tokenizer_path == moved


def test_revisions_on_the_hub_are_those_of_the_config_and_of_the_adapter(bases, tmp_path, monkeypatch):
    asked = []
    adapter = write_adapter(tmp_path / "adapter", "someone/base", pairs(bases["llama"], {"q_proj": 2}), revision="v2")

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert {"adapter_config.json", "adapter_model.safetensors", "config.json"} <= set(allow_patterns)
        return str({"someone/base": bases["llama"], "someone/adapter": adapter}[name])

    monkeypatch.setattr(huggingface, "snapshot_download", snapshot_download)
    assert huggingface.describe(source("someone/base")).adapter is None
    assert huggingface.describe(source("someone/adapter", revision="1f")).path == bases["llama"]
    assert huggingface.describe(source("someone/adapter", base="someone/base")).path == bases["llama"]
    expected = [("someone/base", None), ("someone/adapter", "1f"), ("someone/base", "v2")]
    assert asked == [*expected, ("someone/adapter", None), ("someone/base", None)]
