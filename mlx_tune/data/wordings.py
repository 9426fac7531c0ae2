"""Which wordings may be trained on: none that measures, and none with two answers.

Wordings are the same where their topics are: see :attr:`mlx_tune.data.rows.Row.topic`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlx_tune.data.read import report
from mlx_tune.data.rows import Row
from mlx_tune.errors import InputError
from mlx_tune.text import quoted


def check_wordings(new: Sequence[Row], earlier: Sequence[Row] = ()) -> None:
    """Refuse wordings that must not be trained on, and paraphrases that were.

    A wording that a row of an earlier session has with another answer is no problem: the later
    answer counts.

    Args:
        new: The rows of a data set.
        earlier: Rows of earlier sessions that these do not replace.

    Raises:
        InputError: A wording repeats its own row, is a paraphrase of some row, or is a question or
            a wording of another new row with another answer; or a new paraphrase is a wording of an
            earlier row. At most ``MAX_PROBLEMS_SHOWN`` problems, one per line, each with both
            places.
    """
    problems = [*_wrong_wordings(new, earlier), *_trained_paraphrases(new, earlier)]
    if problems:
        raise InputError(report(problems))


def _wrong_wordings(new: Sequence[Row], earlier: Sequence[Row]) -> Iterator[str]:
    """Yield what is wrong with the wordings of new rows."""
    rows = (*new, *earlier)
    probes = _first(
        (row.with_question(text).topic, row) for row in rows for text in row.paraphrases
    )
    asked: dict[str, list[Row]] = {}  # by topic: who asks it, in the wordings looked at so far
    for row in new:
        if row.text is None:
            asked.setdefault(row.topic, []).append(row)
    for row in new:
        own = {row.topic: "the row's own question"}
        for number, reworded in enumerate(row.variants[1:], start=1):
            topic = reworded.topic
            said = f"{row.place}: wording {number}, {quoted(str(reworded.question))}, is"
            others = (one for one in asked.get(topic, ()) if one.answer != row.answer)
            if topic in own:
                yield f"{said} {own[topic]} again; remove it"
            elif topic in probes:
                yield (
                    f"{said} a paraphrase of {probes[topic].place}; those measure and are never "
                    "trained on, so remove one of the two"
                )
            elif other := next(others, None):
                yield f"{said} asked at {other.place} too, with another answer; remove one of them"
            own.setdefault(topic, f"wording {number}")
            asked.setdefault(topic, []).append(row)


def _trained_paraphrases(new: Sequence[Row], earlier: Sequence[Row]) -> Iterator[str]:
    """Yield the paraphrases of new rows that earlier sessions were trained on."""
    trained = _first((reworded.topic, row) for row in earlier for reworded in row.variants[1:])
    if not trained:
        return
    for row in new:
        for text in row.paraphrases:
            if (topic := row.with_question(text).topic) in trained:
                yield (
                    f"{row.place}: the paraphrase {quoted(text)} is a wording of "
                    f"{trained[topic].place}, which was trained on, so it measures nothing; "
                    "remove it"
                )


def _first(pairs: Iterable[tuple[str, Row]]) -> Mapping[str, Row]:
    """Return a mapping with the first row of each topic."""
    return dict(reversed([*pairs]))
