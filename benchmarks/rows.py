"""The rows a benchmark trains on, as token ids made once, so that all sides meet the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sides.job import TokenRow
from mlx_tune.data import read
from mlx_tune.data.rows import Message, Row
from mlx_tune.data.tokenise import encode
from mlx_tune.models.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data"
_MIXED_ROWS = 64
_MIXED_MOST = 9


@dataclass(frozen=True, kw_only=True)
class RowSet:
    """Rows with a name.

    Attributes:
        name: For the table.
        how: How they were made, in a sentence.
        rows: The rows.
    """

    name: str
    how: str
    rows: list[TokenRow]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, in ascending order."""
        return sorted(len(row.tokens) for row in self.rows)

    def describe(self) -> str:
        """Return its counts in one line."""
        lengths, taught = self.lengths, sum(row.supervised for row in self.rows)
        return (
            f"{len(self.rows)} rows of {lengths[0]} to {lengths[-1]} tokens "
            f"({sum(lengths):,} in all, {taught:,} taught)"
        )


def plain(tokenizer: Tokenizer) -> RowSet:
    """Return data/cs.json, one question and one answer a row."""
    rows = read.read([DATA / "cs.json"])
    return RowSet(name="cs", how="data/cs.json as it is", rows=_tokens(rows, tokenizer))


def mixed(tokenizer: Tokenizer) -> RowSet:
    """Return rows of mixed lengths, made from the project's own.

    Each asks one to nine of them in one message and answers them in one, as many rows of every
    count as of the next.
    """
    files = [DATA / f"{name}.json" for name in ("cs", "housing", "dining")]
    draw = random.Random(0)
    pool = read.read(files)
    counts = [1 + i % _MIXED_MOST for i in range(_MIXED_ROWS)]
    draw.shuffle(counts)
    rows = [_joined(draw.sample(pool, count)) for count in counts]
    return RowSet(
        name="mixed",
        how=f"each joins 1 to {_MIXED_MOST} rows of data/*.json into one, drawn with seed 0",
        rows=_tokens(rows, tokenizer),
    )


def drawn(*, count: int, shortest: int, longest: int, prefix: int, vocabulary: int) -> RowSet:
    """Return rows of random tokens, for a model that has no tokenizer.

    Lengths are spread evenly. All rows share the first `prefix` tokens, and of what follows the
    second half is taught.

    Args:
        count: Of rows.
        shortest: Length in tokens; at least two more than the prefix.
        longest: Length in tokens.
        prefix: Tokens that all rows begin with.
        vocabulary: Tokens are drawn from 1 to vocabulary - 1.

    Raises:
        ValueError: The rows have no room for the prefix and an answer.
    """
    if not prefix + 2 <= shortest <= longest:
        raise ValueError(
            f"lengths {shortest} to {longest} with a prefix of {prefix}: expected at least "
            "two tokens after the prefix, and the shorter length first"
        )
    draw = random.Random(0)
    shared = draw.choices(range(1, vocabulary), k=prefix)
    rows = []
    for i in range(count):
        length = shortest + (longest - shortest) * i // max(count - 1, 1)
        own = draw.choices(range(1, vocabulary), k=length - prefix)
        rows.append(TokenRow(shared + own, prefix + len(own) // 2))
    draw.shuffle(rows)
    how = f"random tokens, the first {prefix} shared, drawn with seed 0"
    return RowSet(name="random", how=how, rows=rows)


def _joined(rows: Sequence[Row]) -> Row:
    """Return one row that asks and answers what several do."""
    question = " ".join(str(row.question) for row in rows)
    answer = " ".join(str(row.answer) for row in rows)
    return Row(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        )
    )


def _tokens(rows: Sequence[Row], tokenizer: Tokenizer) -> list[TokenRow]:
    return [
        TokenRow(list(example.tokens), example.first_supervised)
        for example in encode(rows, tokenizer)
    ]
