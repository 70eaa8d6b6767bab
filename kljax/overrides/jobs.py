"""The jobs that a command line makes, and what a sweep says of them before each starts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kljax.errors import UserError
from kljax.overrides.folders import CONFIGS

SEEDS = (
    "seed varies the policy's sampling, the order of the prompts and the first values of adapters. It does not vary the split "
    "of the data (data.seed), the base model (pretrain.seed) or the prompts of the evaluation (evaluation.seed)."
)


def expand(overrides: Sequence[str], multirun: bool, search: str | None = None) -> list[list[str]]:
    """The overrides of each job: one job, or with -m every combination."""
    if not multirun:
        return [list(overrides)]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        loader: Any = GlobalHydra.instance().config_loader()  # knows what glob(…) can match
        if search is not None:
            loader.config_search_path.append("--config-dir", f"file://{Path(search).absolute()}")
            loader = ConfigLoaderImpl(loader.config_search_path)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        _check_sweep(parsed)
        return [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def _check_sweep(overrides: Sequence[Override]) -> None:
    """Refuse what Hydra's sweeper would pass over."""
    keys = Counter(override.get_key_element() for override in overrides)
    for override in overrides:
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise UserError(f"{override.input_line}: it stands for no value, so there is no job; expected one at least.")
        if override.is_sweep_override() and keys[override.get_key_element()] > 1:
            raise UserError(f"{override.input_line}: {override.key_or_group} is given twice; expected all its values in one.")


def lines(jobs: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A line a job: its number, then its overrides, those that vary first; cut with … where they do not fit in `width`."""
    constant = set.intersection(*(set(job) for job in jobs)) if len(jobs) > 1 else set()
    for number, job in enumerate(jobs, start=1):
        ordered = [*(one for one in job if one not in constant), *(one for one in job if one in constant)]
        line = " ".join([f"{number}/{len(jobs)}", *ordered])
        yield line if len(line) <= width else f"{line[: width - 1]}…"


def seed_varies(jobs: Sequence[Sequence[str]]) -> bool:
    """Whether jobs differ in the top-level seed."""
    return len({one for job in jobs for one in job if one.lstrip("+").startswith("seed=")}) > 1
