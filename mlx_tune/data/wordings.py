"""Which wordings may be trained on: none that measures, and none with two answers.

Which paraphrases may measure: none that is trained on.

Wordings are the same where their topics are, see :attr:`mlx_tune.data.rows.Row.topic`; with the
same answer already where they are alike: small letters make no probe of what was trained.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

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
            a wording of another new row with another answer; or a new paraphrase is a question of
            some row, or a wording of an earlier one. At most ``MAX_PROBLEMS_SHOWN`` problems, one
            per line, each with both places.
    """
    problems = [*_wrong_wordings(new, earlier), *_trained_paraphrases(new, earlier)]
    if problems:
        raise InputError(report(problems))


def _wrong_wordings(new: Sequence[Row], earlier: Sequence[Row]) -> Iterator[str]:
    """Yield what is wrong with the wordings of new rows."""
    probes = _Asked(
        (row.with_question(text), row) for row in (*new, *earlier) for text in row.paraphrases
    )
    # By topic, then by answer: the first who asks it, in the wordings looked at so far.
    asked: dict[str, dict[str | None, Row]] = {}
    for row in new:
        if row.text is None:
            asked.setdefault(row.topic, {}).setdefault(row.answer, row)
    for row in new:
        own = {row.likeness: "the row's own question"}
        for number, reworded in enumerate(row.variants[1:], start=1):
            said = f"{row.place}: wording {number}, {quoted(str(reworded.question))}, is"
            askers = asked.get(reworded.topic, {})
            others = (one for answer, one in askers.items() if answer != row.answer)
            if reworded.likeness in own:
                yield f"{said} {own[reworded.likeness]} again; remove it"
            elif probe := probes.find(reworded):
                yield (
                    f"{said} a paraphrase of {probe.place}; those measure and are never "
                    "trained on, so remove one of the two"
                )
            elif other := next(others, None):
                yield f"{said} asked at {other.place} too, with another answer; remove one of them"
            own.setdefault(reworded.likeness, f"wording {number}")
            asked.setdefault(reworded.topic, {}).setdefault(row.answer, row)


def _trained_paraphrases(new: Sequence[Row], earlier: Sequence[Row]) -> Iterator[str]:
    """Yield the paraphrases of new rows that are trained on, but for those told as wordings."""
    if not any(row.paraphrases for row in new):
        return
    asked = _Asked((row, row) for row in new if row.question is not None)
    taught = _Asked((row, row) for row in earlier if row.question is not None)
    reworded = _Asked((one, row) for row in earlier for one in row.variants[1:])
    for row in new:
        for text in row.paraphrases:
            said = f"{row.place}: the paraphrase {quoted(text)} is"
            one = row.with_question(text)
            if found := asked.find(one):
                where = "the row's own question" if found is row else f"asked at {found.place} too"
                yield f"{said} {where}, which is trained on, so it measures nothing; remove it"
            elif found := taught.find(one):
                yield (
                    f"{said} the question of {found.place}, which was trained on, so it measures "
                    "nothing; remove it"
                )
            elif found := reworded.find(one):
                yield (
                    f"{said} a wording of {found.place}, which was trained on, so it measures "
                    "nothing; remove it"
                )


def without_trained_paraphrases(rows: Sequence[Row]) -> list[Row]:
    """Return rows without the paraphrases that some of them train on.

    For rows that were taught before such paraphrases were refused.
    """
    if not any(row.paraphrases for row in rows):
        return [*rows]
    trained = _Asked((one, row) for row in rows if row.question is not None for one in row.variants)
    found = []
    for row in rows:
        kept = tuple(text for text in row.paraphrases if not trained.find(row.with_question(text)))
        found.append(replace(row, paraphrases=kept) if kept != row.paraphrases else row)
    return found


class _Asked:
    """Rows by what they ask in other words, the first of several alike.

    Args:
        pairs: Each row reworded, and the row.
    """

    def __init__(self, pairs: Iterable[tuple[Row, Row]]) -> None:
        self._exact: dict[str, Row] = {}
        self._loose: dict[tuple[str, str | None], Row] = {}
        for reworded, row in pairs:
            self._exact.setdefault(reworded.topic, row)
            self._loose.setdefault((reworded.likeness, row.answer), row)

    def find(self, reworded: Row) -> Row | None:
        """Return the row that asks the same: exactly, or with the same answer alike."""
        alike = self._loose.get((reworded.likeness, reworded.answer))
        return self._exact.get(reworded.topic, alike)
