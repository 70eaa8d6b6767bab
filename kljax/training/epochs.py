"""Steps of a run that is given in epochs: so many passes over its prompts."""

import math
from dataclasses import replace
from fractions import Fraction

from kljax.config.validation import check_warmup
from kljax.progress import say
from kljax.runs.setup import Setup


def with_steps(setup: Setup) -> Setup:
    """The setup with the `steps` that its `epochs` make, now that its prompts are known; the same one where it has none.

    Everything that looks at `steps` (schedules, the bar, config.yaml) has to get the config of this one.
    """
    config = setup.config
    if config.epochs is None:
        return setup
    prompts = setup.prompts()
    rows, batch = len(prompts.tokens), config.rollout.prompts
    config = replace(config, steps=steps_of(config.epochs, rows, batch))
    check_warmup("optimizer", config.optimizer, config.steps)
    say(f"epochs={config.epochs:g}: {rows:,} prompts, {batch:,} a step: {config.steps:,} steps.")
    return replace(setup, config=config, made_prompts=prompts)


def steps_of(epochs: float, rows: int, batch: int) -> int:
    """epochs · rows / batch, rounded up: 0.1 epochs are a tenth exactly."""
    return math.ceil(Fraction(repr(epochs)) * rows / batch)
