"""Small base models and LoRA adapters for them as PEFT lays them out, made here by hand, and what PEFT would make of both."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from kljax.config import DecoderConfig, EncoderConfig, HuggingFaceModel, MeshConfig
from kljax.devices import mesh as meshes
from kljax.devices.state import architecture
from kljax.models.classifier import Classifier
from kljax.models.decoder import Decoder
from kljax.models.encoder import MaskedLm
from kljax.models.huggingface import models as huggingface

VOCAB, WIDTH = 12, 8
WEIGHTS = "adapter_model.safetensors"
SIZES: dict[str, Any] = {
    "layers": 2, "d_model": WIDTH, "d_mlp": 12, "heads": 2, "context": 6, "norm_eps": 1e-12, "dropout": 0.0,
    "dtype": "float32", "param_dtype": "float32", "remat": "none", "logit_chunk": 4,
}  # fmt: skip
LLAMA = DecoderConfig(
    **SIZES, kind="decoder", vocab_chunk=None, kv_heads=2, head_dim=4, rope_theta=1e4, qk_norm=False, tied_head=False,
    positions="rotary", norm="rms", mlp="swiglu", bias="none",
)  # fmt: skip
TIED = replace(LLAMA, tied_head=True)
GPT2 = replace(LLAMA, positions="learned", norm="layer", mlp="gelu", bias="all", tied_head=True)
BERT = EncoderConfig(**SIZES, kind="encoder", first_position=0, segments=2, head="tanh")

BASES: dict[str, tuple[DecoderConfig | EncoderConfig, Any, int]] = {
    #          parts, kind, outputs
    "llama": (LLAMA, "decoder", 0),
    "tied": (TIED, "decoder", 0),
    "gpt2": (GPT2, "decoder", 0),
    "bert": (BERT, "masked_lm", 0),
    "bert classifier": (BERT, "classifier", 3),
    "reward": (LLAMA, "classifier", 1),
}


def architecture_of(config, kind, vocab=VOCAB, outputs=2, mesh=None):
    makes: dict[str, Any] = {
        "decoder": lambda rngs: Decoder(config, vocab, rngs=rngs),
        "masked_lm": lambda rngs: MaskedLm(config, vocab, rngs=rngs),
        "classifier": lambda rngs: Classifier(config, vocab, outputs or 2, rngs=rngs),
    }
    return architecture(makes[kind], meshes.build(mesh or MeshConfig(data=1, fsdp=1, tensor=1)))


def tokenizer(size=VOCAB):
    vocab = {f"w{i}": i for i in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab)), pad_token="w0", bos_token="w1", eos_token="w2"
    )


def write_base(folder: Path, name: str) -> Path:
    """A model with random weights in folder/name."""
    config, kind, outputs = BASES[name]
    rng = np.random.default_rng(0)
    shapes = architecture_of(config, kind, outputs=outputs).shapes
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    huggingface.save(folder / name, kind, config, VOCAB, params, tokenizer(), "float32")
    return folder / name


def write_adapter(folder: Path, base: Path | str | None, tensors: dict[str, np.ndarray], **config) -> Path:
    """PEFT's two files, `tensors` named without what each name begins with."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"],
        "base_model_name_or_path": None if base is None else str(base), "bias": "none", "init_lora_weights": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    save_file({f"base_model.model.{name}": np.ascontiguousarray(t) for name, t in tensors.items()}, folder / WEIGHTS)
    return folder


def pairs(base: Path, ranks: dict[str, int], seed: int = 1) -> dict[str, np.ndarray]:
    """Random A and B for each module whose name ends so, of that rank: a Conv1D's and an embedding's as they lie there."""
    rng, made = np.random.default_rng(seed), {}
    for module, (end, shape) in _modules(base, ranks).items():
        draw = [rng.standard_normal(size).astype(np.float32) for size in ((ranks[end], shape[1]), (shape[0], ranks[end]))]
        names = ("lora_embedding_A", "lora_embedding_B") if _is_table(module) else ("lora_A.weight", "lora_B.weight")
        made |= {f"{module}.{name}": matrix for name, matrix in zip(names, draw, strict=True)}
    return made


def write_merged(folder: Path, base: Path, tensors: dict[str, np.ndarray], scales: dict[str, float]) -> Path:
    """The whole model that PEFT's merge would make, its sums in float64; other tensors take the place of the base's."""
    merged = load_file(base / "model.safetensors")
    for name, tensor in tensors.items():
        if "lora_" not in name:
            merged[name.replace(".base_layer", "")] = tensor
    for module, (end, _) in _modules(base, scales).items():
        names = ("lora_embedding_A", "lora_embedding_B") if _is_table(module) else ("lora_A.weight", "lora_B.weight")
        a, b = (tensors[f"{module}.{name}"].astype(np.float64) for name in names)
        product = scales[end] * b @ a
        old = merged[f"{module}.weight"]
        merged[f"{module}.weight"] = (old + (product if _lies_out_in(base, module) else product.T)).astype(np.float32)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((base / "config.json").read_text())
    save_file(merged, folder / "model.safetensors")
    return folder


def _modules(base: Path, ends) -> dict[str, tuple[str, tuple[int, int]]]:
    """module → (the end by which it was found, [out, in])."""
    found = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        for end in ends:
            if name.endswith(".weight") and f".{module}".endswith(f".{end}"):
                found[module] = (end, tensor.shape if _lies_out_in(base, module) else tensor.shape[::-1])
    return found


def _is_table(module: str) -> bool:
    return module.endswith(("embed_tokens", "wte", "wpe", "word_embeddings"))


def _lies_out_in(base: Path, module: str) -> bool:
    is_conv1d = json.loads((base / "config.json").read_text())["model_type"] == "gpt2" and ".h." in module
    return not (is_conv1d or _is_table(module))


def source(path, **changes) -> HuggingFaceModel:
    values = {key: SIZES[key] for key in ("dropout", "dtype", "param_dtype", "remat", "logit_chunk")}
    return HuggingFaceModel(
        **{"kind": "huggingface", "vocab_chunk": None, "path": str(path), "context": None} | values | changes
    )


def load(path, kind="decoder", mesh=None, **changes):
    pretrained = huggingface.describe(source(path, **changes))
    arch = architecture_of(pretrained.config, kind, pretrained.vocab_size, pretrained.outputs, mesh)
    return huggingface.load_params(pretrained, kind, arch.shapes, arch.shardings)
