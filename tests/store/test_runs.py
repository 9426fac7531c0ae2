"""Runs: an attempt leaves its settings, its metrics and two whole checkpoints."""

import errno
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.stores import message, names
from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, UsageError
from mlx_tune.store import runs as runs_module
from mlx_tune.store.runs import Run, discard_run, list_runs

RECORD = {"settings": {"rank": 16}, "parent": None, "phase": "training"}
FILES = {"rows.jsonl": b'{"question": "?"}\n'}


def start(root: Path, name: str = "cs") -> Run:
    return Run.create(root, name=name, record=RECORD, files=FILES)


def checkpoint_files(step: int) -> dict[str, bytes]:
    return {"adapters.safetensors": b"weights %d" % step, "state.json": b"{}"}


def steps(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoints").iterdir())


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """Hold the clock; the list's last entry is the time."""
    times = [datetime(2026, 11, 23, 10, 15, 7, 250_000, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, _zone=None):
            return times[-1]

    monkeypatch.setattr(runs_module, "datetime", Clock)
    return times


def test_a_run_is_a_folder_named_by_utc_time_and_name(tmp_path, frozen):
    run = start(tmp_path)
    assert run.path == tmp_path / "runs" / "2026-11-23T10-15-07-cs"
    assert (run.path / "run.json").read_text() == (
        "{\n"
        '  "created": "2026-11-23T10:15:07.250000+00:00",\n'
        '  "name": "cs",\n'
        '  "parent": null,\n'
        '  "phase": "training",\n'
        '  "schema": 1,\n'
        '  "settings": {\n    "rank": 16\n  }\n'
        "}\n"
    )
    assert sorted(path.name for path in run.path.iterdir()) == ["rows.jsonl", "run.json"]


def test_the_clock_of_a_run_is_utc(tmp_path):
    created = datetime.fromisoformat(start(tmp_path).record["created"])
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)


def test_a_run_opens_again_as_it_was(tmp_path):
    run = start(tmp_path)
    again = Run.open(run.path)
    assert again.record == run.record
    assert again.record["settings"] == {"rank": 16}
    assert again.read("rows.jsonl") == FILES["rows.jsonl"]
    assert again.newest_checkpoint() is None
    assert again.metrics() == []


def test_runs_of_the_same_second_and_name_get_a_suffix(tmp_path, frozen):
    assert [start(tmp_path).path.name for _ in range(3)] == [
        "2026-11-23T10-15-07-cs",
        "2026-11-23T10-15-07-cs-2",
        "2026-11-23T10-15-07-cs-3",
    ]


def test_runs_are_listed_oldest_first_within_a_second_too(tmp_path, frozen):
    made = []
    for name in ("zebra", "ant", "cs"):
        made.append(start(tmp_path, name).path)
        frozen.append(frozen[-1] + timedelta(microseconds=10))
    assert [run.path for run in list_runs(tmp_path)] == made


def test_a_store_without_runs_lists_none_and_creates_nothing(tmp_path):
    assert list_runs(tmp_path / "adapters") == []
    assert not (tmp_path / "adapters").exists()


def test_a_damaged_run_is_left_out_and_said_so(tmp_path):
    good, bad = start(tmp_path, "good"), start(tmp_path, "bad")
    (bad.path / "run.json").write_bytes(b"{}")
    (tmp_path / "runs" / ".DS_Store").write_bytes(b"")
    notes: list[str] = []
    assert [run.path for run in list_runs(tmp_path, notes=notes)] == [good.path]
    assert notes == [
        f'run skipped: {bad.path / "run.json"}: "schema", "name" or "created" missing or '
        "malformed; run `mlx-tune doctor`; put it back, or give the run up with "
        f"`mlx-tune resume --discard {bad.path.name} --store {tmp_path}`"
    ]


def test_opening_what_is_no_run_says_which_kind_of_wrong(tmp_path):
    run = start(tmp_path)
    assert message(UsageError, lambda: Run.open(tmp_path / "nowhere")) == (
        f"{tmp_path / 'nowhere'}: no such run; `mlx-tune resume --store {tmp_path.parent}` goes on "
        "with the newest"
    )
    (run.path / "run.json").write_text('{"schema": 2}')
    assert "schema 2 is newer than 1" in message(IncompatibleError, lambda: Run.open(run.path))
    (run.path / "run.json").unlink()
    assert message(DamagedStoreError, lambda: Run.open(run.path)) == (
        f"{run.path / 'run.json'}: missing; run `mlx-tune doctor`"
    )


@pytest.mark.parametrize("record", [None, b"torn", b'{"schema": 2}', b"{}"])
def test_a_run_is_given_up_whatever_its_record_holds(tmp_path, record):
    kept, run = start(tmp_path, "kept"), start(tmp_path, "bad")
    run.save_checkpoint(1, {"a": b"1"})
    if record is not None:
        (run.path / "run.json").write_bytes(record)
    discard_run(tmp_path, str(run.path))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [kept.path.name]
    assert names(tmp_path / ".tmp") == []


@pytest.mark.parametrize("name", ["nowhere", "..", "", "/", "../sessions"])
def test_what_is_no_run_is_not_given_up(tmp_path, name):
    run = start(tmp_path)
    (tmp_path / "sessions").mkdir()
    assert message(UsageError, lambda: discard_run(tmp_path, name)) == (
        f"{name}: no run of that name; there are: {run.path.name}"
    )
    assert {"runs", "sessions"} <= {*names(tmp_path)}


def test_a_run_that_became_a_session_is_not_given_up(tmp_path):
    run = start(tmp_path)
    run.set(phase="done")
    assert message(UsageError, lambda: discard_run(tmp_path, run.path.name)) == (
        f"{run.path.name} became a session, so it is kept; "
        f"`mlx-tune gc --store {tmp_path}` deletes "
        "its checkpoints"
    )
    assert run.path.exists()


def test_setting_a_key_changes_it_on_the_disk_and_keeps_the_rest(tmp_path):
    run = start(tmp_path)
    run.set(phase="done", session="a" * 64)
    assert run.record == {**Run.open(run.path).record}
    assert (run.record["phase"], run.record["session"]) == ("done", "a" * 64)
    assert run.record["settings"] == {"rank": 16}


@pytest.mark.parametrize("bad", [{"name": "other"}, {"loss": float("inf")}])
def test_a_refused_set_changes_nothing(tmp_path, bad):
    run = start(tmp_path)
    before = dict(run.record)
    message(UsageError, lambda: run.set(phase="done", **bad))
    assert run.record == before == Run.open(run.path).record


def test_a_full_disk_at_a_set_leaves_the_old_record(tmp_path, monkeypatch):
    run = start(tmp_path)
    before = dict(run.record)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        message(DiskError, lambda: run.set(phase="done"))
    assert run.record == before == Run.open(run.path).record


def no_space(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_files_that_a_run_writes_itself_cannot_be_given(tmp_path, name):
    call = lambda: Run.create(tmp_path, name="cs", record={}, files={name: b""})  # noqa: E731 one call, named for the next line
    assert message(UsageError, call) == (
        f"the files of a run: {name} is mlx-tune's to write; leave it out"
    )


def test_a_run_needs_an_allowed_name(tmp_path):
    assert 'try "a-b"' in message(UsageError, lambda: start(tmp_path, "a/b"))
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_one_compact_sorted_line_each(tmp_path):
    run = start(tmp_path)
    run.log(step=1, loss=0.5, note="ü")
    run.log(step=2, loss=0.25)
    assert (run.path / "metrics.jsonl").read_text("utf-8") == (
        '{"loss":0.5,"note":"ü","step":1}\n{"loss":0.25,"step":2}\n'
    )
    assert run.metrics() == [{"step": 1, "loss": 0.5, "note": "ü"}, {"step": 2, "loss": 0.25}]


def test_a_metric_line_is_with_the_system_when_log_returns_though_not_on_the_disk(
    tmp_path, monkeypatch
):
    run = start(tmp_path)
    monkeypatch.setattr(os, "fsync", no_space)
    run.log(step=1)
    assert json.loads((run.path / "metrics.jsonl").read_bytes()) == {"step": 1}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_no_number_is_refused_by_name(tmp_path, number):
    run = start(tmp_path)
    assert message(UsageError, lambda: run.log(step=1, loss=number)) == (
        f'{run.path / "metrics.jsonl"}: "loss" is {number}, which JSON cannot hold; leave it out'
    )
    assert run.metrics() == []


@pytest.mark.parametrize("value", [object(), b"bytes", "\ud800"])
def test_a_metric_that_json_cannot_hold_is_refused(tmp_path, value):
    run = start(tmp_path)
    assert "leave it out" in message(UsageError, lambda: run.log(value=value))
    assert run.metrics() == []


def test_a_torn_metric_line_is_skipped_said_so_and_swallows_no_other(tmp_path):
    run = start(tmp_path)
    run.log(step=1)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":')
    run.log(step=2)
    assert run.metrics() == [{"step": 1}, {"step": 2}]
    assert run.notes == [f"{run.path / 'metrics.jsonl'}:2: torn line skipped"]


def test_a_checkpoint_reads_back_as_it_was_saved(tmp_path):
    run = start(tmp_path)
    saved = run.save_checkpoint(14, checkpoint_files(14))
    newest = Run.open(run.path).newest_checkpoint()
    assert newest == saved
    assert newest.path == run.path / "checkpoints" / "step-000014"
    assert newest.step == 14
    assert {name: newest.read(name) for name in newest.hashes} == checkpoint_files(14)
    assert re.fullmatch("([0-9a-f]{64}  .+\n){2}", (newest.path / "MANIFEST.sha256").read_text())


def test_the_two_newest_checkpoints_are_kept(tmp_path):
    run = start(tmp_path)
    for step in (7, 14, 999_999, 1_000_000):
        run.save_checkpoint(step, checkpoint_files(step))
    assert steps(run) == ["step-1000000", "step-999999"]
    assert run.newest_checkpoint().step == 1_000_000
    assert list((tmp_path / ".tmp").iterdir()) == []


def spoil(run: Run, step: int) -> None:
    (run.path / "checkpoints" / f"step-{step:06d}" / "state.json").write_bytes(b"x")


def test_a_damaged_checkpoint_is_skipped_and_said_so(tmp_path):
    run = start(tmp_path)
    for step in (7, 14):
        run.save_checkpoint(step, checkpoint_files(step))
    spoil(run, 14)
    assert run.newest_checkpoint().step == 7
    assert run.newest_checkpoint().read("adapters.safetensors") == b"weights 7"
    (note,) = run.notes
    assert note.startswith(
        f"checkpoint skipped: {run.path / 'checkpoints' / 'step-000014' / 'state.json'}: changed"
    )


def test_a_damaged_checkpoint_does_not_count_among_the_two_kept(tmp_path):
    run = start(tmp_path)
    for step in (7, 14):
        run.save_checkpoint(step, checkpoint_files(step))
    spoil(run, 14)
    run.save_checkpoint(21, checkpoint_files(21))
    assert steps(run) == ["step-000007", "step-000014", "step-000021"]
    run.save_checkpoint(28, checkpoint_files(28))
    assert steps(run) == ["step-000021", "step-000028"]


def test_with_every_checkpoint_damaged_there_is_none(tmp_path):
    run = start(tmp_path)
    run.save_checkpoint(7, checkpoint_files(7))
    spoil(run, 7)
    assert run.newest_checkpoint() is None
    assert len(run.notes) == 1


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    run = start(tmp_path)
    run.save_checkpoint(7, checkpoint_files(7))
    run.save_checkpoint(14, checkpoint_files(14))
    spoil(run, 14)
    run.save_checkpoint(14, checkpoint_files(14))
    assert run.newest_checkpoint().step == 14
    assert run.notes == []
    assert steps(run) == ["step-000007", "step-000014"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_fails_at_any_moment_of_a_checkpoint_keeps_the_last_one(
    tmp_path, monkeypatch, call
):
    real = getattr(os, call)
    for moment in range(1, 100):
        run = start(tmp_path / str(moment))
        run.log(step=7)
        for step in (7, 14):
            run.save_checkpoint(step, checkpoint_files(step))
        counted = [0]

        def counting(*args, counted=counted, moment=moment):
            counted[0] += 1
            if counted[0] == moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        monkeypatch.setattr(os, call, counting)
        try:
            run.save_checkpoint(21, checkpoint_files(21))
            break
        except DiskError:
            monkeypatch.setattr(os, call, real)
            again = Run.open(run.path)
            assert again.newest_checkpoint().step in {14, 21}
            assert again.notes == []
            assert {"step-000014", "step-000007"} <= set(steps(run))
    assert moment > 3
    assert run.newest_checkpoint().step == 21


def test_the_older_checkpoint_goes_only_when_the_new_one_is_in_place(tmp_path, monkeypatch):
    run = start(tmp_path)
    for step in (7, 14):
        run.save_checkpoint(step, checkpoint_files(step))
    seen = []
    real_rename = Path.rename

    def rename(self, target):
        if self.exists():
            seen.append((self.name, Path(target).name, steps(run)))
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    run.save_checkpoint(21, checkpoint_files(21))
    (_, first_target, before), (second_source, _, after) = seen
    assert (first_target, before) == ("step-000021", ["step-000007", "step-000014"])
    assert second_source == "step-000007"
    assert after == ["step-000007", "step-000014", "step-000021"]


@pytest.mark.parametrize("step", [0, -1])
def test_steps_count_from_one(tmp_path, step):
    run = start(tmp_path)
    assert message(UsageError, lambda: run.save_checkpoint(step, {})) == (
        f"checkpoint of step {step}: steps count from 1"
    )


def test_metrics_are_on_the_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    run = start(tmp_path)
    run.log(step=1)
    flushed = []
    monkeypatch.setattr(runs_module, "sync_file", lambda path: flushed.append(path.name))
    run.save_checkpoint(1, checkpoint_files(1))
    assert flushed == ["metrics.jsonl"]
