"""Real weights: SmolLM2-135M-Instruct (Llama) and all-MiniLM-L6-v2 (BERT) give what transformers gives.

The directories are made by ../shared/tools/pretrained.py, once, in the system's folder for temporary files.
"""

import contextlib
import getpass
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pyarrow import parquet

from kljax.config import HuggingFaceModel, MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import architecture
from kljax.models.decoder import Decoder, causal_mask, positions_of
from kljax.models.encoder import Encoder, MaskedLm
from kljax.models.huggingface import models as huggingface
from kljax.models.sampling import Sampler, sample_jit
from kljax.types import Prompts

torch = pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
transformers = pytest.importorskip("transformers")

SHARED = Path(__file__).parents[4] / "shared"
SCRIPT = SHARED / "tools" / "pretrained.py"
FOLDER = Path(tempfile.gettempdir()) / f"kljax-tests-models-{getpass.getuser()}"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SCRIPT.exists(), reason=f"needs {SCRIPT}"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf"),
]
CONTEXT = 128


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On cores that others use, PyTorch's threads wait for one another, ten times as long as they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return parquet.read_table(SHARED / "data" / "movie_reviews.parquet")["text"].slice(0, 8).to_pylist()


@pytest.fixture(scope="module")
def made():
    """made(name): the directory of that model."""

    def make(name: str) -> Path:
        if not (FOLDER / name).exists():
            FOLDER.mkdir(exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=FOLDER))
            subprocess.run([sys.executable, str(SCRIPT), name, str(partial / name)], check=True, capture_output=True)
            with contextlib.suppress(OSError):  # another process of the tests was faster
                (partial / name).rename(FOLDER / name)
            shutil.rmtree(partial)
        return FOLDER / name

    return make


def describe(path: Path) -> huggingface.Pretrained:
    source = HuggingFaceModel(
        kind="huggingface", path=str(path), context=CONTEXT, dropout=0.0, dtype="float32", param_dtype="float32", remat="none",
        logit_chunk=16, vocab_chunk=None,
    )  # fmt: skip
    return huggingface.describe(source)


def load(pretrained: huggingface.Pretrained, kind: Any, make):
    arch = architecture(make, meshes.build(MeshConfig(data=1, fsdp=1, tensor=1)))
    return huggingface.load_params(pretrained, kind, arch.shapes, arch.shardings), arch.graphdef


@pytest.fixture(scope="module")
def smollm2(made):
    """Its directory, our model and theirs, in float32."""
    path = made("smollm2")
    pretrained = describe(path)
    config: Any = pretrained.config
    params, graphdef = load(pretrained, "decoder", lambda rngs: Decoder(config, pretrained.vocab_size, rngs=rngs))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return path, graphdef, params, theirs


@pytest.fixture(scope="module")
def prompts(smollm2, texts) -> Prompts:
    """The beginnings of eight reviews, of different lengths, padded on the left."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2[0], padding_side="left")
    cut = [" ".join(text.split()[: 4 + 3 * i]) for i, text in enumerate(texts)]
    encoded = tokenizer(cut, padding=True, return_tensors="np")
    return Prompts(jnp.asarray(encoded["input_ids"], jnp.int32), jnp.asarray(encoded["attention_mask"], bool))


def test_smollm2_gives_the_logits_of_transformers(smollm2, prompts):
    _, graphdef, params, theirs = smollm2
    tokens, mask = np.asarray(prompts.tokens), np.asarray(prompts.mask)

    @jax.jit
    def logits(params):
        model: Any = nnx.merge(graphdef, params)
        hidden, _ = model(prompts.tokens, positions_of(prompts.mask), causal_mask(prompts.mask))
        return model.logits(hidden)

    with torch.no_grad():
        given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
        expected = theirs(**given, position_ids=torch.tensor(np.asarray(positions_of(prompts.mask)))).logits.numpy()[mask]
    actual = np.asarray(logits(params))[mask]
    scale = np.abs(expected).max()
    print(f"SMOLLM2 max abs error {np.abs(actual - expected).max():.1e} at scale {scale:.1f}")
    np.testing.assert_allclose(actual, expected, atol=1e-4 * scale, rtol=0)


def test_greedy_sampling_from_smollm2_writes_the_tokens_of_transformers(smollm2, prompts):
    path, graphdef, params, theirs = smollm2
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    sampler = Sampler(
        samples=1, max_new_tokens=32, temperature=0.0, top_k=0, top_p=1.0, eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
    )  # fmt: skip
    ours = sample_jit(graphdef, params, prompts, jax.random.key(0), sampler)
    with torch.no_grad():
        given = {
            "input_ids": torch.tensor(np.asarray(prompts.tokens)),
            "attention_mask": torch.tensor(np.asarray(prompts.mask)),
        }
        expected = theirs.generate(**given, max_new_tokens=32, do_sample=False).numpy()
    assert expected.shape == ours.tokens.shape
    np.testing.assert_array_equal(np.asarray(ours.tokens), expected)


def test_minilm_gives_the_hidden_states_of_transformers(made, texts):
    path = made("minilm")
    pretrained = describe(path)
    config: Any = pretrained.config
    params, _ = load(pretrained, "masked_lm", lambda rngs: MaskedLm(config, pretrained.vocab_size, rngs=rngs))
    assert sorted(params) == ["body"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="np")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"].astype(bool)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Encoder(config, pretrained.vocab_size, rngs=nnx.Rngs(0))))

    @jax.jit
    def hidden(params):
        return nnx.merge(graphdef, params)(jnp.asarray(tokens), jnp.asarray(mask))

    theirs = transformers.AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
        expected = theirs(**given).last_hidden_state.numpy()[mask]
    actual = np.asarray(hidden(params["body"]))[mask]
    scale = np.abs(expected).max()
    print(f"MINILM max abs error {np.abs(actual - expected).max():.1e} at scale {scale:.1f}")
    np.testing.assert_allclose(actual, expected, atol=1e-4 * scale, rtol=0)
