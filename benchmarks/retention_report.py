"""From the cells of `benchmarks.retention` to the tables of docs/methods.md and the verdicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.retention import Cell, Measure, RetentionMatrix, wilson

KEPT, OF_JOINT, BACKWARD, GENERAL, LOGITS = 0.95, 0.80, -0.02, 0.10, 1e-4
"""Targets: shares; a share; nats per token; a difference of logits relative to the largest."""

_DEFAULT, _JOINT, _BASE = "default", "joint", "base"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What there is of one arm, on subjects in one order, with one seed.

    Attributes:
        arm: Its name.
        order: The order's number.
        seed: Of facts and training.
        cells: The sessions' results from the first on, without a gap.
        base: What the base scored; None where that is missing.
        checks: Of rollback and folds; None where they were not made.
    """

    arm: str
    order: int
    seed: int
    cells: tuple[Mapping[str, Any], ...]
    base: Mapping[str, Any] | None
    checks: Mapping[str, Any] | None

    def retention(self, kind: str) -> RetentionMatrix:
        """Return the matrix of a kind, its columns in the order they were taught."""
        taught = self.cells[-1]["taught"]
        rows = [self.base, *self.cells]
        return RetentionMatrix.of(
            [_count(cell, kind, subject) for subject in taught] for cell in rows
        )


def load(folder: Path) -> list[Chain]:
    """Return the chains of a folder that have a cell, by seed, order and name."""
    bases = {cell["seed"]: cell for cell in _cells(folder, f"{_BASE}-*")}
    found: dict[tuple[int, int, str], list[Mapping[str, Any]]] = {}
    for cell in _cells(folder, "*"):
        if cell["arm"] != _BASE:
            found.setdefault((cell["seed"], cell["order"], cell["arm"]), []).append(cell)
    return [
        Chain(
            arm=arm,
            order=order,
            seed=seed,
            cells=tuple(sorted(cells, key=lambda cell: int(cell["number"]))),
            base=bases.get(seed),
            checks=_read(folder / f"{arm}-{order}-{seed}" / "checks.json"),
        )
        for (seed, order, arm), cells in sorted(found.items())
    ]


def text(chains: Sequence[Chain]) -> list[str]:
    """Return the report: a table of all chains, the verdicts, and every chain's matrices."""
    lines = [*summary(chains), "", *verdicts(chains)]
    for chain in chains:
        lines += ["", f"### {_title(chain)}", "", *matrices(chain)]
    return lines


def summary(chains: Sequence[Chain]) -> list[str]:
    """Return the table of all chains, in Markdown; scores in %, differences in points."""
    lines = [
        "| arm, order, seed | ACC (of n; 95 %) | BWT | F | FWT | worst kept | paraphrases "
        "(of n; 95 %) | of joint's | ΔG | epochs | gate | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for chain in chains:
        known, meant = chain.retention("verbatim"), chain.retention("paraphrases")
        values = (
            _title(chain),
            _scored(known.accuracy()),
            _points(known.backward_transfer()),
            _points(known.forgetting()),
            _points(known.forward_transfer()),
            _percent(worst_kept(known)),
            _scored(meant.accuracy()),
            _percent(of_joint(chain, chains)),
            _number(general(chain), "+.3f"),
            ", ".join(map(_epochs, chain.cells)),
            ", ".join(cell["gate"]["verdict"] for cell in chain.cells),
            f"{sum(cell['training']['seconds'] for cell in chain.cells) / 60:.1f}",
        )
        lines.append("| " + " | ".join(values) + " |")
    return lines


def matrices(chain: Chain) -> list[str]:
    """Return a chain's two matrices in Markdown: right of asked, %, and the 95 % interval."""
    lines: list[str] = []
    for kind in ("verbatim", "paraphrases"):
        found = chain.retention(kind)
        subjects = range(1, found.length + 1)
        lines += [
            f"| {kind}, after | " + " | ".join(f"session {j}" for j in subjects) + " |",
            "|---" * (found.length + 1) + "|",
        ]
        for i, row in enumerate(found.cells):
            shown = " | ".join(_shown(found, i, j, row[j - 1]) for j in subjects)
            lines.append(f"| {f'session {i}' if i else 'base'} | {shown} |")
        lines.append("")
    return lines[:-1]


def verdicts(chains: Sequence[Chain]) -> list[str]:
    """Say of every chain of the default which targets are met; and of every chain's folds."""
    lines = []
    for chain in chains:
        name, known = _title(chain), chain.retention("verbatim")
        if chain.arm == _DEFAULT:
            ratio, rise = of_joint(chain, chains), general(chain)
            kept = worst_kept(known)
            # Where nothing was learned nothing can be lost, and that is no success.
            backward = None if kept is None else known.backward_transfer().value
            lines += [
                verdict(name, "kept of the worst session", kept, f"≥ {KEPT:.0%}", "%", KEPT),
                verdict(name, "paraphrases of joint's", ratio, f"≥ {OF_JOINT:.0%}", "%", OF_JOINT),
                verdict(name, "BWT", backward, f"≥ {100 * BACKWARD:g} points", "points", BACKWARD),
                verdict(name, "ΔG, nats a token", rise, f"≤ {GENERAL:g}", "g", GENERAL),
            ]
        if chain.arm != _JOINT:
            logits = chain.checks["logits"] if chain.checks else {}
            # Of the largest: float32 itself is exact to 6e-8 of a number's size, layer by layer.
            size = f" up to {logits['size']:.1f}" if logits else ""
            what = f"concatenated chain against unrounded fold, of logits{size}:"
            off = logits["largest"] / logits["size"] if logits else None
            lines += [_rollback(chain), verdict(name, what, off, f"≤ {LOGITS:g}", "g", LOGITS)]
    return lines


def verdict(name: str, what: str, value: float | None, target: str, form: str, limit: float) -> str:
    """Say in one line whether a target is met; "≥" or "≤" begins the target."""
    if value is None:
        return f"not measured: {name}: {what} (target: {target})"
    met = value >= limit if target.startswith("≥") else value <= limit
    shown = {"%": _percent(value) + " %", "points": f"{100 * value:+.1f}", "g": f"{value:.4g}"}
    return f"{'met' if met else 'missed':<6}  {name}: {what} {shown[form]} (target: {target})"


def counted(right: int, asked: int) -> str:
    """Return how many are right of how many, %, and the 95 % interval."""
    low, high = wilson(right, asked)
    return f"{right}/{asked} {_percent(right / asked)} ({100 * low:.0f}–{100 * high:.0f})"


def worst_kept(known: RetentionMatrix) -> float | None:
    """Return the least of R[i][j] / R[j][j] over all j < i: what was lost at any time counts."""
    ratios = []
    for j in range(1, known.length):
        learned = known.rate(j, j)
        later = [known.rate(i, j) for i in range(j + 1, known.length + 1)]
        if learned:
            ratios += [rate / learned for rate in later if rate is not None]
    return min(ratios, default=None)


def of_joint(chain: Chain, chains: Sequence[Chain]) -> float | None:
    """Return ACC on paraphrases over that of one training on the same subjects, 1 is as much."""
    place = (chain.order, chain.seed)
    joint = next((c for c in chains if c.arm == _JOINT and (c.order, c.seed) == place), None)
    if joint is None or len(joint.cells) < len(chain.cells):
        return None
    cells = joint.cells[: len(chain.cells)]
    upper = Chain(**{**vars(joint), "cells": cells}).retention("paraphrases").accuracy().value
    own = chain.retention("paraphrases").accuracy().value
    return own / upper if upper and own is not None else None


def general(chain: Chain) -> float | None:
    """Return the largest ΔG of a chain's sessions, nats per token; None where it is missing."""
    found = [cell["gate"]["general"] for cell in chain.cells]
    return max((rise["nats_per_token"] for rise in found if rise), default=None)


def _epochs(cell: Mapping[str, Any]) -> str:
    """Return how many a session took, and whether the cap ended it before all was learned."""
    taken, is_learned = cell["training"]["epochs"], cell["training"]["is_learned"]
    return f"{taken} (cap)" if is_learned is False else str(taken)


def _rollback(chain: Chain) -> str:
    what = "rollback and back again, weights and files by sha256"
    if chain.checks is None:
        return f"not measured: {_title(chain)}: {what} (target: identical)"
    before, last = chain.cells[-2:]
    there, back = chain.checks["there"], chain.checks["back"]
    same = (
        there["fold_sha256"] == before["fold_sha256"]
        and back["fold_sha256"] == last["fold_sha256"]
        and there["files_sha256"] == back["files_sha256"] == last["files_sha256"]
    )
    said = ("met", "identical") if same else ("missed", "different")
    return f"{said[0]:<6}  {_title(chain)}: {what} {said[1]} (target: identical)"


def _count(cell: Mapping[str, Any] | None, kind: str, subject: int) -> Cell:
    """Return how many of a subject's questions are right, and of how many."""
    outcomes = cell["scores"][kind][subject] if cell else None
    return None if outcomes is None else (sum(outcomes), len(outcomes))


def _cells(folder: Path, chain: str) -> list[Mapping[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{chain}/cell-*.json"))]


def _read(path: Path) -> Mapping[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _title(chain: Chain) -> str:
    return f"{chain.arm}, {chain.order}, {chain.seed}"


def _shown(found: RetentionMatrix, i: int, j: int, cell: Cell) -> str:
    return "-" if cell is None or found.interval(i, j) is None else counted(*cell)


def _scored(measure: Measure) -> str:
    if measure.value is None or measure.interval is None:
        return "-"
    low, high = measure.interval
    shown = f"of {measure.questions}; {100 * low:.0f}–{100 * high:.0f}"
    return f"{_percent(measure.value)} ({shown})"


def _points(measure: Measure) -> str:
    return "-" if measure.value is None else f"{100 * measure.value:+.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
