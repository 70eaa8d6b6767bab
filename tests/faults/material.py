"""Small valid configs, Hugging Face directories, tokenizers, data files and runs; and what reads them, as a user's commands do.

A reader returns, or raises UserError: anything else is a fault.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import yaml
from safetensors.numpy import load_file, save_file

from kljax.analysis import frontier
from kljax.command_line import compose
from kljax.config import BpeTokenizer, Config, MeshConfig, TextSource
from kljax.data import tokenizers
from kljax.data.text import load_rows
from kljax.models.huggingface import generation_settings
from kljax.models.huggingface import models as huggingface
from kljax.rewards.user_code import custom_terms
from kljax.runs import directory
from kljax.runs.config_file import check_owner, find_runs, identity, read_run_config
from kljax.runs.directory import JsonLines
from kljax.runs.restore import restore
from kljax.training.loop import train
from tests.models.huggingface import peft_directories as peft

ONE = MeshConfig(data=1, fsdp=1, tensor=1)
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
CHAT = [{"role": "user", "content": "a fine film"}, {"role": "assistant", "content": "yes"}]
TEXTS = ["a fine film", "a dull plot, and no music", "what a scene", "the plot is a scene"] * 8
OVERRIDES = (
    "name=mine", "seed=3", "steps=40", "kl.beta=0.3", "kl.penalty=k1_reward", "kl/controller=target",
    "kl.controller.budget=2.0",
    "kl/divergence=renyi", "kl.penalty=exact", "model=llama", "model.layers=2", "model.d_model=64", "model.heads=4",
    "reward=[sentiment,length]", "reward.length.weight=-0.1",
    "+reward.b={kind: python, function: f, weight: 1.0, arguments: {}}",
    "adapter=lora", "adapter.rank=4", "rollout.samples=2", "mesh.data=1", "data/prompt=whole", "data.prompt.max_tokens=4",
    "data/source=text", "data.source.path=[a.csv,b.csv]", "tokenizer=bpe", "tokenizer.vocab_size=300", "~reward.length",
    "experiment=mine", "run.root=/tmp/x", "pretrain.steps=4", "optimizer.learning_rate=1e-3", "evaluation.prompts=4",
)  # fmt: skip
RUN = (
    "data.source.sentences=400", "model.layers=1", "model.d_model=16", "model.d_mlp=32", "model.heads=2", "model.kv_heads=2",
    "model.head_dim=8", "pretrain.steps=4", "pretrain.eval_every=4", "pretrain.batch=8", "pretrain.optimizer.warmup_steps=1",
    "rollout.prompts=4", "rollout.samples=2", "rollout.max_new_tokens=4", "steps=2", "optimizer.warmup_steps=1",
    "evaluation.prompts=4", "evaluation.samples=2", "run.save_every=1", "mesh.data=1",
)  # fmt: skip


def make_all(folder: Path, *overrides: str) -> None:
    """Valid material of each kind below the folder."""
    (folder / "config").mkdir(parents=True)
    _config(folder / "config")
    _tokenizer(folder / "tokenizer" / "t")
    _models(folder / "models")
    _adapter(folder / "adapter")
    _data(folder / "data")
    _run(folder / "run", overrides)


def _config(folder: Path) -> None:
    """Overrides, a line each, and an experiment's file."""
    (folder / "all.overrides").write_text("\n".join(OVERRIDES))
    (folder / "experiment").mkdir()
    values = {"defaults": [{"override /model": "gpt2"}], "name": "mine", "kl": {"beta": 0.5}, "model": {"layers": 2}}
    values |= {"reward": {"sentiment": {"weight": 2.0}}, "steps": 50, "run": {"save_every": 2}}
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(values, sort_keys=False))


def read_config(folder: Path) -> None:
    """Compose some of the overrides with the experiment's file, as one command line."""
    lines = (folder / "all.overrides").read_text("utf-8", "replace").split("\n")
    # Those that the case has changed, and the experiment: all together would be refused at the first that does not fit.
    changed = [line for line in lines if line not in OVERRIDES][:3]
    compose([*changed, "experiment=mine"], Config, search=str(folder))
    compose(changed, Config)


def _tokenizer(folder: Path) -> None:
    made = tokenizers.build(BpeTokenizer(kind="bpe", vocab_size=280), TEXTS)
    made.chat_template = TEMPLATE
    made.save_pretrained(str(folder))
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 0}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": {"content": "<pad>"}}))


def read_tokenizer(folder: Path) -> None:
    """Load it, and all that a run does with one."""
    made = tokenizers.load(folder / "t")
    rows = tokenizers.encode(made, TEXTS[:4])
    tokenizers.decode(made, rows)
    tokenizers.size(made)
    tokenizers.own_ends(made)
    tokenizers.spelled(made, TEXTS[0])
    if made.chat_template:
        tokenizers.chat_tokens(made, CHAT, begin_answer=False)
        tokenizers.chat_tokens(made, CHAT[:1], begin_answer=True, variables={"tools": [{"name": "f"}]})


def _models(folder: Path) -> None:
    """A model in one file, one in several, a classifier."""
    for name in ("gpt2", "llama", "bert classifier"):
        peft.write_base(folder, name)
    tensors = load_file(folder / "llama" / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, those in halves.items():
        save_file({name: tensors[name] for name in those}, folder / "llama" / file)
    where = {name: file for file, those in halves.items() for name in those}
    (folder / "llama" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "llama" / "model.safetensors").unlink()


def read_models(folder: Path) -> None:
    """Load each as a model of its kind, with its tokenizer and what it says of generation."""
    for path in sorted(folder.iterdir()):
        _read_model(path, "classifier" if "bert" in path.name else "decoder")


def _read_model(path: Path, kind: huggingface.Kind) -> None:
    peft.load(path, kind)
    pretrained = huggingface.describe(peft.source(path))
    huggingface.padding(pretrained)
    tokenizer = tokenizers.load(pretrained.tokenizer_path)
    huggingface.check_tokenizer(pretrained, tokenizer)
    if kind == "decoder":
        generation_settings.read(pretrained.path, tokenizer, pretrained.vocab_size, "model.path")


def _adapter(folder: Path) -> None:
    base = peft.write_base(folder, "llama")
    tensors = peft.pairs(base, {"q_proj": 2, "v_proj": 2})
    peft.write_adapter(folder / "peft", None, tensors, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2})


def read_adapter(folder: Path) -> None:
    """Load the adapter over its base."""
    peft.load(folder / "peft", base=str(folder / "llama"))


def _data(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"text": text, "stars": i, "tags": ["a", i]} for i, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.json").write_text(json.dumps([{"messages": CHAT, "stars": 1.5}] * 4))
    (folder / "c.csv").write_text("text,stars\n" + "".join(f'"{text}",{i}\n' for i, text in enumerate(TEXTS)))
    (folder / "d.txt").write_text("\n".join(TEXTS))
    (folder / "e.csv.gz").write_bytes(gzip.compress((folder / "c.csv").read_bytes()))
    datasets.Dataset.from_dict({"text": TEXTS, "stars": list(range(len(TEXTS)))}).to_parquet(str(folder / "f.parquet"))


def read_data(folder: Path) -> None:
    """Read each file as the rows of a source."""
    for name in ("a.jsonl", "b.json", "c.csv", "d.txt", "e.csv.gz", "f.parquet"):
        file = folder / name
        source = TextSource(kind="text", path=str(file), column=None, split="train", held_out_path=None, test_path=None)
        load_rows(source)


def _run(folder: Path, overrides: tuple[str, ...]) -> None:
    """A finished run of two steps, and an evaluation."""
    from kljax.runs import evaluation, evaluation_files

    config = compose([*RUN, *overrides, f"run.root={folder}", "name=r", "run.variant=v"], Config)
    path = train(config)
    evaluation_files.save_own(evaluation.evaluate(restore(path, "latest", ONE), config.evaluation), path)
    shutil.rmtree(folder / "bases")
    shutil.rmtree(path / "tensorboard")


def read_run(folder: Path) -> None:
    """Find it, restore its last step with its prompts, draw its point of the frontier, and look at what a launch looks at."""
    for path in find_runs([folder]):
        config = read_run_config(path)
        custom_terms(config.reward)
        check_owner(path, identity(config))
        frontier.points([path])
        restored = restore(path, "latest", ONE)
        restored.held_out_prompts()
        directory.check_numerics(path)
        directory.circumstances_note(path, {})
        for file in ("metrics.jsonl", "samples.jsonl"):
            directory.read_lines(path / file)
            JsonLines(path / file, 1).close()


READERS: dict[str, Callable[[Path], None]] = {
    "config": read_config,
    "tokenizer": read_tokenizer,
    "models": read_models,
    "adapter": read_adapter,
    "data": read_data,
    "run": read_run,
}
"""Each kind of material, by the name of its folder, and what reads it."""
