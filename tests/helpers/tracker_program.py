"""Records a short training with a tracker, as a run and its resume do.

Runs in an environment that has the trackers' packages and none of MLX::

    python tracker_program.py TRACKER 1 2      # steps, then interrupted
    python tracker_program.py TRACKER 3 4 end  # resumed, and finished
"""

import sys

from mlx_tune.workflows.trackers import find_tracker

RUN = "2026-11-30T12-00-00-cs"
SETTINGS = {"base": "smollm2-135m", "rank": 8, "until_learned": True, "replay": None}


def main() -> None:
    """Record the steps that were named."""
    name, *words = sys.argv[1:]
    tracker = find_tracker(name)(RUN, SETTINGS)
    for step in (int(word) for word in words if word.isdecimal()):
        tracker.log(step, {"loss": 4.0 / step, "learning_rate": 0.001})
    is_end = words[-1] == "end"
    tracker.end({"verdict": "promote", "as_taught/cs": 0.75} if is_end else {})


if __name__ == "__main__":
    main()
