"""A task that can be learnt in seconds: short reviews whose opinion words say their class, their rating and which is better."""

import json
import random

import datasets
import pytest

from kljax.command_line import compose
from kljax.config import Config

WORDS = {"pos": ["fine", "great", "lovely"], "neg": ["dull", "poor", "weak"]}
PLAIN = ["the", "film", "plot", "scene", "music"]

SIZES = {
    "bert": [
        "model=bert",
        "model.layers=1",
        "model.d_model=16",
        "model.d_mlp=32",
        "model.heads=2",
        "model.context=16",
        "model.dropout=0.0",
    ],
    "gpt2": [
        *("model=gpt2", "model.layers=1", "model.d_model=16", "model.d_mlp=32", "model.heads=2", "model.kv_heads=2"),
        *("model.head_dim=8", "model.context=64"),
    ],
}

TOY = [
    "data/source=text",
    "data.prompt_fraction=0.0",
    "data.held_out_fraction=0.1",
    "tokenizer=words",
    "pretrain.steps=60",
    "pretrain.batch=16",
    "pretrain.length=12",
    "pretrain.eval_every=20",
    "pretrain.optimizer.learning_rate=0.01",
    "pretrain.optimizer.warmup_steps=5",
    "pretrain.optimizer.schedule=linear",
    "mesh.data=1",
]


def reviews(count, seed):
    """Rows with a class, a rating (opinion words, negative ones below 0) and a text that is worse."""
    rng = random.Random(seed)

    def review(label, opinions):
        words = rng.choices(PLAIN, k=rng.randint(1, 6)) + rng.choices(WORDS[label], k=opinions)
        return " ".join(rng.sample(words, len(words)))

    for _ in range(count):
        label, opinions = rng.choice(["pos", "neg"]), rng.randint(1, 3)
        rating = opinions if label == "pos" else -opinions
        yield {"text": review(label, opinions), "label": label, "rating": 10 + 4 * rating, "rejected": review("neg", 4)}


def echoes(count, seed):
    """Rows of one word, over and over: each place says what stands at the others."""
    rng = random.Random(seed)
    for word in rng.choices("abcdefgh", k=count):
        yield {"text": " ".join([word] * rng.randint(5, 10))}


@pytest.fixture(scope="session")
def toy(tmp_path_factory, compilation_cache):
    """toy(objective, *overrides, model="bert"): the config of such a fit; each call without run.root has a fresh one."""
    folder = tmp_path_factory.mktemp("toy")
    for name, rows in {"train": reviews(400, 0), "test": reviews(40, 1), "echoes": echoes(400, 2)}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")

        def make(objective, *overrides, model="bert"):
            places = [f"data.source.path={folder}/train.jsonl", f"run.root={tmp_path_factory.mktemp('runs')}"]
            choice = [f"pretrain/objective={objective}", *SIZES.get(model, []), f"run.compilation_cache={compilation_cache}"]
            return compose([*TOY, *places, *choice, *overrides], Config)

        make.test_rows = f"data.source.test_path={folder}/test.jsonl"
        make.echoes = f"data.source.path={folder}/echoes.jsonl"
        yield make
