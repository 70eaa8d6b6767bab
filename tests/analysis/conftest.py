"""Run directories without runs: a whole config and an evaluation with the figures that a test wants."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from kljax.command_line import compose
from kljax.config import Config, to_dict

PROMPTS = 12
SETTINGS = {"prompts": 16, "samples": 2, "seed": 0, "top_k": 0, "top_p": 1.0}


def write_evaluation(run: Path, step, figures, settings, of_seed, prompts, more):
    """`figures` by metric: a mean, or the means of the prompts, which differ by nothing else."""
    shape = np.linspace(-0.5, 0.5, prompts)
    columns = {name: x if np.ndim(x) else x + 0.1 * shape for name, x in figures.items()}
    by_prompt = [
        {"id": f"p{i}", "prompt": f"p{i}", "completions": settings["samples"]}
        | {name: float(column[i]) for name, column in columns.items()}
        for i in range(prompts)
    ]
    metrics = {name: float(np.mean(column)) for name, column in columns.items()} | {f"{name}_se": 0.02 for name in columns}
    of = settings | {"prompts": settings["prompts"], "distinct_prompts": prompts, "run_seed": of_seed}
    (run / "evaluation").mkdir(exist_ok=True)
    differing = "".join(f"_{k}-{v}" for k, v in settings.items() if SETTINGS[k] != v)
    (run / "evaluation" / f"step_{step:06d}{differing}.json").write_text(
        json.dumps(
            {"step": step, "settings": settings, "of": of, "metrics": metrics | more, "notes": [], "by_prompt": by_prompt}
            | {"samples": []}
        )
    )


@pytest.fixture(scope="session")
def write_run(tiny_in):
    """write_run(folder, *overrides, reward=…, kl=…): a finished run of this config, with these figures."""

    def write(folder, *overrides, reward=1.0, kl=2.0, step=None, beta=None, settings=None, prompts=PROMPTS, more=None):
        config = to_dict(compose([*tiny_in("."), f"run.variant=of-{folder.name}", *overrides], Config))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        if step != "none":
            figures = {"reward/mean": reward, "reward/reference_mean": 0.5, "kl/reverse_exact_seq": kl}
            figures |= more or {}
            beta = config["kl"]["beta"] if beta is None else beta
            step = config["steps"] if step is None else step
            write_evaluation(folder, step, figures, SETTINGS | (settings or {}), config["seed"], prompts, {"kl/beta": beta})
        return folder

    return write
