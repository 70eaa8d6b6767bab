"""What the README's commands are given: the reader's own files, as it shows them, and small models in the place of large ones.

`python -m tests.readme.fixtures FOLDER` writes them with nothing but what kljax needs.
"""

import csv
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODEL, REWARD_MODEL = "model", "reward_model"  # folders in the place of DIR
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def write(folder: Path) -> None:
    """The README's reviews.csv, longer, its my_rewards.py and its my_task.py."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in ("my_rewards.py", "my_task.py"):
        (folder / name).write_text(_block(readme, "python", f"# {name}"), "utf-8")
    rows = list(csv.DictReader(_block(readme, "csv", "").splitlines()))
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, *({**rows[0], "review": text} for text in reviews())])


def reviews() -> list[str]:
    """Some hundred short reviews."""
    kinds, things = ("warm", "funny", "long", "slow", "sharp", "quiet"), ("film", "story", "comedy", "thriller", "plot")
    ends = ("that I would see again", "without a point", "with fine actors", "and no more", "for a rainy day", "to forget soon")
    found = product(kinds, kinds, things, ends)
    return [f"A {kind} and {other} {thing} {end}." for kind, other, thing, end in found if kind != other]


def write_models(folder: Path) -> None:
    """A decoder whose tokenizer has a chat template, and a reward model with the tokenizer of the built-in task."""
    from flax import nnx

    from kljax.command_line import compose
    from kljax.config import Config
    from kljax.models.classifier import Classifier
    from kljax.models.decoder import Decoder
    from kljax.models.huggingface import models as huggingface
    from kljax.runs.setup import prepare

    tokenizer = _chat_tokenizer()
    small = ["model=llama", "model.d_model=32", "model.layers=1", "model.context=128", "mesh.data=1"]
    model: Any = compose(small, Config).model
    params = nnx.to_pure_dict(nnx.state(Decoder(model, len(tokenizer), rngs=nnx.Rngs(0))))
    huggingface.save(folder / MODEL, "decoder", model, len(tokenizer), params, tokenizer, "float32")
    setup = prepare(compose([*small, "data.source.sentences=400"], Config))
    params = nnx.to_pure_dict(nnx.state(Classifier(model, setup.vocab_size, 1, rngs=nnx.Rngs(1))))
    folder = folder / REWARD_MODEL
    huggingface.save(folder, "classifier", model, setup.vocab_size, params, setup.tokenizer, "float32", ("score",))


def _chat_tokenizer() -> Any:
    import tokenizers as backend
    from transformers import PreTrainedTokenizerFast

    bpe = backend.Tokenizer(backend.models.BPE())
    bpe.pre_tokenizer = backend.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = backend.decoders.ByteLevel()
    alphabet = backend.pre_tokenizers.ByteLevel.alphabet()
    sizes: Any = {"vocab_size": 500, "special_tokens": SPECIAL, "initial_alphabet": alphabet}
    bpe.train_from_iterator(reviews(), backend.trainers.BpeTrainer(**sizes, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2])
    made.chat_template = TEMPLATE
    return made


def _block(text: str, language: str, begins: str) -> str:
    """The code of the README's first block in this language that begins so."""
    found = re.search(rf"^```{language}\n({re.escape(begins)}.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"README.md shows no ```{language} block that begins with {begins!r}"
    return found[1]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    write_models(Path(sys.argv[1]))
