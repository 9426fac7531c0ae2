"""What may not be trained on: a wording that is kept to evaluate with, or that has two answers."""

from collections.abc import Sequence

from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError
from mlx_tune.text import quoted


def check_wordings(rows: Sequence[Row]) -> None:
    """Refuse wordings that would spoil a measurement or teach two answers to one question.

    Wordings are compared as questions are: see :attr:`mlx_tune.data.rows.Row.topic`.

    Args:
        rows: All that a model is to hold.

    Raises:
        InputError: One line a wording, with both places.
    """
    probes = {row.with_question(text).topic: row.place for row in rows for text in row.paraphrases}
    taught: dict[str, Row] = {}
    for row in rows:
        if row.text is None:
            taught.setdefault(row.topic, row)
    problems = []
    for row in rows:
        own = {row.topic}
        for text, reworded in zip(row.wordings, row.reworded, strict=True):
            topic, what = reworded.topic, f"{row.place}: the wording {quoted(text)}"
            other = taught.setdefault(topic, row)
            if topic in own:
                problems.append(f"{what} stands in its row already; remove it")
            elif topic in probes:
                problems.append(
                    f"{what} is a paraphrase of {probes[topic]}, which is never trained on; "
                    "remove one of them"
                )
            elif other.answer != row.answer:
                problems.append(
                    f"{what} is asked with another answer at {other.place}; keep one of them"
                )
            own.add(topic)
    if problems:
        raise InputError("\n".join(problems))
