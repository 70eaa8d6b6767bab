"""A step of a run as a Hugging Face directory: the whole model for transformers, or its LoRA adapters for PEFT.

kljax export run=runs/grammar/default out=/tmp/exported
kljax export run=runs/grammar/default step=60 out=/tmp/exported dtype=bfloat16
kljax export run=runs/mine/default out=/tmp/adapter merge=false    # of a run with adapter=lora: not merged
"""

from dataclasses import replace
from pathlib import Path

from kljax.command_line import importing, launch
from kljax.config import ExportConfig
from kljax.progress import console
from kljax.runs.config_file import chosen_step, read_run_config


def main() -> None:
    """Answer the command line."""
    launch(run, ExportConfig, config_name="export")


def run(config: ExportConfig) -> None:
    path, step = chosen_step(config.run, config.step)
    config = replace(config, run=str(path), step=step)
    read_run_config(path)  # refuses what is no run, before the imports
    with importing():
        from kljax.runs import adapter_export
        from kljax.runs.export import export
        from kljax.runs.restore import restore
        from kljax.runs.setup import use_compilation_cache

    use_compilation_cache(config.compilation_cache)
    adapter_export.check(config)
    restored = restore(path, step, config.mesh)
    notes = export(restored, config)
    console.print(f"Step {restored.step} of {config.run} written to {Path(config.out)}", soft_wrap=True, markup=False)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
