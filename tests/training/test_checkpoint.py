"""The state in a checkpoint: a resume is exact, or is refused, or says what changed."""

import dataclasses
import json

import pytest

from helpers import tiny
from mlx_tune.errors import IncompatibleError
from mlx_tune.models import runtime
from mlx_tune.training.batches import Batches
from mlx_tune.training.checkpoint import TrainerState
from mlx_tune.training.mixture import UNKNOWN_LOSS, Mixture

LOSSES = [UNKNOWN_LOSS, *[0.1 * i for i in range(6)]]
PLANNED = 6  # seven rows, four a step, three epochs


def batches(**changes) -> Batches:
    settings = {
        "examples": tiny.rows(7), "epochs": 3, "batch_size": 2, "effective_batch": 4, "seed": 5,
        "mixture": Mixture.of_all(7),
    }  # fmt: skip
    return Batches(**{**settings, **changes})


def state(steps_done: int = 3, planned_steps: int = PLANNED, **changes) -> TrainerState:
    return TrainerState.of(
        batches(**changes),
        steps_done=steps_done,
        planned_steps=planned_steps,
        max_token_losses=LOSSES,
        max_token_losses_before=[UNKNOWN_LOSS] * 7,
    )


def refusal(found: TrainerState, expected: TrainerState) -> str:
    with pytest.raises(IncompatibleError) as caught:
        found.check(expected, place="here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("steps_done", "epoch", "cursor"),
    [(0, 1, 0), (1, 1, 4), (2, 2, 0), (3, 2, 4), (5, 3, 4), (6, 3, 7)],
)
def test_a_state_is_an_epoch_and_the_number_of_its_rows_that_are_done(steps_done, epoch, cursor):
    found = state(steps_done)
    assert (found.epoch, found.cursor) == (epoch, cursor)
    assert list(found.permutation) == batches().order(epoch - 1, [UNKNOWN_LOSS] * 7)
    assert sorted(found.permutation) == list(range(7))


def test_the_rows_of_a_later_epoch_are_counted_from_its_beginning():
    found = state(5, planned_steps=9, batch_size=1, effective_batch=3)
    assert (found.epoch, found.cursor) == (2, 6)


def test_a_state_reads_back_as_it_was_written():
    assert TrainerState.from_json(state().to_json(), place="here") == state()


def test_the_same_state_is_accepted_without_a_note():
    assert state().check(state(), place="here") == []


def test_another_seed_is_refused():
    assert refusal(state(seed=6), state()) == (
        "here: has the seed 6, this run 5; resume with the rows and settings it began with"
    )


@pytest.mark.parametrize("supervised", [True, False])
def test_rows_that_changed_are_refused_with_both_hashes(supervised):
    rows = tiny.rows(7)
    changed = {"supervised": rows[0].supervised[::-1]}
    changed = changed if supervised else {"tokens": (*rows[0].tokens[:-1], 9)}
    other = state(examples=[dataclasses.replace(rows[0], **changed), *rows[1:]])
    assert refusal(other, state()) == (
        f"here: was made of other rows: sha256 {other.rows_sha256[:12]}…, this run's are "
        f"{state().rows_sha256[:12]}…; resume with the rows and settings it began with"
    )


@pytest.mark.parametrize("change", [{"permutation": tuple(range(7))}, {"cursor": 0}])
def test_another_order_of_rows_is_refused_with_the_versions_that_had_it(change):
    found = dataclasses.replace(state(), **change)
    line = refusal(found, state())
    assert line.startswith(
        "here: takes the rows of epoch 2 in another order than this version (blas "
    )
    assert f"numpy {runtime.versions()['numpy']}" in line


def test_versions_that_changed_are_said_and_the_run_goes_on():
    found = dataclasses.replace(state(), versions={**runtime.versions(), "mlx": "0.1"})
    assert found.check(state(), place="here") == [
        f"note: mlx was 0.1, is {runtime.versions()['mlx']}; the run goes on, though not to the "
        "very same bytes as if it had never stopped"
    ]


@pytest.mark.parametrize("text", [b"{}", b"not JSON", b"[]"])
def test_a_state_of_another_version_is_refused(text):
    with pytest.raises(IncompatibleError, match="here: written by another version of mlx-tune"):
        TrainerState.from_json(text, place="here")


def test_a_key_that_is_not_known_is_passed_over():
    record = {**json.loads(state().to_json()), "of_a_newer_version": 1}
    assert TrainerState.from_json(json.dumps(record).encode(), place="here") == state()


def test_the_file_keeps_the_names_of_its_format_and_null_for_a_loss_that_is_not_known():
    record = json.loads(state().to_json())
    assert record["hardest"] == [None, *LOSSES[1:]]
    assert record["hardest_before"] == [None] * 7
    assert sorted(record) == [
        "cursor", "epoch", "hardest", "hardest_before", "permutation", "planned_steps",
        "rows_sha256", "seed", "steps_done", "versions",
    ]  # fmt: skip
