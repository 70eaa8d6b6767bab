"""A step of a run as a Hugging Face directory that transformers loads; LoRA adapters are merged.

python experiments/export.py run=runs/grammar/default out=/tmp/exported
python experiments/export.py run=runs/grammar/default step=40 out=/tmp/exported dtype=bfloat16
"""

from pathlib import Path

from kljax.analysis import tables
from kljax.command_line import launch
from kljax.config import ExportConfig
from kljax.models import huggingface
from kljax.training.restore import restore
from kljax.training.task import use_compilation_cache


def run(config: ExportConfig) -> None:
    use_compilation_cache(config.compilation_cache)
    restored = restore(Path(config.run), config.step, config.mesh)
    task, out = restored.task, Path(config.out)
    written = {"ends": task.generation.ends, "rollout": task.config.rollout}
    huggingface.save(out, "decoder", task.model, task.vocab_size, restored.policy, task.tokenizer, config.dtype, **written)
    tables.console.print(f"Step {restored.step} of {config.run} written to {out}", soft_wrap=True)


if __name__ == "__main__":
    launch(run, ExportConfig, config_name="export")
