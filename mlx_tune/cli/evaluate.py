"""The command eval and what it prints: the retention matrix as a heat map, and its measures.

The more is known, the brighter the background of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mlx_tune import Store
from mlx_tune.cli.console import (
    TABLE_COLUMNS,
    Waiting,
    console,
    counted,
    print_json,
    warn_of_slow_blas,
    whole_percent,
)
from mlx_tune.cli.options import (
    STORE,
    BaseOption,
    JsonOption,
    SessionOption,
    StoreOption,
    removed_option,
    session_option,
)
from mlx_tune.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_tune.continual.answers import AnswerScore
    from mlx_tune.continual.retention import Cell, Kind, Measure, RetentionMatrix
    from mlx_tune.workflows.matrix import Evaluation, MatrixColumn

_TITLES: dict[Kind, str] = {
    "other_words": "right in other words",
    "as_taught": "right as taught",
    "verbatim": "word for word",
}
_RECITED: dict[Kind, Kind] = {"other_words": "paraphrases"}
"""Whose loss is told beside a score, where it is not the taught questions'."""
_NOTHING = "–"
_MEANING = (
    "right: the taught facts stand in the answer · other words: never trained on",
    "word for word: as taught, exactly",
    "ACC: mean over sessions · BWT: backward transfer, below 0 means forgetting",
    "F: forgetting, from the best it ever was to now · FWT: forward transfer",
    "ΔG: rise of the loss on the base's own answers to general questions",
    "of n: questions asked · (a–b %): 95 % interval (Wilson) · loss in nats",
)
# Ten steps of cividis, dark to bright, which people with and without colour-blindness see alike.
# Source: Nuñez, Anderton and Renslow 2018, doi:10.1371/journal.pone.0199239.
_STEPS = (
    "#00204d", "#00336f", "#39486b", "#575c6d", "#6b6c71",
    "#8a8779", "#a69d75", "#c4b56c", "#e4cf5b", "#ffea46",
)  # fmt: skip
_FIRST_BRIGHT = 5  # from here on black letters stand out more than white ones
_LEAST_LABEL, _MOST_LABEL = 10, 24  # columns


def eval_(
    *,
    session: SessionOption = None,
    on: Annotated[
        str | None, session_option("Measure this session's chain; default: the answering one's.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure the answering session alone, none before it.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything again, even where a result is kept.")
    ] = False,
    facts: Annotated[
        bool | None,
        removed_option("--facts: key facts are looked for in every evaluation now; leave it out"),
    ] = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Score every session's questions: right however they are asked, and word for word.

    The table is the retention matrix: a row for the model after each session, a column for the
    questions of each.
    """
    del facts  # refused where it is given
    if quick and fresh:
        raise UsageError(
            "--quick and --fresh: one measures a single row, the other all; give one of the two"
        )
    warn_of_slow_blas()
    with Waiting() as waiting:
        kept = Store(store, base=base, say=waiting.say)
        found = kept.evaluate(session, on=on, fresh=fresh, quick=quick)
    if json:
        answering = found.answering.session
        who = answering.folder_name if answering else found.answering.id
        recall = [entry.to_json() for entry in found.recall]
        print_json({"session": who, "recall": recall, **found.to_json()})
        return
    show_evaluation(found, console())


def show_evaluation(found: Evaluation, printer: Console) -> None:
    """Print an evaluation."""
    session = found.answering.session
    who = session.folder_name if session else found.answering.id
    printer.print(f"answers of {who}", markup=False, soft_wrap=not printer.is_terminal)
    for kind in found.shown:
        printer.print()
        caption = Text(f"{_TITLES[kind]}  ")
        caption.append("questions of each session across, after each session down", "dim")
        printer.print(caption, soft_wrap=not printer.is_terminal)
        show_heat_map(_map(found, kind), printer)
    if any(found.retention(kind) for kind in found.shown):
        printer.print()
        _show_measures(found, printer)
    if (general := found.general) is not None:
        rise = f"{general.nats_per_token:+.3f} nats a token".replace("-", "−")
        worse = f"worse on {general.changes.worse} of {general.asked} questions"
        line = f"general answers  ΔG  {rise}, {worse}"
        printer.print(line, markup=False, soft_wrap=not printer.is_terminal)
    if any(entry.as_taught for entry in found.recall):
        printer.print()
        _show_answers(found, printer)
    if notes := [*_notes(found)]:
        printer.print()
    for line in notes:
        printer.print(Text(line, "dim"), soft_wrap=not printer.is_terminal)


def _map(found: Evaluation, kind: Kind) -> HeatMap:
    scored = [[found.scored(row, column, kind) for column in found.columns] for row in found.rows]
    return HeatMap(
        title="after",
        rows=[f"{row.number} {row.name}" if row.session else row.name for row in found.rows],
        columns=[_session_label(column) for column in found.columns],
        cells=[[one.cell if one else None for one in row] for row in scored],
    )


def _show_measures(found: Evaluation, printer: Console) -> None:
    matrices = [found.retention(kind) for kind in found.shown]
    table = _columns("", "", *(_TITLES[kind] for kind in found.shown))
    for label, term, form in _LINES:
        table.add_row(label, term, *(form(m) if m else _NOTHING for m in matrices))
    worst = [matrix.worst() if matrix else None for matrix in matrices]
    names = [_session_label(found.columns[number - 1]) if number else _NOTHING for number in worst]
    table.add_row("known least", "", *map(Text, names))
    table.add_row("", "", *(_worst(matrix) if matrix else "" for matrix in matrices))
    table.add_row("loss per token", "", *(_loss(found, kind) for kind in found.shown))
    printer.print(table)
    for line in _MEANING:
        printer.print(Text(line, "dim"), soft_wrap=not printer.is_terminal)


_LINES: tuple[tuple[str, str, Callable[[RetentionMatrix], str]], ...] = (
    ("known now", "ACC", lambda matrix: _share(matrix.accuracy())),
    ("since learned", "BWT", lambda matrix: _points(matrix.backward_transfer())),
    ("forgotten", "F", lambda matrix: _points(matrix.forgetting(), signed=False)),
    ("known beforehand", "FWT", lambda matrix: _points(matrix.forward_transfer())),
)


def _share(measure: Measure) -> str:
    if measure.value is None or measure.interval is None:
        return _NOTHING
    tenths = round(1000 * measure.value)
    if 0 < measure.value < 1:  # 100 % only for all of them, 0 % only for none
        tenths = min(max(tenths, 1), 999)
    return f"{tenths / 10:.1f} % of {measure.questions}{_between(measure.interval)}"


def _points(measure: Measure, *, signed: bool = True) -> str:
    if measure.value is None:
        return _NOTHING
    number = round(100 * measure.value, 1)
    sign = ("−" if number < 0 else "+") if signed and number else ""
    return f"{sign}{abs(number):.1f} points of {measure.questions}"


def _worst(matrix: RetentionMatrix) -> str:
    worst = matrix.worst()
    cell = matrix.cells[-1][worst - 1] if worst else None
    if worst is None or cell is None:
        return ""
    interval = matrix.interval(matrix.length, worst)
    return f"{whole_percent(*cell)} % of {cell[1]}{_between(interval)}"


def _between(interval: tuple[float, float] | None) -> str:
    return f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f} %)" if interval else ""


def _loss(found: Evaluation, kind: Kind) -> str:
    """Return the mean over sessions of the answering row's loss."""
    recited = _RECITED.get(kind, "verbatim")
    scored = [found.scored(found.answering, column, recited) for column in found.columns]
    losses = [loss for one in scored if (loss := getattr(one, "loss", None)) is not None]
    return f"{sum(losses) / len(losses):.3f}" if losses else _NOTHING


def _show_answers(found: Evaluation, printer: Console) -> None:
    """Print how the answering model's answers were graded, session by session."""
    headings = ("right as taught", "in other words", "confused", "key facts")
    rows = []
    for entry in found.recall:
        scores = [score for score in (entry.as_taught, entry.other_words) if score]
        facts = [(score.facts_found or 0, score.facts_asked or 0) for score in scores]
        there, asked = map(sum, zip(*facts, strict=True)) if facts else (0, 0)
        values = (
            _right(entry.as_taught),
            _right(entry.other_words),
            str(sum(score.confused for score in scores)) if scores else _NOTHING,
            f"{there} of {asked}" if asked else _NOTHING,
        )
        rows.append((Text(f"{entry.number} {entry.name}"), values))
    if printer.width < TABLE_COLUMNS:  # it would cut the headings
        for name, values in rows:
            said = ", ".join(
                f"{what} {value}" for what, value in zip(headings, values, strict=True)
            )
            printer.print(Text.assemble("answers to ", name, f": {said}"))
    else:
        table = _columns("answers to", *headings)
        for name, values in rows:
            table.add_row(name, *values)
        printer.print(table)
    line = "confused: with what another row teaches · key facts: of both kinds of questions"
    printer.print(Text(line, "dim"), soft_wrap=not printer.is_terminal)


def _right(score: AnswerScore | None) -> str:
    return f"{score.right} of {score.asked}" if score else _NOTHING


def _columns(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading)
    return table


def _notes(found: Evaluation) -> Iterator[str]:
    """Yield what a person has to know of the numbers above."""
    for column in found.columns:
        name = _session_label(column)
        if column.superseded:
            total = len(column.rows) + column.superseded
            replaced = f"{column.superseded} of {counted(total, 'question')} replaced"
            yield f"{name}: {replaced} by later sessions, not forgotten"
        if not column.rows:
            yield f"{name}: no questions of its own, so it cannot be measured"
        elif not column.count("paraphrases"):
            yield f"{name}: only as taught; its rows have no paraphrases"
    for entry in found.recall:
        sampled = [score for score in (entry.as_taught, entry.other_words) if score]
        if any(score.asked < len(score.grades) for score in sampled):
            shares = [f"{score.asked} of {len(score.grades)}" for score in sampled]
            yield f"{entry.number} {entry.name}: answered were {' and '.join(shares)} questions"
    if any(score and score.wrong for e in found.recall for score in (e.as_taught, e.other_words)):
        yield "--json lists the answers that are not right"
    yield from _left_out(found)


def _left_out(found: Evaluation) -> Iterator[str]:
    """Yield, of sessions that have questions, which measures go without them."""
    for kind in found.shown:
        matrix = found.retention(kind)
        if matrix is None:
            continue
        for term, measure in (
            ("BWT and F", matrix.backward_transfer()),
            ("FWT", matrix.forward_transfer()),
        ):
            columns = [found.columns[number - 1] for number in measure.left_out]
            if names := [_session_label(column) for column in columns if column.count(kind)]:
                yield f"{_TITLES[kind]}: {term} without {', '.join(names)}: not measured then"


def _session_label(column: MatrixColumn) -> str:
    return f"{column.session.number} {column.session.name}"


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Shares with a name for each row and column; a cell is None where nothing is known."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


def show_heat_map(heat: HeatMap, printer: Console) -> None:
    """Print a map; more columns than fit come below one another."""
    longest = max(map(len, heat.rows))
    label = min(max(longest, _LEAST_LABEL), _MOST_LABEL)
    if not _fits(heat, printer.width, label, " of "):
        label = _LEAST_LABEL
    joint = " of " if _fits(heat, printer.width, label, " of ") else "/"
    width = _cell_width(heat, joint)
    together = max(1, (printer.width - label - 1) // width)
    for begin in range(0, len(heat.columns), together):
        printer.print(_table(heat, range(len(heat.columns))[begin:][:together], label, joint))


def cell_style(share: float) -> Style:
    """Return the colours of a share from 0 to 1: of the letters and of the background."""
    step = min(int(share * len(_STEPS)), len(_STEPS) - 1)
    return Style(color="#000000" if step >= _FIRST_BRIGHT else "#ffffff", bgcolor=_STEPS[step])


def _fits(heat: HeatMap, room: int, label: int, joint: str) -> bool:
    return label + 1 + len(heat.columns) * _cell_width(heat, joint) <= room


def _cell_width(heat: HeatMap, joint: str) -> int:
    """Return the width of 100 % of the most questions, so that two maps have the same columns."""
    asked = max((cell[1] for row in heat.cells for cell in row if cell), default=0)
    return 1 + len(_shown((asked, asked), joint))


def _table(heat: HeatMap, shown: Sequence[int], label: int, joint: str) -> Table:
    width = _cell_width(heat, joint)
    table = Table(box=None, pad_edge=False, padding=0, header_style="dim")
    table.add_column(Text(heat.title), width=label + 1, no_wrap=True, overflow="ellipsis")
    for column in shown:
        heading = Text(f"{_cut(heat.columns[column], width - 2)} ", justify="right")
        table.add_column(heading, width=width, no_wrap=True)
    for name, cells in zip(heat.rows, heat.cells, strict=True):
        table.add_row(Text(_cut(name, label)), *(_cell(cells[j], joint, width) for j in shown))
    return table


def _cell(cell: Cell, joint: str, width: int) -> Text:
    style = cell_style(cell[0] / cell[1]) if cell and cell[1] else Style(dim=True)
    return Text(_shown(cell, joint).rjust(width - 1) + " ", style)


def _shown(cell: Cell, joint: str) -> str:
    return f"{whole_percent(*cell)} %{joint}{cell[1]}" if cell and cell[1] else _NOTHING


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
