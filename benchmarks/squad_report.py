"""From the cells of `benchmarks.squad` to tables in Markdown and the verdicts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.retention_report import counted, verdict
from benchmarks.scores import contains, squad_words, word_f1

KEPT, GENERAL = 0.95, 0.10
"""Targets: a share, and nats per token."""
EARLY = 8
"""After so many sessions there is a column of its own."""

SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "contained": lambda gold, said: float(contains(gold, said)),
    "F1": word_f1,
    "exact match": lambda gold, said: float(gold == said),
}
"""By name, of the words of the expected answer and of what was said."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What there is of one seed.

    Attributes:
        seed: Of the training.
        cells: The sessions' results from the first on, without a gap.
        base: What the base answered; None where that is missing.
    """

    seed: int
    cells: tuple[Mapping[str, Any], ...]
    base: Mapping[str, Any] | None

    def score(self, kind: str, passage: int, session: int) -> float | None:
        """Return the mean score of a passage's questions after a session; session 0 is the base."""
        cell = self.cells[session - 1] if session else self.base
        return score(kind, cell["answers"][str(passage)]) if cell else None

    def mean(self, kind: str, session: int) -> float | None:
        """Return the mean over the passages taught by a session, or over all, of the base."""
        last = session or len(self.cells)
        found = [self.score(kind, passage, session) for passage in range(1, last + 1)]
        return fmean(one for one in found if one is not None) if None not in found else None

    def learned(self, kind: str) -> float:
        """Return the mean over the passages, each as it was right after its own session."""
        return fmean(self._right_after(kind, n) for n in range(1, len(self.cells) + 1))

    def kept(self, kind: str) -> float | None:
        """Return the last scores over those right after learning; the last passage is left out.

        None where nothing was learned, or nothing was learned afterwards.
        """
        last = len(self.cells)
        learned = sum(self._right_after(kind, n) for n in range(1, last))
        now = sum(score(kind, self.cells[-1]["answers"][str(n)]) for n in range(1, last))
        return now / learned if learned else None

    def _right_after(self, kind: str, passage: int) -> float:
        return score(kind, self.cells[passage - 1]["answers"][str(passage)])

    @property
    def general(self) -> float | None:
        """The largest ΔG of the sessions, nats per token."""
        found = [cell["gate"]["general"] for cell in self.cells]
        return max((rise["nats_per_token"] for rise in found if rise), default=None)


def score(kind: str, answers: Sequence[Mapping[str, str]]) -> float:
    """Return the mean score of answers.

    Args:
        kind: One of ``SCORES``.
        answers: Each with ``answer``, the expected one, and ``said``.
    """
    return fmean(
        SCORES[kind](squad_words(one["answer"]), squad_words(one["said"])) for one in answers
    )


def load(folder: Path) -> list[Chain]:
    """Return the chains of a folder that have a cell, by seed."""
    base: Mapping[str, Any] | None = None
    found: dict[int, list[Mapping[str, Any]]] = {}
    for path in folder.glob("*/cell-*.json"):
        cell = json.loads(path.read_text())
        if cell["seed"] is None:
            base = cell
        else:
            found.setdefault(cell["seed"], []).append(cell)
    return [
        Chain(seed=seed, cells=tuple(sorted(own, key=lambda cell: int(cell["number"]))), base=base)
        for seed, own in sorted(found.items())
    ]


def text(folder: Path) -> list[str]:
    """Return the report: the means, the verdicts, and every chain's passages."""
    chains = load(folder)
    head = ("seed, sessions", "score", "base", "right after", f"after {EARLY}", "after the last")
    lines = [
        "scored by SQuAD's own rules, and by whether the answer contains the expected one;",
        "SEAL lets GPT-4 judge, so its figures are no measure of these",
        "",
        *_head((*head, "kept", "ΔG", "minutes")),
        *(line for chain in chains for line in _means(chain)),
        "",
        *(line for chain in chains for line in verdicts(chain)),
    ]
    for chain in chains:
        lines += ["", f"### seed {chain.seed}", "", *passages(chain)]
    return lines


def verdicts(chain: Chain) -> list[str]:
    """Say which targets a chain meets."""
    name, least = f"{chain.seed}, {len(chain.cells)}", f"≥ {100 * KEPT:g} %"
    return [
        verdict(name, "kept, contained", chain.kept("contained"), least, "%", KEPT),
        verdict(name, "kept, F1", chain.kept("F1"), least, "%", KEPT),
        verdict(name, "ΔG, nats a token", chain.general, f"≤ {GENERAL:g}", "g", GENERAL),
    ]


def passages(chain: Chain) -> list[str]:
    """Return the table of a chain's passages: questions whose answer is contained, of how many."""
    lines = _head(("session", "base", "right after", "after the last", "epochs", "gate", "minutes"))
    for number, cell in enumerate(chain.cells, 1):
        training = cell["training"]
        values = (
            f"{number} {cell['title']}",
            _contained(chain.base, number),
            _contained(cell, number),
            _contained(chain.cells[-1], number),
            f"{training['epochs']}{' (cap)' if training['is_learned'] is False else ''}",
            cell["gate"]["verdict"],
            f"{training['seconds'] / 60:.1f}",
        )
        lines.append(_line(values))
    return lines


def _means(chain: Chain) -> list[str]:
    count = len(chain.cells)
    general = "-" if chain.general is None else f"{chain.general:+.3f}"
    minutes = sum(cell["training"]["seconds"] for cell in chain.cells) / 60
    return [
        _line(
            (
                f"{chain.seed}, {count}",
                kind,
                _percent(chain.mean(kind, 0)),
                _percent(chain.learned(kind)),
                _percent(chain.mean(kind, EARLY) if count >= EARLY else None),
                _percent(chain.mean(kind, count)),
                _percent(chain.kept(kind)),
                general,
                f"{minutes:.1f}",
            )
        )
        for kind in SCORES
    ]


def _contained(cell: Mapping[str, Any] | None, passage: int) -> str:
    if cell is None:
        return "-"
    answers = cell["answers"][str(passage)]
    return counted(round(score("contained", answers) * len(answers)), len(answers))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|---" * len(titles) + "|"]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
