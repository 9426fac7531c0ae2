"""Random histories of a store agree with a model of it; with a fault put in, they do not."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from helpers.store_machine import Machine
from mlx_tune.errors import DamagedStoreError
from mlx_tune.files import durable, sealed
from mlx_tune.store import format as store_format
from mlx_tune.store import gc, labels, snapshot
from mlx_tune.store import store as store_module
from mlx_tune.store.store import SessionStore

QUICK = settings(
    max_examples=25,
    stateful_step_count=24,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=250, stateful_step_count=45, derandomize=False)
UNTIL_FOUND = settings(QUICK, max_examples=1000, stateful_step_count=30, phases=[Phase.generate])


def test_random_histories_agree_with_the_model():
    run_state_machine_as_test(Machine, settings=QUICK)


@pytest.mark.slow
def test_many_more_random_histories_do_too():
    run_state_machine_as_test(Machine, settings=LONG)


# Faults that the machine must find


def moves_are_not_logged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store_module, "log_move", lambda *_, **__: None)


def moves_are_logged_before_they_are_made(patch: pytest.MonkeyPatch) -> None:
    def move(self, now, to, *, old, why):
        now.chain(to)
        if to is not None:
            now.check_kept(to)
        self._prepare(now, to)
        word = to.id if to else snapshot.BASE
        store_module.log_move(self.root, old=old, new=word, why=why)
        store_module.write_head(self.root, word)

    patch.setattr(SessionStore, "_move", move)


def a_collection_ignores_who_stands_on_what(patch: pytest.MonkeyPatch) -> None:
    def marked(store):
        return [s.path for s in reversed(list(store.sessions.values())) if store.is_removed(s)]

    patch.setattr(gc, "_marked", marked)


def a_collection_deletes_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gc, "_to_trash", lambda _store, path, _today: shutil.rmtree(path))


def the_trash_is_kept_for_a_day_less(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gc, "KEPT_DAYS", 29)


def a_session_is_written_in_its_place(patch: pytest.MonkeyPatch) -> None:
    def write_folder(target, files, *, scratch):
        durable.make_folder(target.parent)
        target.mkdir()
        durable._fill_in(target, files)

    def fill_in(target, files):
        folder = os.open(target, os.O_RDONLY)
        try:
            for name, data in files.items():
                durable._write_file(durable.Path(name), data, folder)
        finally:
            os.close(folder)

    patch.setattr(durable, "_fill_in", fill_in, raising=False)
    patch.setattr(store_module, "write_folder", write_folder)


def a_demand_forgets_what_it_does_not_know(patch: pytest.MonkeyPatch) -> None:
    def require(root, feature):
        record = {"version": 1, "requires": [feature]}
        durable.replace_file(root / "format.json", store_format.to_json(record, root))

    patch.setattr(store_format, "require", require)


def a_removal_ignores_tags(patch: pytest.MonkeyPatch) -> None:
    real = labels._needed_by
    patch.setattr(
        labels, "_needed_by", lambda *args: [x for x in real(*args) if "the tag" not in x]
    )


def a_lost_head_goes_back_to_where_it_first_was(patch: pytest.MonkeyPatch) -> None:
    real = snapshot.head_moves
    patch.setattr(snapshot, "head_moves", lambda root: real(root)[::-1])


def a_check_reads_no_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sealed.Sealed, "verify", lambda self: None)


def a_second_writer_moves_head_as_well(patch: pytest.MonkeyPatch) -> None:
    real = SessionStore.move_head
    patch.setattr(
        SessionStore,
        "move_head",
        lambda self, to, *, expected, why: real(self, to, expected=self.snapshot().head(), why=why),
    )


QUICKLY_FOUND = [
    moves_are_not_logged,
    a_second_writer_moves_head_as_well,
]
FOUND_LATER = [
    a_check_reads_no_bytes,
    a_session_is_written_in_its_place,
    a_collection_deletes_at_once,
    a_collection_ignores_who_stands_on_what,
    a_demand_forgets_what_it_does_not_know,
    a_lost_head_goes_back_to_where_it_first_was,
    a_removal_ignores_tags,
    moves_are_logged_before_they_are_made,
    the_trash_is_kept_for_a_day_less,
]


@pytest.mark.parametrize(
    "put_in",
    [*QUICKLY_FOUND, *(pytest.param(fault, marks=pytest.mark.slow) for fault in FOUND_LATER)],
)
def test_the_machine_finds_a_fault(monkeypatch, put_in):
    put_in(monkeypatch)
    with pytest.raises((AssertionError, DamagedStoreError, pytest.fail.Exception)):
        run_state_machine_as_test(Machine, settings=UNTIL_FOUND)
