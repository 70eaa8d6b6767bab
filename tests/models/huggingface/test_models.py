"""Import and export against transformers' own models, random weights, float32. Needs torch: pip install '.[parity]'."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import tree_leaves_with_path
from safetensors.numpy import load_file, save_file
from scipy.stats import chi2_contingency
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kljax.config import HuggingFaceModel, MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import Architecture, architecture
from kljax.models.classifier import Classifier
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.encoder import MaskedLm
from kljax.models.huggingface import files, generation_settings
from kljax.models.huggingface import models as huggingface
from kljax.models.sampling import Sampler, sample_jit
from kljax.types import Prompts

torch = pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

VOCAB, CONTEXT, PAD = 37, 24, 1
GPT2 = dict(  # noqa: C408
    n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=2
)  # fmt: skip
LLAMA = dict(  # noqa: C408
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    max_position_embeddings=CONTEXT, rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
)  # fmt: skip
MISTRAL = LLAMA | {"num_key_value_heads": 2, "sliding_window": None}
SMOLLM3 = LLAMA | {
    "num_hidden_layers": 5, "num_key_value_heads": 2, "no_rope_layer_interval": 2, "bos_token_id": 0, "eos_token_id": 2
}  # fmt: skip
OLMO2 = LLAMA | {"eos_token_id": 2}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 2.5,
    "original_max_position_embeddings": 16,
}  # fmt: skip
BIASED = {"attention_bias": True, "mlp_bias": True}
OLDER = {key: value for key, value in LLAMA.items() if key != "rope_parameters"} | {"rope_theta": 100.0}
YARN_IN_FULL = {"attention_factor": 1.2, "beta_fast": 4, "beta_slow": 0.5, "truncate": False}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 3.0, "original_max_position_embeddings": 8}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
BERT = dict(  # noqa: C408
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT
)  # fmt: skip
ROBERTA = BERT | {"max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1}
DISTILBERT = dict(dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=CONTEXT)  # noqa: C408
CASES = {
    # name → transformers' class, its config
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2, untied, one head": ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False, "n_head": 1, "n_inner": 40}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama, grouped, tied": ("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, one kv head, wide heads": ("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 1, "head_dim": 12}),
    "llama, biased": ("LlamaForCausalLM", LLAMA | BIASED),
    "qwen2, grouped": ("Qwen2ForCausalLM", LLAMA | {"num_key_value_heads": 2}),
    "qwen2, tied": ("Qwen2ForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    "qwen3, wide heads": ("Qwen3ForCausalLM", LLAMA | {"num_key_value_heads": 2, "head_dim": 16}),
    "qwen3, tied": ("Qwen3ForCausalLM", LLAMA | {"head_dim": 8, "tie_word_embeddings": True}),
    "mistral, a window as long as the context": ("MistralForCausalLM", MISTRAL | {"sliding_window": CONTEXT}),
    "mistral, no window, wide heads": ("MistralForCausalLM", MISTRAL | {"head_dim": 16}),
    "mistral, tied, one kv head": ("MistralForCausalLM", MISTRAL | {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "smollm3": ("SmolLM3ForCausalLM", SMOLLM3),
    "smollm3, untied, biased": ("SmolLM3ForCausalLM", SMOLLM3 | {"tie_word_embeddings": False} | BIASED),
    "smollm3, listed, yarn": ("SmolLM3ForCausalLM", SMOLLM3 | {"no_rope_layers": [1, 1, 0, 1, 1], "rope_parameters": YARN}),
    "smollm3, sampled": ("SmolLM3ForCausalLM", SMOLLM3 | {"rope_parameters": LLAMA3}),
    "olmo2": ("Olmo2ForCausalLM", OLMO2),
    "olmo2, grouped, tied": ("Olmo2ForCausalLM", OLMO2 | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "olmo2, one kv head, llama3": ("Olmo2ForCausalLM", OLMO2 | {"num_key_value_heads": 1, "rope_parameters": LLAMA3}),
    "linear": ("LlamaForCausalLM", LLAMA | {"rope_parameters": LINEAR}),
    "linear, wide heads": ("Qwen3ForCausalLM", LLAMA | {"head_dim": 16, "rope_parameters": LINEAR | {"factor": 8.0}}),
    "linear, older": ("LlamaForCausalLM", OLDER | {"rope_scaling": {"type": "linear", "factor": 2}}),
    "llama3": ("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "llama3, steep": ("LlamaForCausalLM", LLAMA | {"head_dim": 20, "rope_parameters": LLAMA3 | {"low_freq_factor": 2.4}}),
    "llama3, older": ("MistralForCausalLM", OLDER | {"sliding_window": None, "rope_scaling": LLAMA3}),
    "yarn": ("Qwen2ForCausalLM", LLAMA | {"num_key_value_heads": 2, "rope_parameters": YARN}),
    "yarn, not truncated": ("LlamaForCausalLM", LLAMA | {"rope_parameters": YARN | YARN_IN_FULL, "head_dim": 16}),
    "yarn, older, mscale": ("LlamaForCausalLM", OLDER | {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}}),
    "bert": ("BertForMaskedLM", BERT),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "gpt2 classifier": ("GPT2ForSequenceClassification", GPT2 | {"num_labels": 3}),
    "llama reward model": ("LlamaForSequenceClassification", LLAMA | {"num_labels": 1}),
    "qwen2 classifier": ("Qwen2ForSequenceClassification", LLAMA | {"num_labels": 3, "tie_word_embeddings": True}),
    "qwen3 classifier": ("Qwen3ForSequenceClassification", LLAMA | {"num_labels": 3, "head_dim": 16}),
    "mistral classifier": ("MistralForSequenceClassification", MISTRAL | {"num_labels": 3}),
    "smollm3 reward model": ("SmolLM3ForSequenceClassification", SMOLLM3 | {"num_labels": 1}),
    "olmo2 classifier": ("Olmo2ForSequenceClassification", OLMO2 | {"num_labels": 3}),
    "bert classifier": ("BertForSequenceClassification", BERT | {"num_labels": 3}),
    "distilbert reward model": ("DistilBertForSequenceClassification", DISTILBERT | {"num_labels": 1}),
    "roberta classifier": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 3}),
}
VALUES = {"Bert": BERT, "Roberta": ROBERTA, "DistilBert": DISTILBERT, "GPT2": GPT2, "Llama": LLAMA}
KINDS = {
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "classifier",
    "ForCausalLM": "decoder",
    "LMHeadModel": "decoder",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On cores that others use, PyTorch's threads wait for one another longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """A model of transformers, the directory that it wrote, and what we read from there."""

    kind: Any
    theirs: Any
    directory: Path
    pretrained: huggingface.Pretrained
    params: Any
    tokens: np.ndarray
    mask: np.ndarray

    def their_numbers(self, theirs) -> np.ndarray:
        """Logits of real tokens, or a classifier's outputs. Padding does not shift positions, which we do not tell RoBERTa."""
        position_ids = {"position_ids": torch.tensor(np.asarray(positions_of(jnp.asarray(self.mask))))}
        with torch.no_grad():
            given = {"input_ids": torch.tensor(self.tokens), "attention_mask": torch.tensor(self.mask)}
            roberta = theirs.config.model_type == "roberta"
            logits = theirs(**given, **({} if roberta else position_ids)).logits.float().numpy()
        return logits if self.kind == "classifier" else logits[self.mask]

    def our_numbers(self) -> np.ndarray:
        model: Any = nnx.merge(arch_of(self.pretrained, self.kind).graphdef, self.params)
        tokens, mask = jnp.asarray(self.tokens), jnp.asarray(self.mask)
        if self.kind == "classifier":
            return np.asarray(model(tokens, mask))
        if self.kind == "masked_lm":
            return np.asarray(model.logits(model.body(tokens, mask)))[self.mask]
        hidden, _ = model(tokens, positions_of(mask), causal_mask(mask))
        return np.asarray(model.logits(hidden))[self.mask]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request, tmp_path_factory) -> Case:
    name, values = CASES[request.param]
    theirs, directory = make_theirs(name, values), tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(directory)
    kind = next(kind for ending, kind in KINDS.items() if name.endswith(ending))
    pretrained = huggingface.describe(source(directory))
    rng = np.random.default_rng(0)
    tokens = rng.integers(PAD + 1, VOCAB, (4, CONTEXT))
    mask = np.arange(CONTEXT) >= np.array([0, 1, 7, CONTEXT - 1])[:, None]
    if kind == "classifier" and pretrained.config.kind == "encoder":  # transformers looks at the first column
        mask = np.flip(mask, axis=1).copy()  # torch takes no negative strides
    return Case(kind, theirs, directory, pretrained, load(pretrained, kind), np.where(mask, tokens, PAD), mask)


def make_theirs(name: str, values: dict, vocab: int = VOCAB):
    """Weights large enough for mistakes to show, biases and norms too, which transformers makes 0 and 1."""
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    theirs = cls(cls.config_class(**{"vocab_size": vocab, "pad_token_id": PAD} | values)).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            is_scale = key.endswith("weight") and parameter.ndim == 1
            parameter.normal_(mean=1.0 if is_scale else 0.0, std=0.2)
    return theirs


def source(path: Path, **changes) -> HuggingFaceModel:
    values = {
        "context": None,
        "dropout": 0.0,
        "dtype": "float32",
        "param_dtype": "float32",
        "remat": "none",
        "logit_chunk": 8,
        "vocab_chunk": None,
    }
    return HuggingFaceModel(**{"kind": "huggingface", "path": str(path)} | values | changes)


def arch_of(pretrained: huggingface.Pretrained, kind: Any, mesh: MeshConfig | None = None) -> Architecture:
    config, vocab = pretrained.config, pretrained.vocab_size
    makes: dict[str, Any] = {
        "decoder": lambda rngs: Decoder(config, vocab, rngs=rngs),  # pyright: ignore
        "masked_lm": lambda rngs: MaskedLm(config, vocab, rngs=rngs),  # pyright: ignore
        "classifier": lambda rngs: Classifier(config, vocab, pretrained.outputs or 2, rngs=rngs),
    }
    return architecture(makes[kind], meshes.build(mesh or MeshConfig(data=1, fsdp=1, tensor=1)))


def load(pretrained: huggingface.Pretrained, kind: Any, mesh: MeshConfig | None = None):
    arch = arch_of(pretrained, kind, mesh)
    return huggingface.load_params(pretrained, kind, arch.shapes, arch.shardings)


def tokenizer_for(model_type: str) -> PreTrainedTokenizerBase:
    """One token a letter. With a Qwen2 model transformers takes no other tokenizer than Qwen2's."""
    special = {"bos_token": "<bos>", "pad_token": "<pad>", "eos_token": "<eos>"}
    vocab = {token: i for i, token in enumerate([*special.values(), *(chr(ord("A") + i) for i in range(VOCAB - 3))])}
    if model_type == "qwen2":
        return transformers.Qwen2Tokenizer(vocab=vocab, merges=[], unk_token="<eos>", **special)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab, [])), **special)


def test_imported_weights_give_the_numbers_of_transformers(case, request):
    expected, actual = case.their_numbers(case.theirs), case.our_numbers()
    scale = np.abs(expected).max()
    print(f"PARITY {request.node.callspec.id}: max abs error {np.abs(actual - expected).max():.1e} at scale {scale:.2f}")
    assert scale > 0.5
    np.testing.assert_allclose(actual, expected, atol=1e-5 * scale, rtol=0)


def test_exported_weights_are_the_same_bits_and_give_transformers_the_same_numbers(case, tmp_path):
    labels, tokenizer = case.pretrained.labels, tokenizer_for(case.theirs.config.model_type)
    out = tmp_path / "made" / "on the way"
    config, vocab = case.pretrained.config, case.pretrained.vocab_size
    huggingface.save(out, case.kind, config, vocab, case.params, tokenizer, "float32", labels)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    written, original = load_file(out / "model.safetensors"), load_file(case.directory / "model.safetensors")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    # A Mistral without a window is a Llama, and is written as one
    name = type(case.theirs).__name__.replace("Mistral", "Llama")
    theirs, report = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    np.testing.assert_array_equal(case.their_numbers(theirs.eval()), case.their_numbers(case.theirs))
    again = huggingface.describe(source(out))
    assert (again.config, again.outputs, again.labels) == (config, case.pretrained.outputs, labels)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert their_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert their_tokenizer("ABBA")["input_ids"] == tokenizer("ABBA")["input_ids"]
    assert (theirs.config.bos_token_id, theirs.config.pad_token_id, theirs.config.eos_token_id) == (0, PAD, 2)
    assert (out / "generation_config.json").exists() == (case.kind == "decoder")


@pytest.mark.parametrize("case", ["smollm3, sampled"], indirect=True)
def test_greedy_text_is_that_of_generate(case):
    """With a cache, layers without positions, scaled ones beyond the original context, and prompts of several lengths."""
    width, new = 12, CONTEXT - 12
    tokens, mask = case.tokens[:, -width:], case.mask[:, -width:]
    sampler = Sampler(samples=1, max_new_tokens=new, temperature=0.0, top_k=0, top_p=1.0, eos_ids=(), pad_id=PAD)
    arch = arch_of(case.pretrained, case.kind)
    ours = sample_jit(arch.graphdef, case.params, Prompts(jnp.asarray(tokens), jnp.asarray(mask)), jax.random.key(0), sampler)
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask).long()}
    theirs = case.theirs.generate(**given, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=PAD)
    np.testing.assert_array_equal(ours.tokens, theirs.numpy())
    assert len({*np.asarray(ours.completion).ravel().tolist()}) > 5


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(name, **changes): the directory of such a model of transformers, in one file or, by `max_shard_size`, several."""

    def write(name: str, values: dict, max_shard_size="5GB", dtype=torch.float32) -> Path:
        directory = tmp_path_factory.mktemp("written")
        make_theirs(name, values, vocab=40).to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
        return directory

    return write


def edit(directory: Path, change) -> None:
    """change(tensors) on the directory's weights."""
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors), directory / "model.safetensors", metadata={"format": "pt"})


def read(directory: Path, kind: Any, **changes):
    return load(huggingface.describe(source(directory, **changes)), kind)


def assert_equal(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, ours), (_, theirs) in zip(tree_leaves_with_path(actual), tree_leaves_with_path(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("GPT2LMHeadModel", GPT2, "decoder"),
        ("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 2}, "decoder"),
        ("Olmo2ForCausalLM", OLMO2 | {"num_key_value_heads": 2}, "decoder"),
        ("RobertaForMaskedLM", ROBERTA, "masked_lm"),
    ],
)
def test_weights_on_a_mesh_are_those_of_one_device_each_on_its_shard(name, values, kind, written):
    pretrained = huggingface.describe(source(written(name, values)))
    alone = load(pretrained, kind)
    for mesh in (MeshConfig(data=1, fsdp=4, tensor=2), MeshConfig(data=2, fsdp=2, tensor=2)):
        sharded, shardings = load(pretrained, kind, mesh), arch_of(pretrained, kind, mesh).shardings
        assert_equal(sharded, alone)
        assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == shardings


def test_each_device_reads_its_part_of_a_tensor_alone_and_copies_are_read_once(written, monkeypatch):
    pretrained, sizes = huggingface.describe(source(written("GPT2LMHeadModel", GPT2))), []
    arch = arch_of(pretrained, "decoder", MeshConfig(data=2, fsdp=2, tensor=2))
    real = files.read_block

    def count(*arguments, **options):
        sizes.append((block := real(*arguments, **options)).size)
        return block

    monkeypatch.setattr(files, "read_block", count)
    huggingface.load_params(pretrained, "decoder", arch.shapes, arch.shardings)
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(arch.shapes))
    assert max(sizes) == 32 * 4 * 32 // 4


def test_several_files_are_read_as_one(written):
    several, one = (written("Qwen3ForCausalLM", LLAMA | {"head_dim": 16}, size) for size in ("20KB", "5GB"))
    assert len(list(several.glob("model-*.safetensors"))) > 2
    assert_equal(read(several, "decoder"), read(one, "decoder"))


def test_large_weights_are_written_to_several_files(written, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE_SIZE", "20KB")
    pretrained = huggingface.describe(source(written("LlamaForCausalLM", LLAMA)))
    params, out = load(pretrained, "decoder"), tmp_path / "out"
    huggingface.save(out, "decoder", pretrained.config, 40, params, tokenizer_for("llama"), "float32")
    assert len(list(out.glob("model-*.safetensors"))) > 2
    theirs, report = transformers.LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    expected = make_theirs("LlamaForCausalLM", LLAMA, vocab=40).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in theirs.state_dict().items())


def test_completions_with_several_ends_are_as_long_as_those_of_generate(written):
    """How many have each length and last token, both from the directory's files alone; another set of ends would show."""
    directory, ends, rows, longest = written("GPT2LMHeadModel", GPT2), [2, 7, 11], 2000, 10
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": ends, "top_k": 0, "do_sample": True}))
    model = transformers.GPT2LMHeadModel.from_pretrained(directory).eval()
    torch.manual_seed(0)
    generated = model.generate(torch.tensor([[5, 9, 3]]), num_return_sequences=rows, max_new_tokens=longest)[:, 3:].numpy()
    lengths = [next((t + 1 for t, token in enumerate(row) if token in ends), longest) for row in generated.tolist()]
    theirs = by_length_and_last(generated, np.array(lengths))

    pretrained = huggingface.describe(source(directory))
    found = generation_settings.read(directory, tokenizer_for("gpt2"), 40, "model.path")
    graphdef, params = arch_of(pretrained, "decoder").graphdef, load(pretrained, "decoder")
    prompt = Prompts(jnp.array([[5, 9, 3]]), jnp.ones((1, 3), bool))

    def ours(eos_ids):
        sampler = Sampler(rows, longest, temperature=1.0, top_k=0, top_p=1.0, eos_ids=eos_ids, pad_id=PAD)
        rollout = sample_jit(graphdef, params, prompt, jax.random.key(0), sampler)
        return by_length_and_last(np.asarray(rollout.completion), np.asarray(rollout.mask).sum(axis=1))

    assert p_value(ours(found.ends), theirs) > 1e-3
    assert p_value(ours((2,)), theirs) < 1e-9
    assert p_value(ours((2, 7)), theirs) < 1e-9


def by_length_and_last(completions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many completions have each length and last token."""
    last = completions[np.arange(len(lengths)), lengths - 1]
    return np.bincount(lengths * 40 + last, minlength=40 * (completions.shape[1] + 1))


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Of two samples of one distribution, by chi-squared; rare cells together."""
    rare = a + b < 20
    table = np.array([[*counts[~rare], counts[rare].sum()] for counts in (a, b)])
    return float(chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


def test_dtypes_are_those_of_the_configs_on_both_ways(written, tmp_path):
    dtypes = torch.float32, torch.bfloat16, torch.float16
    full, half, other = (written("LlamaForCausalLM", LLAMA, dtype=dtype) for dtype in dtypes)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), read(full, "decoder"))
    assert_equal(read(full, "decoder", param_dtype="bfloat16"), rounded)
    assert_equal(read(half, "decoder"), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded))
    in_float16 = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), read(full, "decoder"))
    assert_equal(read(other, "decoder"), in_float16)
    pretrained = huggingface.describe(source(full))
    huggingface.save(
        tmp_path / "out", "decoder", pretrained.config, 40, read(full, "decoder"), tokenizer_for("llama"), "bfloat16"
    )
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    expected = make_theirs("LlamaForCausalLM", LLAMA, vocab=40).to(torch.bfloat16).state_dict()
    assert theirs.dtype == torch.bfloat16
    assert all(torch.equal(tensor, expected[name]) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("name", "values", "kind", "rows"),
    [("GPT2LMHeadModel", GPT2, "decoder", 6), ("RobertaForMaskedLM", ROBERTA, "masked_lm", 6 + 2)],
)
def test_a_shorter_context_reads_the_first_positions(name, values, kind, rows, written):
    directory = written(name, values)
    whole, short = (read(directory, kind, context=context) for context in (None, 6))
    tables = [params if kind == "decoder" else params["body"] for params in (whole, short)]
    table, first = (of["learned_positions"]["embedding"] for of in tables)
    np.testing.assert_array_equal(first, table[:rows])
    assert huggingface.describe(source(directory, context=6)).config.context == 6


@pytest.mark.parametrize(
    ("name", "values", "kind", "prefix"),
    [
        ("GPT2Model", GPT2, "decoder", "transformer."),
        ("LlamaModel", LLAMA | {"tie_word_embeddings": True}, "decoder", "model."),
        ("BertModel", BERT, "masked_lm", "bert."),
        ("RobertaModel", ROBERTA, "masked_lm", "roberta."),
        ("DistilBertModel", DISTILBERT, "masked_lm", "distilbert."),
    ],
)
def test_the_body_alone_is_read_with_and_without_its_prefix_and_the_head_left_out(name, values, kind, prefix, written):
    directory = written(name, values)
    params, shapes = read(directory, kind), arch_of(huggingface.describe(source(directory)), kind).shapes
    assert set(shapes) - set(params) == (set() if kind == "decoder" else {"dense", "norm", "bias"})
    assert jax.tree.structure(params) == jax.tree.structure({key: shapes[key] for key in params})
    edit(directory, lambda tensors: {f"{prefix}{key}": tensor for key, tensor in tensors.items()})
    assert_equal(read(directory, kind), params)


def test_the_pooler_of_a_bert_without_a_head_is_the_dense_layer_of_a_classifier(written):
    directory = written("BertModel", BERT)
    params, tensors = read(directory, "classifier"), load_file(directory / "model.safetensors")
    assert sorted(params) == ["body", "dense"]
    np.testing.assert_array_equal(params["dense"]["kernel"], tensors["pooler.dense.weight"].T)
    np.testing.assert_array_equal(params["dense"]["bias"], tensors["pooler.dense.bias"])


@pytest.mark.parametrize(
    ("name", "kind", "left_out"),
    [
        ("BertForSequenceClassification", "masked_lm", {"dense", "norm", "bias"}),
        ("BertForMaskedLM", "classifier", {"dense", "out"}),
        ("BertForPreTraining", "masked_lm", set()),
        ("BertForPreTraining", "classifier", {"out"}),
        ("RobertaForSequenceClassification", "masked_lm", {"dense", "norm", "bias"}),
        ("RobertaForMaskedLM", "classifier", {"dense", "out"}),
        ("DistilBertForSequenceClassification", "masked_lm", {"dense", "norm", "bias"}),
        ("DistilBertForMaskedLM", "classifier", {"dense", "out"}),
        ("GPT2LMHeadModel", "classifier", {"out"}),
        ("LlamaForCausalLM", "classifier", {"out"}),
    ],
)
def test_heads_of_another_kind_are_ignored(name, kind, left_out, written):
    values = next(v for start, v in VALUES.items() if name.startswith(start))
    pretrained = huggingface.describe(source(written(name, values)))
    params = load(pretrained, kind)
    assert set(arch_of(pretrained, kind).shapes) - set(params) == left_out
    assert (pretrained.outputs, len(pretrained.labels)) == ((2, 2) if "Classification" in name else (0, 0))


def test_buffers_tied_copies_and_names_of_older_files_are_understood(written):
    gpt2, bert = written("GPT2LMHeadModel", GPT2), written("BertForMaskedLM", BERT)
    expected = [read(gpt2, "decoder"), read(bert, "masked_lm")]

    def age_gpt2(tensors):
        buffers = {"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), bool), "transformer.h.0.attn.masked_bias": np.ones(())}
        return tensors | buffers | {"lm_head.weight": tensors["transformer.wte.weight"].copy()}

    def age_bert(tensors):
        endings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in endings.items():
            tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
        ties = {"weight": "bert.embeddings.word_embeddings.weight", "bias": "cls.predictions.bias"}
        tied = {f"cls.predictions.decoder.{end}": tensors[original].copy() for end, original in ties.items()}
        return tensors | tied | {"bert.embeddings.position_ids": np.arange(24)[None]}

    edit(gpt2, age_gpt2)
    edit(bert, age_bert)
    for aged, before in zip((read(gpt2, "decoder"), read(bert, "masked_lm")), expected, strict=True):
        assert_equal(aged, before)


def test_labels_are_named_in_order_on_both_ways(written, tmp_path):
    directory = written("BertForSequenceClassification", BERT | {"id2label": {0: "bad", 1: "good"}})
    pretrained = huggingface.describe(source(directory))
    assert (pretrained.outputs, pretrained.labels) == (2, ("bad", "good"))
    params, config = load(pretrained, "classifier"), pretrained.config
    huggingface.save(tmp_path / "named", "classifier", config, 40, params, tokenizer_for("bert"), "float32", ["no", "yes"])
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "named")
    assert (theirs.id2label, theirs.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert theirs.problem_type == "single_label_classification"


def test_one_output_is_a_regression_for_transformers(written, tmp_path):
    pretrained = huggingface.describe(source(written("GPT2ForSequenceClassification", GPT2 | {"num_labels": 1})))
    params = load(pretrained, "classifier")
    huggingface.save(tmp_path / "out", "classifier", pretrained.config, 40, params, tokenizer_for("gpt2"), "float32")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["problem_type"], values["pad_token_id"]) == ("regression", PAD)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_labels == 1
