"""What a training prints while it runs, and of each session when it ends."""

import io

import pytest
from rich.console import Console

from mlx_tune.cli.training_view import RunProgress, _more_general, _verdict
from mlx_tune.continual.recall import Recall
from mlx_tune.training.loop import Step
from mlx_tune.workflows.scoring import SessionRecall

LONGER = "; 27 epochs were too few, --epochs 34 may be enough"


@pytest.mark.parametrize(
    ("right", "is_learned", "word", "advice"),
    [
        (60, True, "learned", ""),
        (60, False, "learned", ""),  # an old row, or one known by a hair, was what was missing
        (56, False, "learned", LONGER),
        (56, None, "learned", ""),  # nobody asked for all of it
        (40, None, "only partly learned", LONGER),
        (40, False, "only partly learned", LONGER),
    ],
)
def test_the_new_session_is_told_when_more_epochs_may_help(right, is_learned, word, advice):
    text = told(right, {"epochs": 27, "is_learned": is_learned})
    assert f"] cs {word}: " in text
    assert f"({right} of 60) " in text
    assert text.endswith(f"answered word for word{advice}")


def test_an_earlier_session_is_kept_or_faded():
    assert " cs kept: 100 % (60 of 60) " in told(60, None)
    assert told(40, None).endswith("; see `mlx-tune eval`")


@pytest.mark.parametrize(
    ("general_replay", "places", "rows", "more"),
    [
        (0.3, 46, 80, 0.45),
        (0.0, 0, 0, 0.3),  # none came along: as many as by default
        (0.3, 80, 80, None),  # there are no more
        (0.7, 70, 80, None),  # no larger share is allowed
    ],
)
def test_a_larger_share_of_general_questions_is_one_that_changes_something(
    general_replay, places, rows, more
):
    kinds = [{"places": 30, "rows": 30}, {"places": 0, "rows": 0}, {"places": places, "rows": rows}]
    assert (
        _more_general({"mixture": kinds, "sizing": {"general_replay": {"value": general_replay}}})
        == more
    )


def told(right, training):
    recall = Recall(verbatim=(True,) * right + (False,) * (60 - right), token_accuracy=1, loss=0)
    entry = SessionRecall(number=1, name="cs", verbatim=recall, paraphrases=None)
    return _verdict(entry, training)


def printed(*steps, steps_done=0, **options):
    console = Console(file=io.StringIO(), width=120, highlight=False, **options)
    progress = RunProgress(console, planned_steps=4, steps_done=steps_done, epochs=2)
    for number, loss, ends_epoch in steps:
        progress.step(
            Step(number=number, epoch=(number + 1) // 2, loss=loss, learning_rate=1e-3, grad_norm=1,
                 tokens=500, seconds=2.0, peak_memory_bytes=3_000_000_000, ends_epoch=ends_epoch)
        )  # fmt: skip
    progress.close()
    return console.file.getvalue()


def test_a_file_gets_one_line_an_epoch_with_its_mean_loss():
    assert printed((1, 3.0, False), (2, 1.0, True), (3, 0.5, False), (4, 0.25, True)) == (
        "epoch  1/2  mean loss 2.0000  checkpoint saved  0:04 left\n"
        "epoch  2/2  mean loss 0.3750  checkpoint saved  0:00 left\n"
    )


def test_a_file_gets_a_line_where_an_epoch_takes_long(monkeypatch):
    times = iter([0.0, 10.0, 31.0, 31.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times, 31.0))
    assert printed((1, 3.0, False), (1, 3.0, False), (1, 3.0, False)) == (
        "step 1/4  epoch 1/2  loss 3.000  lr 1.0e-03  250 tok/s  peak 3.0 GB  0:06 left\n"
    )


def test_a_terminal_gets_a_bar_that_is_as_far_as_the_step():
    out = printed((3, 0.5, False), steps_done=2, force_terminal=True, color_system=None)
    assert f"{'━' * 12}{' ' * 4} step 3/4  epoch 2/2  loss 0.500  lr 1.0e-03" in out
    assert "250 tok/s  peak 3.0 GB  0:02 left" in out
