"""Where a run's figures go beside metrics.jsonl: the table of trackers, of which `track` chooses some.

A new one is a function and a row of `TRACKERS`, and its name in kljax/config/run.py. metrics.jsonl is the truth: a tracker gets
its lines as they are written, and may fail without a run's noticing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from kljax.errors import UserError
from kljax.runs.trackers import mlflow_runs, wandb_runs
from kljax.runs.trackers.handed_on import HandedOn
from kljax.runs.trackers.tracker import End, Metrics, Tracked, Tracker


def _tensorboard(run: Tracked) -> Tracker:
    from kljax.runs.board import Board

    return Board.of_run(run)


@dataclass(frozen=True)
class Kind:
    """How a tracker is opened for a run; the package that it needs; what else is to be there, or a UserError says so."""

    open: Callable[[Tracked], Tracker]
    package: str
    check: Callable[[], None] = lambda: None


TRACKERS = {
    "tensorboard": Kind(_tensorboard, "tensorboardX"),
    "wandb": Kind(partial(HandedOn, "wandb", wandb_runs.WandbRun), "wandb", wandb_runs.check),
    "mlflow": Kind(partial(HandedOn, "mlflow", mlflow_runs.MlflowRun), "mlflow"),
}


def check(names: Sequence[str]) -> None:
    """Refuse trackers that are not there, before anything is computed."""
    for name in names:
        kind = TRACKERS[name]
        spec = find_spec(kind.package)
        if spec is None or spec.origin is None:  # any folder of that name is a package without origin to Python
            folders = [] if spec is None else list(spec.submodule_search_locations or ())
            taken = f" ({', '.join(map(str, folders))} is a folder of that name, and no package)" if folders else ""
            raise UserError(
                f"track: got {name}, but the package {kind.package} is not installed{taken}; expected pip install "
                f"'kljax[trackers]' before, or track=[{','.join(other for other in names if other != name)}]."
            )
        kind.check()
        if names.count(name) > 1:
            raise UserError(f"track: got {name} twice, expected each tracker once.")


@dataclass(frozen=True)
class _All:
    """Several trackers as one."""

    trackers: Sequence[Tracker]

    def write(self, step: int, metrics: Metrics) -> None:
        """Give each the line."""
        for tracker in self.trackers:
            tracker.write(step, metrics)

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Give each the figures of the end."""
        for tracker in self.trackers:
            tracker.summarise(figures)

    def close(self, end: End) -> None:
        """Close each."""
        for tracker in self.trackers:
            tracker.close(end)


@contextmanager
def tracking(names: Sequence[str], run: Tracked) -> Iterator[Tracker]:
    """The trackers of these names, as one, for a run; closed with how it ended."""
    end: End = "failed"

    def close(tracker: Tracker) -> None:
        tracker.close(end)

    with ExitStack() as opened:
        trackers = []
        for name in names:
            trackers.append(TRACKERS[name].open(run))
            opened.callback(close, trackers[-1])
        try:
            yield _All(trackers)
            end = "finished"
        except KeyboardInterrupt:
            end = "stopped"
            raise
