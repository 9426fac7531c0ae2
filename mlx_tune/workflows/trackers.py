"""Records a training where a person watches experiments: one small protocol, an adapter each.

No package is imported unless it is asked for, and this module needs none of MLX, so that an adapter
can be tried where only its package is.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mlx_tune.errors import UsageError

PROJECT = "mlx-tune"


class Tracker(Protocol):
    """Where a training is recorded as it goes."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step, counted from 1."""

    def end(self, summary: Mapping[str, float | str]) -> None:
        """Record how it ended, and close; nothing where it was interrupted."""


Open = Callable[[str, Mapping[str, Any]], Tracker]
"""Begins the record of a run: its name, the same when it is resumed, and its settings."""


class _TensorBoard:
    """Event files in ``$TENSORBOARD_LOGGING_DIR``, else in ``tensorboard``, a folder a run."""

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or "tensorboard") / run
        # Named by the second: a run that was resumed at once must not write over its own file.
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{os.getpid()}")
        lines = [f"    {name}: {value}" for name, value in settings.items()]
        self._writer.add_text("settings", "\n".join(lines))
        self._step = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, summary: Mapping[str, float | str]) -> None:
        for name, value in summary.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, self._step)
            else:
                self._writer.add_scalar(name, value, self._step)
        self._writer.close()


class _WandB:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it on this machine."""

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run,
            name=run,
            resume="allow",
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, summary: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class _MLflow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        known = self._client.get_experiment_by_name(name)
        place = known.experiment_id if known else self._client.create_experiment(name)
        same = f"tags.mlflow.runName = '{run}'"
        found = self._client.search_runs([place], filter_string=same, max_results=1)
        made = found[0] if found else self._client.create_run(place, run_name=run)
        self._id = made.info.run_id
        if not found:
            for key, value in settings.items():
                self._client.log_param(self._id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def end(self, summary: Mapping[str, float | str]) -> None:
        for name, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, name, value)
            else:
                self._client.log_metric(self._id, name, value)
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")


class _Trackio:
    """A run of trackio, in a database on this machine."""

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self._run = trackio.init(project=PROJECT, name=run, config=dict(settings), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, summary: Mapping[str, float | str]) -> None:
        if summary:
            self._run.log(dict(summary))
        self._run.finish()


TRACKERS: Mapping[str, tuple[str, Open]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _WandB),
    "mlflow": ("mlflow", _MLflow),
    "trackio": ("trackio", _Trackio),
}
"""By name: the package it needs, and how its record begins."""


def find_tracker(name: str) -> Open:
    """Return how a tracker's record begins.

    Raises:
        UsageError: There is no such tracker, or its package is missing.
    """
    if name not in TRACKERS:
        raise UsageError(f"no tracker {name[:40]!r}; known: {', '.join(TRACKERS)}")
    package, begin = TRACKERS[name]
    if find_spec(package) is None:
        raise UsageError(f"--track {name} needs a package that is not here: pip install {package}")
    return begin
