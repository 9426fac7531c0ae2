"""Two processes that play cases, and the counts at the end of pytest's report."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from helpers.faults import cases, disks, traced

TALLY = pytest.StashKey[list[str]]()
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Two processes that can trace their children."""
    with _pool(cases.work_in) as pool:
        yield pool


@pytest.fixture(scope="module")
def workers_with_disks() -> Iterator[ProcessPoolExecutor]:
    """Two processes that can, besides, mount disks."""
    if reason := disks.why_no_mounts():
        pytest.skip(reason)
    with _pool(cases.work_with_disks_in) as pool:
        yield pool


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take a line for the end of pytest's report."""
    return request.config.stash.setdefault(TALLY, []).append


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if lines := config.stash.get(TALLY, []):
        terminalreporter.section("faults that were played")
        for line in lines:
            terminalreporter.write_line(line)


@contextmanager
def _pool(prepare: Callable[[Path], None]) -> Iterator[ProcessPoolExecutor]:
    if not sys.platform.startswith("linux"):
        pytest.skip("strace and mounted disk images are Linux's")
    # In memory where there is such a folder: a disk's own flushes, thousands of them, are not on
    # trial here. The processes are new ones, not forks of this one, which holds MLX.
    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="mlx-tune-faults-", dir=parent))
    try:
        with ProcessPoolExecutor(
            2, mp_context=get_context("spawn"), initializer=prepare, initargs=(folder,)
        ) as pool:
            if reason := pool.submit(traced.why_not).result():
                pytest.skip(reason)
            yield pool
    finally:
        shutil.rmtree(folder)
