"""The decoder against transformers' own GPT-2 and Llama, random weights, float32. Needs torch: pip install '.[parity]'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.config import ModelConfig
from kljax.models.decoder import Decoder, causal_mask, positions_of

torch = pytest.importorskip("torch", reason="torch is not installed (extra: parity)")
transformers = pytest.importorskip("transformers")

VOCAB, LAYERS, D_MODEL, D_MLP, HEADS, CONTEXT = 37, 2, 32, 48, 4, 24
SHARED = dict(  # noqa: C408
    layers=LAYERS, d_model=D_MODEL, d_mlp=D_MLP, heads=HEADS, head_dim=D_MODEL // HEADS, context=CONTEXT,
    rope_theta=10000.0, dropout=0.0, dtype="float32", remat=False, logit_chunk=8,
)  # fmt: skip
GPT2 = ModelConfig(
    positions="learned", norm="layer", mlp="gelu", bias=True, tied_head=True, kv_heads=HEADS, norm_eps=1e-5, **SHARED
)


def llama(kv_heads: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        positions="rotary", norm="rms", mlp="swiglu", bias=False, tied_head=tied, kv_heads=kv_heads, norm_eps=1e-6, **SHARED
    )


def test_gpt2_gives_the_logits_of_transformers():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS, n_inner=D_MLP,
        initializer_range=0.2,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    compare(theirs, GPT2, gpt2_params(weights))


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, False), (2, True), (1, False)])
def test_llama_gives_the_logits_of_transformers(kv_heads, tied):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_MLP, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=kv_heads, max_position_embeddings=CONTEXT, tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    compare(theirs, llama(kv_heads, tied), llama_params(weights, tied))


def compare(theirs, config, params):
    """Logits of real tokens, with left padding of several lengths, within float32 rounding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (4, CONTEXT))
    mask = np.arange(CONTEXT) >= np.array([0, 1, 7, CONTEXT - 1])[:, None]
    graphdef = nnx.graphdef(Decoder(config, VOCAB, rngs=nnx.Rngs(0)))
    model = nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))
    positions = positions_of(jnp.asarray(mask))
    hidden, _ = model(jnp.asarray(tokens), positions, causal_mask(jnp.asarray(mask)))
    with torch.no_grad():
        expected = theirs(
            torch.tensor(tokens), attention_mask=torch.tensor(mask), position_ids=torch.tensor(np.asarray(positions))
        ).logits.numpy()
    actual = np.asarray(model.logits(hidden))
    scale = np.abs(expected[mask]).max()
    np.testing.assert_allclose(actual[mask], expected[mask], atol=1e-5 * scale)


def gpt2_params(w):
    def linear(name):
        return {"kernel": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def norm(name):
        return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def layer(i):
        name = f"transformer.h.{i}"
        qkv = linear(f"{name}.attn.c_attn")
        parts = zip(np.split(qkv["kernel"], 3, axis=1), np.split(qkv["bias"], 3), strict=True)
        q, k, v = ({"kernel": kernel, "bias": bias} for kernel, bias in parts)
        return {
            "attention_norm": norm(f"{name}.ln_1"),
            "attention": {"q": q, "k": k, "v": v, "out": linear(f"{name}.attn.c_proj")},
            "mlp_norm": norm(f"{name}.ln_2"),
            "mlp": {"up": linear(f"{name}.mlp.c_fc"), "down": linear(f"{name}.mlp.c_proj")},
        }

    return {
        "embed": {"embedding": w["transformer.wte.weight"]},
        "learned_positions": {"embedding": w["transformer.wpe.weight"]},
        "layers": {i: layer(i) for i in range(LAYERS)},
        "final_norm": norm("transformer.ln_f"),
    }


def llama_params(w, tied):
    def linear(name):
        return {"kernel": w[f"{name}.weight"].T}

    def layer(i):
        name = f"model.layers.{i}"
        return {
            "attention_norm": {"scale": w[f"{name}.input_layernorm.weight"]},
            "attention": {
                ours: linear(f"{name}.self_attn.{theirs}_proj")
                for ours, theirs in zip(("q", "k", "v", "out"), "qkvo", strict=True)
            },
            "mlp_norm": {"scale": w[f"{name}.post_attention_layernorm.weight"]},
            "mlp": {part: linear(f"{name}.mlp.{part}_proj") for part in ("gate", "up", "down")},
        }

    head = {} if tied else {"head": linear("lm_head")}
    return {
        "embed": {"embedding": w["model.embed_tokens.weight"]},
        "layers": {i: layer(i) for i in range(LAYERS)},
        "final_norm": {"scale": w["model.norm.weight"]},
    } | head
