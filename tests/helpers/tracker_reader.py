"""Prints, as JSON, what a tracker kept of the run: the losses by step, and what ended it.

Runs in an environment that has the trackers' packages: ``python tracker_reader.py TRACKER``, in the
folder that the run was recorded in.
"""

import json
import re
import sqlite3
import sys
from pathlib import Path

from tracker_program import RUN


def tensorboard() -> dict:
    """Read the event files as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path("tensorboard") / RUN))
    events.Reload()
    return {
        "losses": [[event.step, event.value] for event in events.Scalars("loss")],
        "right": events.Scalars("as_taught/cs")[-1].value,
        "texts": sorted(events.Tags()["tensors"]),
    }


def wandb() -> dict:
    """Look for what was written into the files of an offline run; only its server reads them."""
    found = b"".join(path.read_bytes() for path in sorted(Path().glob("wandb/offline*/*.wandb")))
    losses = re.findall(rb"loss[^\w]{1,8}?(\d(?:\.\d+)?)", found)
    return {
        "losses": sorted({float(value) for value in losses}, reverse=True),
        "right": b"as_taught/cs" in found and b"0.75" in found,
        "texts": [word for word in ("promote", "smollm2-135m", RUN) if word.encode() in found],
    }


def mlflow() -> dict:
    """Ask its own client."""
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mlx-tune").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    return {
        "losses": [[one.step, one.value] for one in history],
        "right": run.data.metrics["as_taught/cs"],
        "texts": [
            run.info.run_name,
            run.info.status,
            run.data.params["rank"],
            run.data.tags["verdict"],
        ],
    }


def trackio() -> dict:
    """Read its database."""
    (path,) = Path(".cache").rglob("trackio/mlx-tune.db")
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "select run_name, step, metrics from metrics order by id"
        ).fetchall()
        (config,) = {row[0] for row in database.execute("select config from configs")}
    kept = [json.loads(metrics) for _, _, metrics in rows]
    return {
        "losses": [
            [row[1], one["loss"]] for row, one in zip(rows, kept, strict=True) if "loss" in one
        ],
        "right": kept[-1]["as_taught/cs"],
        "texts": [rows[0][0], kept[-1]["verdict"], json.loads(config)["base"]],
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
