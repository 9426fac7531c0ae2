"""A matrix of shares as a table on a terminal, the more is known the brighter the ground."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mlx_tune.cli.console import plain
from mlx_tune.continual.retention import Cell

# Ten steps of cividis, dark to bright, which people with and without colour-blindness see alike.
# Source: Nuñez, Anderton and Renslow 2018, doi:10.1371/journal.pone.0199239.
_STEPS = (
    "#00204d", "#00336f", "#39486b", "#575c6d", "#6b6c71",
    "#8a8779", "#a69d75", "#c4b56c", "#e4cf5b", "#ffea46",
)  # fmt: skip
_FIRST_BRIGHT = 5  # from here on black letters stand out more than white ones
_LEAST_LABEL, _MOST_LABEL = 10, 24  # columns


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Shares with a name for each row and column.

    Attributes:
        title: What the shares are.
        rows: A name each.
        columns: A name each.
        cells: One row of cells a row; None where nothing is known.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


def show(heat: HeatMap, printer: Console) -> None:
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


def ground(share: float) -> Style:
    """Return the colours of a share from 0 to 1: letters, and the ground they stand on."""
    step = min(int(share * len(_STEPS)), len(_STEPS) - 1)
    return Style(color="#000000" if step >= _FIRST_BRIGHT else "#ffffff", bgcolor=_STEPS[step])


def _fits(heat: HeatMap, room: int, label: int, joint: str) -> bool:
    return label + 1 + len(heat.columns) * _cell_width(heat, joint) <= room


def _cell_width(heat: HeatMap, joint: str) -> int:
    """Return what 100 % of the most questions takes, so that two maps of them are alike."""
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
    style = ground(cell[0] / cell[1]) if cell and cell[1] else Style(dim=True)
    return Text(_shown(cell, joint).rjust(width - 1) + " ", style)


def _shown(cell: Cell, joint: str) -> str:
    if cell is None or not cell[1]:
        return "–"
    return f"{round(100 * cell[0] / cell[1])} %{joint}{cell[1]}"


def _cut(text: str, most: int) -> str:
    words = plain(text)
    return words if len(words) <= most else words[: most - 1] + "…"
