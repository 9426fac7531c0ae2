"""What a training prints while it runs, and of each session when it ends."""

import io

import pytest
from rich.console import Console

from mlx_tune.cli.training_view import RunProgress, _more_general, show_verdict
from mlx_tune.continual.answers import AnswerScore
from mlx_tune.continual.recall import Recall
from mlx_tune.training.loop import Step
from mlx_tune.workflows.scoring import SessionRecall

TRAINING = {"epochs": 27, "first_loss": 4.9, "last_loss": 0.3}
LONGER = "; 27 epochs were too few, try --epochs 34"


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
    first, second = told(right, TRAINING | {"is_learned": is_learned})
    assert first == f"{'✓' if word == 'learned' else '!'} cs {word}: right {right} of 60 as taught"
    assert f"({right} of 60) " in second
    assert second.endswith(f"word for word{advice}")


def test_a_training_that_diverged_is_told_of_its_rate_and_not_to_go_on():
    _, *more = told(0, TRAINING | {"is_learned": False, "last_loss": 33.2})
    said = " ".join(" ".join(more).split())
    assert said.endswith(
        "; the loss rose from 4.90 to 33.20, so the rate is too high; try a quarter of "
        "--learning-rate"
    )
    assert "epochs" not in said


def test_a_training_that_began_with_what_was_known_did_not_diverge():
    """Rows that were taught before begin at next to no loss."""
    known = {"is_learned": True, "first_loss": 0.01, "last_loss": 0.02}
    assert "loss" not in " ".join(told(60, TRAINING | known))


def test_an_earlier_session_is_kept_or_faded():
    assert told(60, None)[0] == "✓ cs kept: right 60 of 60 as taught"
    first, second = told(40, None)
    assert first.startswith("! cs faded: ")
    assert second == "  67 % (40 of 60) word for word; see `mlx-tune eval`"


def test_what_is_right_however_asked_comes_first():
    reworded = AnswerScore(
        grades=("right",) * 12 + ("confused",) * 9 + ("unknown",) * 43 + (None,) * 150,
        facts_found=53,
        facts_asked=200,
    )
    assert told(60, TRAINING | {"is_learned": True}, other_words=reworded) == [
        "✓ cs learned: right 60 of 60 as taught, 12 of 64 in other words, confused 9",
        "  100 % (60 of 60) word for word; 53 of 200 key facts in other words",
    ]


def test_right_in_other_words_than_the_taught_ones_is_learned():
    recited = (True,) * 40 + (False,) * 20
    first, second = told(60, TRAINING | {"is_learned": None}, verbatim=recited)
    assert first == "✓ cs learned: right 60 of 60 as taught"
    assert second == "  67 % (40 of 60) word for word"


def test_a_session_of_an_earlier_version_is_told_word_for_word():
    assert told(60, None, graded=False) == ["✓ cs kept: 100 % (60 of 60) word for word"]


def test_a_long_name_goes_on_in_the_next_line_and_is_no_markup():
    lines = told(60, TRAINING | {"is_learned": True}, name="[red]" + "x" * 60)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("✓ [red]xxx")


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


def told(right, training, *, name="cs", verbatim=None, other_words=None, graded=True):
    flags = (True,) * right + (False,) * (60 - right)
    score = AnswerScore(grades=tuple("right" if flag else "unknown" for flag in flags))
    entry = SessionRecall(
        number=1,
        name=name,
        verbatim=Recall(verbatim=verbatim or flags, token_accuracy=1, loss=0),
        paraphrases=None,
        as_taught=score if graded else None,
        other_words=other_words,
    )
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show_verdict(entry, training, console)
    return console.file.getvalue().splitlines()


def printed(*steps, steps_done=0, epochs=2, decay_epochs=0, **options):
    console = Console(file=io.StringIO(), width=120, highlight=False, **options)
    progress = RunProgress(
        console, planned_steps=2 * epochs, steps_done=steps_done, epochs=epochs,
        decay_epochs=decay_epochs,
    )  # fmt: skip
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


def test_a_training_until_learned_counts_to_where_it_may_end_and_then_to_the_most():
    steps = ((2, 1.0, True), (4, 1.0, True), (6, 1.0, True))
    assert printed(*steps, epochs=5, decay_epochs=2) == (
        "epoch  1/2  mean loss 1.0000  checkpoint saved  0:04 left\n"
        "epoch  2/2  mean loss 1.0000  checkpoint saved  0:00 left\n"
        "epoch  3/5  mean loss 1.0000  checkpoint saved  0:08 left\n"
    )
    assert printed((2, 1.0, True), decay_epochs=9).startswith("epoch  1/2  ")


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
