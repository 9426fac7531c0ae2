"""From the cells of `benchmarks.wordings` to the tables of docs/methods.md and the verdicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS, FACTS_PLAIN, VERBATIM, KEPT, GENERAL, CONFUSED = 0.80, 0.40, 0.98, 0.95, 0.10, 0.05
"""Targets: shares, and nats per token; the second is of rows without wordings."""

_HEAD = (
    "| arm, seed | session | as taught, word for word | right in other words | confused | facts "
    "| worst kept, verbatim | in other words | ΔG | epochs | minutes |"
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one session of a chain left.

    Attributes:
        arm: How it was trained.
        seed: Of the training.
        number: The session's.
        recall: Of every session so far, as its record keeps it.
        gate: What the gate decided by; nothing where nothing was trained.
        epochs: That it took; None where nothing was trained.
        is_learned: Whether it ended because all was learned; None where that was not asked.
        seconds: Of training.
    """

    arm: str
    seed: int
    number: int
    recall: Sequence[Mapping[str, Any]]
    gate: Mapping[str, Any]
    epochs: int | None
    is_learned: bool | None
    seconds: float | None

    @staticmethod
    def read(path: Path) -> "Cell":
        """Return what a cell's file holds."""
        found = json.loads(path.read_text())
        training = found.get("training", {})
        return Cell(
            arm=found["arm"],
            seed=found["seed"],
            number=found["number"],
            recall=found["recall"],
            gate=found.get("gate", {}),
            epochs=training.get("epochs"),
            is_learned=training.get("is_learned"),
            seconds=training.get("seconds"),
        )

    def share(self, score: str, what: str = "right", of: str = "asked") -> float | None:
        """Return a share over all sessions; None where nothing was asked."""
        counts = [entry[score] for entry in self.recall if entry[score]]
        asked = sum(entry[of] for entry in counts)
        return sum(entry[what] for entry in counts) / asked if asked else None

    @property
    def facts(self) -> float | None:
        """Share of the key facts that stand in the answers to other wordings."""
        return self.share("other_words", "facts_found", "facts_asked")

    @property
    def general(self) -> float | None:
        """ΔG, nats per token."""
        found = self.gate.get("general")
        return found["nats_per_token"] if found else None

    def kept(self, score: str) -> float | None:
        """Return the smallest share that an earlier session keeps of a score."""
        own = self.gate.get("other_words", {}) if score == "other_words" else self.gate
        shares = [one["now"] / one["learned"] for one in own.get("sessions", ())]
        return min(shares, default=None)


def load(folder: Path) -> list[Cell]:
    """Return the cells of a folder, by arm in the order of their files, seed and session."""
    cells = [Cell.read(path) for path in sorted(folder.glob("*/cell-*.json"))]
    return sorted(cells, key=lambda cell: (cell.arm, cell.seed, cell.number))


def text(folder: Path) -> list[str]:
    """Return the report: a line for every cell, and the verdicts on the defaults' last ones."""
    cells = load(folder)
    lines = [_HEAD, "|---" * (_HEAD.count("|") - 1) + "|", *map(_line, cells), ""]
    for arm, facts in (("default-5", FACTS), ("default-1", FACTS_PLAIN)):
        lasts = {cell.seed: cell for cell in cells if cell.arm == arm}
        for cell in lasts.values():
            lines += verdicts(cell, facts)
    return lines


def verdicts(cell: Cell, facts: float) -> list[str]:
    """Say which targets a cell meets."""
    confused = cell.share("other_words", "confused")
    found = (
        ("word for word as taught", cell.share("verbatim"), VERBATIM, True),
        ("facts in other words", cell.facts, facts, True),
        ("confused", confused, CONFUSED, False),
        ("worst kept, word for word", cell.kept("verbatim"), KEPT, True),
        ("worst kept, in other words", cell.kept("other_words"), KEPT, True),
        ("ΔG, nats a token", cell.general, GENERAL, False),
    )
    return [_verdict(cell, *one) for one in found]


def _verdict(cell: Cell, what: str, value: float | None, limit: float, is_least: bool) -> str:
    name = f"{cell.arm}, {cell.seed}, session {cell.number}: {what}"
    target = f"(target: {'≥' if is_least else '≤'} {limit:g})"
    if value is None:
        return f"not measured: {name} {target}"
    met = value >= limit if is_least else value <= limit
    return f"{'met' if met else 'missed':<6}  {name} {value:.3f} {target}"


def _line(cell: Cell) -> str:
    capped = " (cap)" if cell.is_learned is False else ""
    values = (
        f"{cell.arm}, {cell.seed}",
        str(cell.number),
        _count(cell, "verbatim"),
        _count(cell, "other_words"),
        _percent(cell.share("other_words", "confused")),
        _percent(cell.facts),
        _percent(cell.kept("verbatim")),
        _percent(cell.kept("other_words")),
        "-" if cell.general is None else f"{cell.general:.3f}",
        "-" if cell.epochs is None else f"{cell.epochs}{capped}",
        "-" if cell.seconds is None else f"{cell.seconds / 60:.1f}",
    )
    return "| " + " | ".join(values) + " |"


def _count(cell: Cell, score: str) -> str:
    """Return how many of each session are right, and of how many."""
    counts = [entry[score] for entry in cell.recall if entry[score]]
    return ", ".join(f"{one['right']}/{one['asked']}" for one in counts) or "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
