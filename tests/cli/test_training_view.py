"""What a person is told of each session when a training ends."""

import pytest

from mlx_tune.cli.training_view import _more_general, _verdict
from mlx_tune.continual.recall import Recall
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
