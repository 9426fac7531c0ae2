"""What an evaluation found: who was asked, whose questions, and how each came out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlx_tune.continual.answers import AnswerScore
from mlx_tune.continual.recall import GeneralChange
from mlx_tune.continual.retention import KINDS, REWORDED, Cell, Kind, RetentionMatrix
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import BASE
from mlx_tune.workflows.scoring import SessionRecall

MEASURED, RECORDED = "measured", "recorded"
"""Where a score comes from: asked now, or written in the session's record when it was trained."""


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A row of the matrix: the model as it was after a session.

    Attributes:
        session: The session; None is the base.
        chain: What is folded into it, root first.
    """

    session: Session | None
    chain: tuple[Session, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """The session's id, or ``base``."""
        return self.session.id if self.session else BASE

    @property
    def number(self) -> int:
        """How many sessions are folded into it."""
        return len(self.chain)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.session.name if self.session else BASE


@dataclass(frozen=True, kw_only=True)
class MatrixColumn:
    """A column of the matrix: the questions that are a session's.

    Attributes:
        session: The session.
        rows: Those of its questions that no later session answers otherwise.
        superseded: How many are answered otherwise since.
    """

    session: Session
    rows: tuple[Row, ...] = field(repr=False)
    superseded: int

    def count(self, kind: Kind) -> int:
        """Return how many questions of a kind there are."""
        return sum(len(r.paraphrases) for r in self.rows) if kind in REWORDED else len(self.rows)

    @cached_property
    def sha256(self) -> str:
        """Hash (hex) of the questions, answers, paraphrases and wordings, in their order."""
        rows = canonical_json([row.to_json() for row in self.rows])
        return hashlib.sha256(rows.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """Which answers were the taught ones, word for word.

    Attributes:
        outcomes: One flag a question: True where the greedy answer is the taught one.
        loss: Mean over answer tokens, nats per token; None where only the flags are known.
        token_accuracy: Share of answer tokens that are the first choice; likewise.
        source: ``measured``, ``recorded``, or the name of an earlier evaluation's file.
    """

    outcomes: tuple[bool, ...]
    loss: float | None
    token_accuracy: float | None
    source: str

    @property
    def cell(self) -> tuple[int, int]:
        """How many were right, of how many."""
        return sum(self.outcomes), len(self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Return what an evaluation's file keeps."""
        right, asked = self.cell
        return {
            "right": right,
            "asked": asked,
            "outcomes": [int(flag) for flag in self.outcomes],
            "loss": self.loss,
            "token_accuracy": self.token_accuracy,
            "source": self.source,
        }


@dataclass(frozen=True, kw_only=True)
class AnswerCell:
    """Which answers were right.

    Attributes:
        score: How they were graded.
        source: As for :class:`CellScore`.
    """

    score: AnswerScore
    source: str

    @property
    def outcomes(self) -> tuple[bool | None, ...]:
        """One flag a question: whether the answer is right; None where it was not asked."""
        return self.score.outcomes

    @property
    def cell(self) -> tuple[int, int]:
        """How many were right, of how many."""
        return self.score.right, self.score.asked

    def to_json(self) -> dict[str, Any]:
        """Return what an evaluation's file keeps."""
        return {**self.score.to_json(), "source": self.source}


Cells = dict[tuple[str, str, Kind], CellScore | AnswerCell]
"""By the ids of the row that answered and of the column asked about, and the kind."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The retention matrices of a chain, as far as they are measured.

    Attributes:
        answering: Whose answers were asked for; its row is measured now.
        rows: In the order of the chain, the answering one last.
        columns: The sessions asked about, root first.
        cells: What was measured or read.
        recall: The answering row in full, one entry a column.
        general: ΔG of the answering model; None when not asked.
    """

    answering: MatrixRow
    rows: tuple[MatrixRow, ...]
    columns: tuple[MatrixColumn, ...]
    cells: Mapping[tuple[str, str, Kind], CellScore | AnswerCell]
    recall: tuple[SessionRecall, ...]
    general: GeneralChange | None = None

    def scored(
        self, row: MatrixRow, column: MatrixColumn, kind: Kind
    ) -> CellScore | AnswerCell | None:
        """Return one cell; None where nothing was measured."""
        return self.cells.get((row.id, column.session.id, kind))

    def retention(self, kind: Kind) -> RetentionMatrix | None:
        """Return the matrix up to the answering session, or None where it is no such matrix.

        It is one where the answering session is in the chain of those asked about, and not the
        base: there is nothing yet to keep.
        """
        length = self.answering.number
        if not length or len(self.rows) != length + 1:
            return None
        return RetentionMatrix.of(
            [self._cell(row, column, kind) for column in self.columns[:length]] for row in self.rows
        )

    @property
    def shown(self) -> tuple[Kind, ...]:
        """The scores that a person is shown as matrices, the most telling first.

        Whether answers are right in other words, and word for word; where no session has other
        wordings, whether they are right as taught.
        """
        is_reworded = any(column.count("other_words") for column in self.columns)
        right: Kind = "other_words" if is_reworded else "as_taught"
        asks = any(column.count("verbatim") for column in self.columns)
        return (right, "verbatim") if asks else ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it, as an evaluation's file keeps it."""
        return {
            "answering": _row_json(self.answering),
            "sessions": [
                {
                    "number": column.session.number,
                    "name": column.session.name,
                    "id": column.session.id,
                    "questions": column.count("verbatim"),
                    "paraphrases": column.count("paraphrases"),
                    "superseded": column.superseded,
                    "rows_sha256": column.sha256,
                }
                for column in self.columns
            ],
            "cells": [
                {
                    "row": row.id,
                    "column": column.session.id,
                    "rows_sha256": column.sha256,
                    **{kind: self._scored_json(row, column, kind) for kind in KINDS},
                }
                for row in self.rows
                for column in self.columns
            ],
            "rows": [_row_json(row) for row in self.rows],
            "measures": {kind: measures_json(self.retention(kind)) for kind in KINDS},
            "general": self.general.to_json() if self.general else None,
            "wrong": [
                {
                    "number": entry.number,
                    "name": entry.name,
                    "as_taught": _wrong_json(entry.as_taught),
                    "other_words": _wrong_json(entry.other_words),
                }
                for entry in self.recall
            ],
        }

    def _cell(self, row: MatrixRow, column: MatrixColumn, kind: Kind) -> Cell:
        scored = self.scored(row, column, kind)
        return scored.cell if scored and scored.outcomes else None

    def _scored_json(
        self, row: MatrixRow, column: MatrixColumn, kind: Kind
    ) -> dict[str, Any] | None:
        scored = self.scored(row, column, kind)
        return scored.to_json() if scored else None


def measures_json(retention: RetentionMatrix | None) -> dict[str, Any] | None:
    """Return ACC, BWT, FWT, F and the worst session with what each was taken over."""
    if retention is None:
        return None
    measures = {
        "acc": retention.accuracy(),
        "bwt": retention.backward_transfer(),
        "fwt": retention.forward_transfer(),
        "forgetting": retention.forgetting(),
    }
    worst = retention.worst()
    return {
        **{name: dict(vars(measure)) for name, measure in measures.items()},
        "worst": None
        if worst is None
        else {
            "number": worst,
            "value": retention.rate(retention.length, worst),
            "interval": retention.interval(retention.length, worst),
        },
    }


def _wrong_json(score: AnswerScore | None) -> list[dict[str, Any]]:
    return [answer.to_json() for answer in score.wrong] if score else []


def _row_json(row: MatrixRow) -> dict[str, Any]:
    return {"number": row.number, "name": row.name, "id": row.id}
