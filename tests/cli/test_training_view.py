"""What a person is told of each session when a training ends."""

import pytest

from mlx_tune.cli.training_view import _verdict
from mlx_tune.continual.recall import Recall
from mlx_tune.workflows.asking import SessionRecall

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


def told(right, training):
    recall = Recall(verbatim=(True,) * right + (False,) * (60 - right), token_accuracy=1, loss=0)
    entry = SessionRecall(number=1, name="cs", verbatim=recall, paraphrases=None)
    return _verdict(entry, training)
