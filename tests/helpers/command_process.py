"""Calls the command line in a process of its own, forked from one that has everything imported."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PRELOADED = [
    "mlx_tune.cli.main",
    "mlx_tune.workflows.run",
    "mlx_lm.utils",
    "mlx_lm.models.llama",
    "transformers",
]


def context():
    """Processes that start in a few milliseconds and share nothing with this one."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def call(words: Sequence[str], log: Path) -> None:
    """Be `mlx-tune` with these words; what it prints goes to a file."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    sys.argv = ["mlx-tune", *words]
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    from mlx_tune.cli import main

    main.run()
