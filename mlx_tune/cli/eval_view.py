"""What `eval` prints: the matrices as heat maps, then what they come to in a few lines."""

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_tune.cli import heat_map
from mlx_tune.cli.console import counted, percent
from mlx_tune.cli.heat_map import HeatMap
from mlx_tune.continual.retention import KINDS, Kind, Measure, Retention
from mlx_tune.workflows.matrix import Evaluation, MatrixColumn, MatrixRow
from mlx_tune.workflows.scoring import FactScore

_TITLES: dict[Kind, str] = {"verbatim": "word for word", "paraphrases": "reworded"}
_NOTHING = "–"
_MEANING = (
    "word for word: as taught, exactly · reworded: in words never trained on",
    "ACC: mean over sessions · BWT: backward transfer, below 0 means forgetting",
    "F: forgetting, from the best it ever was to now · FWT: forward transfer",
    "ΔG: rise of the loss on the base's own answers to general questions",
    "of n: questions asked · (a–b %): 95 % interval (Wilson) · loss in nats",
)


def show_evaluation(found: Evaluation, printer: Console) -> None:
    """Print an evaluation."""
    session = found.answering.session
    who = session.folder_name if session else found.answering.id
    printer.print(f"answers of {who}", markup=False, soft_wrap=True)
    kinds = [kind for kind in KINDS if found.asks(kind)]
    for kind in kinds:
        printer.print()
        caption = Text(f"{_TITLES[kind]}  ")
        caption.append("questions of each session across, after each session down", "dim")
        printer.print(caption, soft_wrap=True)
        heat_map.show(_map(found, kind), printer)
    if any(found.retention(kind) for kind in kinds):
        printer.print()
        _show_measures(found, kinds, printer)
    if (general := found.general) is not None:
        rise = f"{general.nats_per_token:+.3f} nats a token".replace("-", "−")
        line = f"general answers  ΔG  {rise}, worse on {general.rose} of {general.asked} questions"
        printer.print(line, markup=False, soft_wrap=True)
    if found.facts is not None:
        printer.print()
        _show_facts(found, kinds, printer)
    notes = list(_notes(found))
    if notes:
        printer.print()
    for line in notes:
        printer.print(Text(line, "dim"), soft_wrap=True)


def _map(found: Evaluation, kind: Kind) -> HeatMap:
    scored = [[found.scored(row, column, kind) for column in found.columns] for row in found.rows]
    return HeatMap(
        title="after",
        rows=[_place(row) for row in found.rows],
        columns=[_session(column) for column in found.columns],
        cells=[[one.cell if one else None for one in row] for row in scored],
    )


def _show_measures(found: Evaluation, kinds: list[Kind], printer: Console) -> None:
    matrices = [found.retention(kind) for kind in kinds]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("", "", *(_TITLES[kind] for kind in kinds)):
        table.add_column(heading)
    for label, term, form in _LINES:
        table.add_row(label, term, *(form(m) if m else _NOTHING for m in matrices))
    worst = [matrix.worst() if matrix else None for matrix in matrices]
    names = [_session(found.columns[number - 1]) if number else _NOTHING for number in worst]
    table.add_row("known least", "", *map(Text, names))
    table.add_row("", "", *(_worst(matrix) if matrix else "" for matrix in matrices))
    table.add_row("loss per token", "", *(_loss(found, kind) for kind in kinds))
    printer.print(table)
    for line in _MEANING:
        printer.print(Text(line, "dim"), soft_wrap=True)


_Form = Callable[[Retention], str]
_LINES: tuple[tuple[str, str, _Form], ...] = (
    ("known now", "ACC", lambda matrix: _share(matrix.accuracy())),
    ("since learned", "BWT", lambda matrix: _points(matrix.backward_transfer())),
    ("forgotten", "F", lambda matrix: _points(matrix.forgetting(), signed=False)),
    ("known beforehand", "FWT", lambda matrix: _points(matrix.forward_transfer())),
)


def _share(measure: Measure) -> str:
    if measure.value is None or measure.interval is None:
        return _NOTHING
    return f"{100 * measure.value:.1f} % of {measure.questions}{_between(measure.interval)}"


def _points(measure: Measure, *, signed: bool = True) -> str:
    if measure.value is None:
        return _NOTHING
    number = round(100 * measure.value, 1)
    sign = ("−" if number < 0 else "+") if signed and number else ""
    return f"{sign}{abs(number):.1f} points of {measure.questions}"


def _worst(matrix: Retention) -> str:
    worst = matrix.worst()
    cell = matrix.cells[-1][worst - 1] if worst else None
    if worst is None or cell is None:
        return ""
    interval = matrix.interval(matrix.length, worst)
    return f"{heat_map.whole_percent(*cell)} % of {cell[1]}{_between(interval)}"


def _between(interval: tuple[float, float] | None) -> str:
    return f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f} %)" if interval else ""


def _loss(found: Evaluation, kind: Kind) -> str:
    """Return the mean over sessions of the answering row's loss."""
    scored = [found.scored(found.answering, column, kind) for column in found.columns]
    losses = [one.loss for one in scored if one is not None and one.loss is not None]
    return f"{sum(losses) / len(losses):.3f}" if losses else _NOTHING


def _show_facts(found: Evaluation, kinds: list[Kind], printer: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("key facts in the answers", *(_TITLES[kind] for kind in kinds)):
        table.add_column(heading)
    for column in found.columns:
        facts = (found.facts or {})[column.session.number]
        table.add_row(Text(_session(column)), *(_found(facts[kind]) for kind in kinds))
    printer.print(table)


def _found(facts: FactScore) -> str:
    return percent(facts.found, facts.asked) if facts.asked else _NOTHING


def _notes(found: Evaluation) -> Iterator[str]:
    """Yield what a person has to know of the numbers above."""
    for column in found.columns:
        name = _session(column)
        if column.superseded:
            total = len(column.rows) + column.superseded
            yield (
                f"{name}: {column.superseded} of {counted(total, 'question')} replaced by later "
                "sessions, not forgotten"
            )
        if not column.rows:
            yield f"{name}: no questions of its own, so it cannot be measured"
        elif not column.count("paraphrases"):
            yield f"{name}: verbatim only; its rows have no paraphrases"
    yield from _left_out(found)


def _left_out(found: Evaluation) -> Iterator[str]:
    """Yield, of sessions that have questions, which measures go without them."""
    for kind in KINDS:
        matrix = found.retention(kind)
        if matrix is None:
            continue
        for term, measure in (
            ("BWT and F", matrix.backward_transfer()),
            ("FWT", matrix.forward_transfer()),
        ):
            names = [
                _session(found.columns[number - 1])
                for number in measure.left_out
                if found.columns[number - 1].count(kind)
            ]
            if names:
                yield f"{_TITLES[kind]}: {term} without {', '.join(names)}: not measured then"


def _place(place: MatrixRow) -> str:
    return f"{place.number} {place.name}" if place.session else place.name


def _session(column: MatrixColumn) -> str:
    return f"{column.session.number} {column.session.name}"
