"""The same step in other libraries, by scripts of theirs, in turn with ours: A B C, A B C, …

A script ends what it prints with a line `step_s [seconds, …]`, its warm-up included, and one JSON object. Each turn is a
process of its own, so that nobody's memory or threads are in anybody's way.
"""

import json
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.timing import WARM, Subject, Timed, sizes_of, timed_step
from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.progress import console
from kljax.runs.setup import Setup

Figures = dict[str, Any]
"""The JSON object of a script."""

NEEDED = ("params", "batch", "new_tokens", "peak_rss_mb")


@dataclass(frozen=True)
class Contestant:
    """A library and the command that times it."""

    name: str
    command: tuple[str, ...]
    malloc: str | None = None  # a library that replaces the C library's


@dataclass(frozen=True)
class Standing:
    """Needs of a contestant: the steps of all its turns together, and the largest of its processes."""

    name: str
    step: Timed
    parameters: int
    tokens_per_second: float
    peak_rss_mb: int


@dataclass(frozen=True)
class Peer:
    """A script of the peers' folder, and what it is called with beside the sizes."""

    library: str
    script: str
    flags: tuple[str, ...]
    loads_models: bool  # it takes a Hugging Face directory in place of sizes


PEERS = {
    "tunix grpo": Peer("tunix", "tunix_grpo.py", (), loads_models=False),
    "trl grpo": Peer("trl", "trl_rl.py", ("--algo", "grpo"), loads_models=True),
    "trl rloo": Peer("trl", "trl_rl.py", ("--algo", "rloo"), loads_models=True),
}
"""In the order of their turns, after ours."""


def contestants(setup: Setup, steps: int, pythons: Mapping[str, Path | None], scripts: Path) -> list[Contestant]:
    """The peers whose interpreter is given (by library), set to the task's sizes."""
    if setup.config.adapter.kind != "none":
        raise UserError(f"--peers: got adapter={setup.config.adapter.kind}, expected none: the peers train every parameter.")
    given = {library: python for library, python in pythons.items() if python is not None}
    if not given:
        raise UserError(
            f"--peers: no interpreter is given; expected one or more of {', '.join(f'--{name}-python' for name in pythons)}, "
            f"each a Python that has the library. {scripts / 'README.md'} says how to set them up."
        )
    for library, python in given.items():
        if not python.is_file():
            raise UserError(f"--{library}-python: '{python}' is no file, expected a Python that has {library}.")
    chosen = {name: peer for name, peer in PEERS.items() if peer.library in given}
    return [Contestant(name, _command(peer, given[peer.library], scripts, setup, steps)) for name, peer in chosen.items()]


def as_peer(it: Subject, steps: int) -> None:
    """Print our own steps as the peers' scripts print theirs."""
    seconds = [timed_step(it, step) for step in range(WARM + steps)]
    figures = {
        "peer": "kljax",
        "params": it.parameters,
        "batch": it.sizes.rows,
        "new_tokens": it.sizes.new_tokens,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print("step_s", json_text([round(x, 6) for x in seconds]))
    print(json_text(figures), flush=True)


def with_each_malloc(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Each as it is, and again with tcmalloc where that is installed (Debian: libtcmalloc-minimal4)."""
    library = find_library("tcmalloc_minimal")
    others = [] if library is None else [replace(each, name=f"{each.name}, tcmalloc", malloc=library) for each in contestants]
    return [*contestants, *others]


def compare(contestants: Sequence[Contestant], rounds: int) -> list[Standing]:
    """`rounds` turns of each. The steps that a script does to warm up are left out."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    figures: dict[str, list[Figures]] = {name: [] for name in seconds}
    for _ in range(rounds):
        for contestant in contestants:
            steps, said = run(contestant)
            console.print(f"{contestant.name}: {Timed(tuple(steps[WARM:])).median:.3g} s a step", soft_wrap=True)
            seconds[contestant.name] += steps[WARM:]
            figures[contestant.name].append(said)
    return [_standing(name, Timed(tuple(seconds[name])), figures[name]) for name in seconds]


def run(contestant: Contestant) -> tuple[list[float], Figures]:
    """One turn: the seconds of each step, and the script's last line."""
    environment = {**os.environ, **({"LD_PRELOAD": contestant.malloc} if contestant.malloc else {})}
    done = subprocess.run(contestant.command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0 and (said := parse(done.stdout)) is not None:
        return said
    last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
    raise UserError(
        f"{contestant.name}: '{' '.join(contestant.command)}' ended with exit code {done.returncode}; expected a line "
        f"'step_s […]' of more than {WARM} steps, and at the end one of JSON with {', '.join(NEEDED)}. Its last words: {last}"
    )


def parse(printed: str) -> tuple[list[float], Figures] | None:
    """Output of a script: the seconds of each step, and its last line. None where that is not there."""
    lines = printed.strip().splitlines()
    timed = [line.removeprefix("step_s") for line in lines if line.startswith("step_s ")]
    try:
        steps, figures = json.loads(timed[-1]), json.loads(lines[-1])
    except (IndexError, ValueError):
        return None
    whole = len(steps) > WARM and isinstance(figures, dict) and set(NEEDED) <= figures.keys()
    return (steps, figures) if whole else None


def _command(peer: Peer, python: Path, scripts: Path, setup: Setup, steps: int) -> tuple[str, ...]:
    script = scripts / peer.script
    if not script.is_file():
        raise UserError(
            f"--peers-scripts: {scripts.resolve()} has no {peer.script}; expected the folder of the peers' scripts, which are "
            "not part of this repository."
        )
    loaded = ("--model", str(setup.pretrained.path)) if setup.pretrained is not None and peer.loads_models else ()
    return (str(python), str(script), *peer.flags, *loaded, *_size_flags(setup, steps))


def _size_flags(setup: Setup, steps: int) -> list[str]:
    """The flags by which every script knows its sizes."""
    model, sizes = setup.decoder, sizes_of(setup.config)
    flags = {
        "steps": steps,
        "batch": sizes.rows,
        "group": sizes.samples,
        "prompt": sizes.prompt_length,
        "new": sizes.new_tokens,
        "vocab": setup.vocab_size,
        "d": model.d_model,
        "layers": model.layers,
        "heads": model.heads,
        "kv-heads": model.kv_heads,
        "mlp": model.d_mlp,
        "beta": setup.config.kl.beta,
    }
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def _standing(name: str, step: Timed, said: Sequence[Figures]) -> Standing:
    tokens = said[0]["batch"] * said[0]["new_tokens"]
    return Standing(name, step, said[0]["params"], tokens / step.median, max(figures["peak_rss_mb"] for figures in said))
