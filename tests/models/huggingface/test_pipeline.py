"""transformers.pipeline over an exported directory continues a text as kljax does. Needs torch: pip install '.[parity]'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.command_line import compose
from kljax.config import BpeTokenizer, Config, WordTokenizer
from kljax.data import grammar, tokenizers
from kljax.data.beginnings import as_trained
from kljax.models.decoder import Decoder
from kljax.models.huggingface import models as huggingface
from kljax.models.sampling import Sampler, sample_jit
from kljax.types import Prompts

pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

TEXTS = grammar.sample_sentences(100, 0)
NEW = 6
SMALL = ["model=llama", "model.layers=1", "model.d_model=16", "model.d_mlp=24", "model.heads=2", "model.context=128"]


@pytest.mark.parametrize(
    "tokenizer", [WordTokenizer(kind="words"), BpeTokenizer(kind="bpe", vocab_size=300)], ids=lambda t: t.kind
)
def test_a_pipeline_goes_on_as_kljax_does(tokenizer, tmp_path):
    made = tokenizers.build(tokenizer, TEXTS)
    config = compose(SMALL, Config).model
    graphdef, state = nnx.split(Decoder(config, len(made), rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda p: 8 * p, nnx.to_pure_dict(state))  # so that the beginning token matters
    begun = as_trained(made).tokenizer
    huggingface.save(tmp_path / "out", "decoder", config, len(made), params, begun, "float32", card="# a card\n")
    assert (tmp_path / "out" / "README.md").read_text() == "# a card\n"
    write = transformers.pipeline("text-generation", model=str(tmp_path / "out"), return_tensors=True)
    sampler = Sampler(1, NEW, temperature=0.0, top_k=0, top_p=1.0, eos_ids=(), pad_id=made.pad_token_id)
    nothing = transformers.GenerationConfig(do_sample=False, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0)
    for text in [*TEXTS[:2], " ".join(TEXTS[2].split()[:3])]:
        prompt = [made.bos_token_id, *tokenizers.encode(made, [text])[0]]
        ours = sample_jit(
            graphdef, params, Prompts(jnp.array([prompt]), jnp.ones((1, len(prompt)), bool)), jax.random.key(0), sampler
        )
        theirs = write(text, generation_config=nothing)[0]["generated_token_ids"]
        assert theirs[: len(prompt)] == prompt
        np.testing.assert_array_equal(ours.tokens[0], theirs)
        without = write(text, generation_config=nothing, add_special_tokens=False)[0]["generated_token_ids"]
        assert without[: len(prompt) - 1] == prompt[1:]
