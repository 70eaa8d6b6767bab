"""MLflow: a run of the experiment `name`, on the server that MLFLOW_TRACKING_URI names, or in <run.root>/mlflow.db."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence

from kljax.json_text import cell_text
from kljax.progress import say
from kljax.runs.config_file import flat
from kljax.runs.trackers.tracker import End, Metrics, Tracked

FILE, TAG = "mlflow.db", "kljax.id"
STATES: dict[End, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
AT_ONCE, LONGEST = 100, 500  # parameters a call; characters of one


class MlflowRun:
    """A run, which a later launch of the same run here goes on with. Lists have no place there."""

    def __init__(self, run: Tracked, id: str):
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient  # pyright: ignore  # an extra

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.resolve().parents[1] / FILE}"
        self._client, self._last = MlflowClient(uri), run.first_step
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project
        there = self._client.get_experiment_by_name(project)
        experiment = self._client.create_experiment(project) if there is None else there.experiment_id
        if known := self._client.search_runs([experiment], f"tags.`{TAG}` = '{id}'"):
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=run.name, tags={TAG: id}).info.run_id
            self._describe(run)
        say(f"track: mlflow run {self._id} at {uri}")

    def _describe(self, run: Tracked) -> None:
        from mlflow.entities import Param  # pyright: ignore  # an extra

        texts = {key: value if isinstance(value, str) else cell_text(value) for key, value in flat(run.settings).items()}
        params = [Param(_name(key), text[:LONGEST]) for key, text in texts.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + AT_ONCE])

    def write(self, step: int, metrics: Metrics) -> None:
        """A line, but for its lists."""
        from mlflow.entities import Metric  # pyright: ignore  # an extra

        self._last, now = step, int(time.time() * 1000)
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, Sequence)}
        self._client.log_batch(self._id, metrics=[Metric(_name(name), value, now, step) for name, value in numbers.items()])

    def summarise(self, figures: Mapping[str, float]) -> None:
        """As figures of the last step."""
        self.write(self._last, {f"evaluation/{name}": value for name, value in figures.items()})

    def close(self, end: End) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._id, STATES[end])


def _name(name: str) -> str:
    """A name of the characters that it takes."""
    return re.sub(r"[^\w\-./: ]", "_", name)
