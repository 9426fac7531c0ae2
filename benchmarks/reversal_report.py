"""From the cells of `benchmarks.reversal` to a table in Markdown and the verdicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.retention_report import counted, verdict
from benchmarks.scores import has_name, is_same, word_f1
from mlx_tune.continual.answers import words

ASKED = 10
"""Held-out prompts of a person, one person's after another's."""
LENIENT = 0.8
"""The F1 of an answer's words and a description's from which on the answer says it."""

_FROM_NAME, _FROM_DESCRIPTION, _REVERSE, _GENERAL = 0.80, 0.97, 0.50, 0.10
"""Targets: shares, and nats per token."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A file of held-out prompts.

    Attributes:
        name: As the cells call it.
        title: What is asked.
        target: The share of right answers that is wanted.
        published: Of GPT-3 175B, %.
        asks_name: A name is right where it stands in the answer, a description where it is it.
    """

    name: str
    title: str
    target: float
    published: str
    asks_name: bool


TESTS = (
    HeldOut(
        name="p2d", title="name → description", target=_FROM_NAME, published="50.0", asks_name=False
    ),
    HeldOut(
        name="d2p",
        title="description → name",
        target=_FROM_DESCRIPTION,
        published="96.7",
        asks_name=True,
    ),
    HeldOut(
        name="d2p-reverse",
        title="reverse, name → description",
        target=_REVERSE,
        published="about 0",
        asks_name=False,
    ),
    HeldOut(
        name="p2d-reverse",
        title="reverse, description → name",
        target=_REVERSE,
        published="about 0",
        asks_name=True,
    ),
)


def load(folder: Path) -> list[Mapping[str, Any]]:
    """Return the cells of a folder, by arm and seed."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/cell-1.json")]
    return sorted(found, key=lambda cell: (cell["arm"], cell["seed"]))


def text(folder: Path) -> list[str]:
    """Return the report: a line for every cell and the published one, and the verdicts."""
    found = load(folder)
    titles = [title for test in TESTS for title in _titles(test)]
    head = ("arm, seed", *titles, "ΔG", "epochs", "minutes")
    published = [shown for test in TESTS for shown in [test.published, "-"][: len(_titles(test))]]
    lines = [
        "right of n, % (95 %); lenient: in any form of the description, F1 of the words ≥ 0.8",
        "",
        _line(head),
        "|---" * len(head) + "|",
        _line(("GPT-3 175B (Berglund et al. 2023), %", *published, "-", "-", "-")),
        *map(_of_cell, found),
        "",
    ]
    return lines + [line for cell in found for line in verdicts(cell)]


def verdicts(cell: Mapping[str, Any]) -> list[str]:
    """Say which targets a cell meets; a description counts only where it is exact."""
    name = _name(cell)
    lines = []
    for test in TESTS:
        outcomes = right(test, cell["answers"][test.name])
        share = sum(outcomes) / len(outcomes)
        lines.append(
            verdict(name, test.title, share, f"≥ {100 * test.target:g} %", "%", test.target)
        )
    general = _general(cell)
    return [*lines, verdict(name, "ΔG, nats a token", general, f"≤ {_GENERAL:g}", "g", _GENERAL)]


def right(
    test: HeldOut, answers: Sequence[Mapping[str, str]], *, lenient: bool = False
) -> list[bool]:
    """Tell of each answer whether it is right.

    Args:
        test: What was asked.
        answers: Each with ``answer``, the expected one, and ``said``.
        lenient: Take a description in nearly the same words as any of the person's completions:
            "composed …" for "the composer of …". A name is judged as ever.
    """
    if test.asks_name:
        return [has_name(one["answer"], one["said"]) for one in answers]
    if lenient:
        return [
            any(word_f1(words(form), words(one["said"])) >= LENIENT for form in forms)
            for begin in range(0, len(answers), ASKED)
            for forms in [{one["answer"] for one in answers[begin : begin + ASKED]}]
            for one in answers[begin : begin + ASKED]
        ]
    return [is_same(one["answer"], one["said"]) for one in answers]


def _titles(test: HeldOut) -> tuple[str, ...]:
    return (test.title,) if test.asks_name else (test.title, "lenient")


def _of_cell(cell: Mapping[str, Any]) -> str:
    values = [_name(cell)]
    for test in TESTS:
        for lenient in (False, True)[: len(_titles(test))]:
            outcomes = right(test, cell["answers"][test.name], lenient=lenient)
            values.append(counted(sum(outcomes), len(outcomes)))
    general, training = _general(cell), cell["training"]
    return _line(
        (
            *values,
            "-" if general is None else f"{general:+.3f}",
            f"{training['epochs']}{' (cap)' if training['is_learned'] is False else ''}",
            f"{training['seconds'] / 60:.1f}",
        )
    )


def _general(cell: Mapping[str, Any]) -> float | None:
    found = cell["gate"]["general"]
    return float(found["nats_per_token"]) if found else None


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['arm']}, {cell['seed']}"


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
