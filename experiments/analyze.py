"""Restore any step of a run and recompute reward, both exact KLs and samples on held-out prompts.

python experiments/analyze.py run=runs/grammar/default
python experiments/analyze.py run=runs/grammar/default step=40 prompts=512
"""

from dataclasses import replace
from pathlib import Path

from kljax.analysis import evaluation, tables
from kljax.command_line import launch
from kljax.config import AnalysisConfig
from kljax.training.restore import restore
from kljax.training.task import use_compilation_cache


def run(config: AnalysisConfig) -> None:
    use_compilation_cache(config.compilation_cache)
    restored = restore(Path(config.run), config.step, config.mesh)
    asked = {name: getattr(config, name) for name in ("prompts", "samples", "seed") if getattr(config, name) is not None}
    result = evaluation.evaluate(restored, replace(restored.task.config.evaluation, **asked))
    file = evaluation.save(result, restored.path)
    tables.show_evaluation(result, restored.path)
    tables.show_samples(result, config.samples_shown)
    tables.console.print(f"Written to {file}", soft_wrap=True)


if __name__ == "__main__":
    launch(run, AnalysisConfig, config_name="analyze")
