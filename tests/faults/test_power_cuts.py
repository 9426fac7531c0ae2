"""The power is cut after every step of everything a store does, on ext4 and on XFS.

The file system is stopped as it is, mounted again, and read. What was not flushed is lost; or the
names and sizes survive in the file system's journal and the bytes of files are lost, which is what
a disk looks like that wrote its journal a moment before the cut.
"""

from itertools import product

import pytest

from helpers.faults import cases, disks
from helpers.faults.broken import MOST_FILES, UNFLUSHED_LOG
from helpers.faults.operations import OPERATIONS
from helpers.faults.traced import Call

pytestmark = pytest.mark.slow

# The journals of ext4 and XFS are one log: a later flush of anything brings the earlier names with
# it, so that the flush of HEAD's folder is covered by that of HEAD.log. Other file systems promise
# no such thing.
MASKED = {"HEAD move, folders not flushed", "HEAD to the base, folders not flushed"}
# Saving a step again changes nothing that a lost flush could lose.
FLUSHING = [name for name in OPERATIONS if name != "checkpoint of the same step"]
FOLDERS = [f"{name}, folders not flushed" for name in FLUSHING]
FOLDERS = [*(name for name in FOLDERS if name not in MASKED), *UNFLUSHED_LOG]


@pytest.fixture(params=disks.FILE_SYSTEMS)
def kind(request, workers_with_disks, tmp_path) -> str:
    if reason := workers_with_disks.submit(disks.why_not, request.param, tmp_path).result():
        pytest.skip(reason)
    return request.param


def moments(workers, operation: str) -> list[tuple[str, Call | None]]:
    """Return each fate of what is not flushed, with each change of the disk and the end."""
    calls = workers.submit(cases.study, operation).result().calls
    return list(product(disks.FATES, [*filter(cases.changes_the_disk, calls), None]))


def cut_everywhere(workers, operation: str, kind: str) -> list[cases.Verdict]:
    """Return what came of a power cut before each change of the disk, and after the last."""
    aims = moments(workers, operation)
    futures = [workers.submit(cases.cut, operation, kind, *aim) for aim in aims]
    verdicts = [future.result() for future in futures]
    for (_, call), verdict in zip(aims, verdicts, strict=True):
        struck = [(call.name, call.ordinal) for call in verdict.struck]
        assert struck == ([(call.name, call.ordinal)] if call else []), verdict
    return verdicts


def first_complaint(workers, operation: str, kind: str) -> str | None:
    """Return the first thing found wrong, looked for from the end, where most is at stake."""
    for aim in reversed(moments(workers, operation)):
        for line in cases.complaints([workers.submit(cases.cut, operation, kind, *aim).result()]):
            return line
    return None


@pytest.mark.parametrize("operation", OPERATIONS)
def test_wherever_the_power_is_cut_nothing_announced_is_lost(
    workers_with_disks, tally, operation, kind
):
    verdicts = cut_everywhere(workers_with_disks, operation, kind)
    tally(f"{operation}: {len(verdicts)} power cuts on {kind}")
    found = cases.complaints(verdicts)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("operation", FLUSHING)
def test_every_flush_of_a_file_is_needed(workers_with_disks, operation, kind):
    files = workers_with_disks.submit(cases.flushed_files, operation).result()
    assert len(files) <= MOST_FILES
    for number, name in enumerate(files):
        found = first_complaint(workers_with_disks, f"{operation}, file {number} not flushed", kind)
        assert found, f"the flush of {name} makes no difference"


@pytest.mark.parametrize("operation", FOLDERS)
def test_the_flushes_of_folders_are_needed(workers_with_disks, operation, kind):
    found = cases.complaints(cut_everywhere(workers_with_disks, operation, kind))
    assert [line for line in found if line.startswith("announced, but ")]


@pytest.mark.parametrize("operation", sorted(MASKED))
def test_on_these_disks_the_flush_of_the_log_covers_that_of_heads_folder(
    workers_with_disks, operation, kind
):
    found = cases.complaints(cut_everywhere(workers_with_disks, operation, kind))
    assert not found, "\n".join(found)
