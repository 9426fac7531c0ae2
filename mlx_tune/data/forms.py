"""The examples of a row: its question as taught, in its other wordings, and in noised versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from mlx_tune.data.noise import noised_questions
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example, encode
from mlx_tune.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RowExamples:
    """A row's examples; all have its answer.

    Attributes:
        wordings: Its question as taught, and in other words.
        noised: Noised versions of those.
    """

    wordings: tuple[Example, ...]
    noised: tuple[Example, ...]

    @property
    def all(self) -> tuple[Example, ...]:
        """The wordings, then the noised versions: the order in which a mixture counts them."""
        return self.wordings + self.noised


def encode_forms(
    rows: Sequence[Row], tokenizer: Tokenizer, *, noised: int, seed: int
) -> list[RowExamples]:
    """Tokenise rows in all forms that are trained on.

    Args:
        rows: All that a model is to hold: none may get a question that could be another's.
        tokenizer: The base's.
        noised: How many noised versions of a row's questions to make.
        seed: Of those.

    Raises:
        InputError: As for :func:`mlx_tune.data.tokenise.encode`.
    """
    reserved = {text for row in rows for text in row.paraphrases}
    asked = [(row.question, *row.wordings) if row.question else () for row in rows]
    versions = noised_questions(asked, noised, seed=seed, reserved=reserved)
    forms = [
        [row, *row.reworded, *map(row.with_question, texts)]
        for row, texts in zip(rows, versions, strict=True)
    ]
    examples = iter(encode([form for forms_of_row in forms for form in forms_of_row], tokenizer))
    return [
        RowExamples(
            wordings=tuple(islice(examples, 1 + len(row.wordings))),
            noised=tuple(islice(examples, len(texts))),
        )
        for row, texts in zip(rows, versions, strict=True)
    ]
