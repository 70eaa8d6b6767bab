"""Restore any step of a run and recompute reward, both exact KLs and samples on held-out prompts.

kljax analyze run=runs/grammar/default
kljax analyze run=runs/grammar/default step=60 prompts=512    # or run=runs/grammar/default@60
kljax analyze run=runs/grammar/default top_p=0.9    # a policy whose sampling is cut
kljax analyze run=runs/mine/default rewards=custom    # imports reward functions and tasks of the run's own
kljax analyze run=runs/questions/default readings=[greedy]    # the task's figures of the likeliest answers
"""

from dataclasses import replace

from kljax.command_line import importing, launch
from kljax.config import AnalysisConfig
from kljax.errors import UserError
from kljax.runs.config_file import chosen_step, read_run_config


def main() -> None:
    """Answer the command line."""
    launch(run, AnalysisConfig, config_name="analyze")


def run(config: AnalysisConfig) -> None:
    path, step = chosen_step(config.run, config.step)
    read_run_config(path)  # refuses what is no run, before the imports
    with importing():
        from kljax.analysis import tables
        from kljax.runs import evaluation, evaluation_files
        from kljax.runs.restore import restore
        from kljax.runs.setup import use_compilation_cache
        from kljax.runs.task_figures import read_as

    use_compilation_cache(config.compilation_cache)
    restored = restore(path, step, config.mesh, custom=config.rewards == "custom")
    own = restored.setup.config.evaluation
    asked = {name: value for name in evaluation.settings_of(own) if (value := getattr(config, name)) is not None}
    without = evaluation.left_out(restored, custom=config.rewards == "custom")
    restored, readings = read_as(restored, config.readings, asked.get("samples", own.samples))
    result = evaluation.evaluate(restored, replace(own, **asked), without)
    saved, refused = "It is not saved.", None
    if not without:  # without a part of the reward it is no evaluation that others could be compared with
        try:
            saved = f"It is in {evaluation_files.save_analysis(result, restored.path, own, readings)}"
        except UserError as error:
            refused = error
    tables.show_evaluation(result, restored.path)
    tables.show_samples(result, config.samples_shown)
    if refused is not None:
        raise refused
    tables.console.print(saved, soft_wrap=True)
