"""The command diff: two sessions side by side, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlx_tune import Store
from mlx_tune.cli.console import (
    console,
    duration,
    print_json,
    print_wrapped,
    say,
    setting_value,
    size,
    warn_of_slow_blas,
)
from mlx_tune.cli.options import STORE, BaseOption, JsonOption, StoreOption, session_argument
from mlx_tune.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_tune.continual.change import Change
    from mlx_tune.data.rows import Row
    from mlx_tune.store.session import Session
    from mlx_tune.workflows.diff import (
        Answer,
        AnsweredProbe,
        ComparedAnswers,
        Difference,
        Side,
        TaughtRow,
    )

_REFERENCE = "A session by number, name or id, or `HEAD`, or `base`."

ANSWERS = 10
"""How many answers that differ are shown."""

_SESSIONS, _ROWS, _LAYERS = 6, 5, 5
_BAR = 24
_MARKS = {"right": "✓", "confused": "≠"}
_NOTHING = "–"
_SCORES = {
    "as_taught": "right as taught",
    "other_words": "right in other words",
    "verbatim": "word for word",
}
_METRICS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "steps": ("steps", str),
    "tokens": ("tokens", "{:,}".format),
    "last_loss": ("last loss", "{:.4f}".format),
    "seconds": ("trained for", duration),
    "peak_memory_bytes": ("peak memory", size),
}


def diff(
    a: Annotated[str, session_argument(_REFERENCE)],
    b: Annotated[str, session_argument("Another.")],
    *,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers/--no-answers",
            help="Ask both models every question taught; without, no model is loaded.",
        ),
    ] = True,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer, not only those that differ most.")
    ] = False,
    store: StoreOption = STORE,
    base: BaseOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two sessions: settings, data, metrics, weights and answers."""
    if answers:
        warn_of_slow_blas()
    shown = None if json else ANSWERS
    found = Store(store, base=base, say=say).diff(a, b, ask=answers, shown=shown)
    if json:
        print_json(diff_json(found))
    else:
        show_diff(found, console(), every_layer=layers)


def show_diff(found: Difference, printer: Console, *, every_layer: bool) -> None:
    """Print what differs, part by part."""
    if found.is_none:
        printer.print(f"A and B are both {_name(found.a)}; nothing differs", markup=False)
        return
    for show in (_show_places, _show_settings, _show_rows, _show_metrics):
        show(found, printer)
        printer.print()
    _show_change(found.change, printer, every_layer=every_layer)
    if found.answers is not None:
        printer.print()
        _show_answers(found.answers, printer)


def _show_places(found: Difference, printer: Console) -> None:
    alike = len(found.shared)
    common = _numbered(found.shared[-1]) if alike else "the base"
    itself = [n for n, side in (("A", found.a), ("B", found.b)) if len(side.chain) == alike]
    table = _columns()
    table.add_row("A", Text(_name(found.a)))
    table.add_row("B", Text(_name(found.b)))
    table.add_row("common", Text(common + "".join(f", {name} itself" for name in itself)))
    table.add_row("only in A", Text(_sessions(found.a.chain[alike:])))
    table.add_row("only in B", Text(_sessions(found.b.chain[alike:])))
    printer.print(table)


def _show_settings(found: Difference, printer: Console) -> None:
    if found.a.session is None or found.b.session is None:
        printer.print("settings   the base has none")
    elif not found.settings:
        printer.print("settings   the same")
    else:
        table = _columns("settings", "A", "B")
        for name, values in found.settings.items():
            table.add_row(name.replace("_", " "), *(_shown(v, setting_value) for v in values))
        printer.print(table)


def _show_rows(found: Difference, printer: Console) -> None:
    alike = len(found.a.taught) - len(found.only_a) - len(found.changed)
    print_wrapped(
        printer,
        f"rows       {alike} alike, {len(found.changed)} with another answer, "
        f"{len(found.only_a)} only in A, {len(found.only_b)} only in B",
    )
    if found.changed:
        printer.print("  with another answer:")
    for had, has in found.changed[:_ROWS]:
        printer.print(Text(f"    {_asked(has.row)}"), soft_wrap=True)
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, one in (("A", had), ("B", has)):
            table.add_row(name, Text(one_line(one.says), overflow="fold"), Text(one.place, "dim"))
        printer.print(Padding(table, (0, 0, 0, 6), expand=False))
    _more(printer, found.changed)
    _show_alone("A", found.only_a, printer)
    _show_alone("B", found.only_b, printer)


def _show_alone(name: str, rows: Sequence[TaughtRow], printer: Console) -> None:
    """Print the first rows that one side teaches alone; a terminal cuts each to one line."""
    if not rows:
        return
    printer.print(f"  only in {name}:")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()  # rich narrows a column that may wrap before one that may not
    table.add_column(no_wrap=True, style="dim")
    for one in rows[:_ROWS]:
        asked = Text(_asked(one.row), no_wrap=True, overflow="ellipsis")
        table.add_row(asked, Text(one.place))
    printer.print(Padding(table, (0, 0, 0, 4), expand=False))
    _more(printer, rows)


def _more(printer: Console, rows: Sequence[object]) -> None:
    if len(rows) > _ROWS:
        _note(printer, f"    … and {len(rows) - _ROWS} more; --json has all")


def _show_metrics(found: Difference, printer: Console) -> None:
    table = _columns("metrics", "A", "B")
    for name, (label, form) in _METRICS.items():
        table.add_row(label, *(_shown(s.training.get(name), form) for s in (found.a, found.b)))
    same = 0
    for session in {s.id: s for side in (found.a, found.b) for s in side.chain}.values():
        for kind, label in _SCORES.items():
            known = (side.recall.get(session.id, {}).get(kind) for side in (found.a, found.b))
            scores = [_shown(score, "{0[right]} of {0[asked]}".format) for score in known]
            if scores[0] != scores[1]:
                table.add_row(f"{_numbered(session)}, {label}", *scores)
            elif scores[0] != _NOTHING:
                same += 1
    printer.print(table)
    if same:
        _note(printer, f"    … and {same} alike")


def _show_change(change: Change, printer: Console, *, every_layer: bool) -> None:
    layers = change.layers()
    share = "" if change.of_base is None else f", {_percent(change.of_base)} of the base's own"
    printer.print(f"weights    differ by a norm of {_norm(change.norm)}{share}")
    largest = sorted(layers, key=lambda layer: -layer.norm)
    shown = layers if every_layer else largest[:_LAYERS]
    known = ["of the base's"] if change.of_base is not None else []
    table = _columns("layer", "norm", *known, "")
    for layer in shown:
        length = round(_BAR * layer.norm / largest[0].norm) if layer.norm else 0
        of_base = [_shown(layer.of_base, _percent)] if known else []
        table.add_row(layer.number, _norm(layer.norm), *of_base, "█" * length)
    printer.print(Padding(table, (0, 0, 0, 2), expand=False))
    if rest := largest[len(shown) :]:
        between = f"{_norm(rest[-1].norm)} to {_norm(rest[0].norm)}"
        _note(printer, f"    … and {len(rest)} more, {between}; --layers lists them")


def _show_answers(answers: ComparedAnswers, printer: Console) -> None:
    if not answers.probes:
        printer.print("answers    neither was taught a question")
        return
    printer.print(f"answers    {_counted(answers.probes)} differ")
    for name, asked in (
        ("taught by both", [x for x in answers.probes if x.probe.a and x.probe.b]),
        ("only by A", [x for x in answers.probes if not x.probe.b]),
        ("only by B", [x for x in answers.probes if not x.probe.a]),
    ):
        if asked and len(asked) < len(answers.probes):
            printer.print(f"  {name:<16}{_counted(asked)}")
    shown = [answered for answered in answers.differing if answered.is_whole][:ANSWERS]
    any_right = any_confused = any_cut = False
    for answered in shown:
        printer.print()
        printer.print(Text(f"› {one_line(answered.probe.question)}"), soft_wrap=True)
        table = Table.grid(padding=(0, 1, 0, 0))
        for name, answer in (("A", answered.a), ("B", answered.b)):
            if answer is None:
                continue
            text = one_line(answer.text) or "(nothing)"
            told = Text(text + " …" * answer.is_cut, overflow="fold")
            table.add_row(name, _MARKS.get(answer.grade or "", ""), told)
            any_right |= answer.grade == "right"
            any_confused |= answer.grade == "confused"
            any_cut |= answer.is_cut
        printer.print(Padding(table, (0, 0, 0, 2), expand=False))
    printer.print()
    if left := len(answers.differing) - len(shown):
        _note(printer, f"{left} more answers differ; --json has all")
    if any_right:
        _note(printer, "✓ right: it holds the facts that its chain teaches")
    if any_confused:
        _note(printer, "≠ confused: it says what another row of its chain teaches")
    if any_cut:
        _note(printer, f"… goes on: cut, and compared, after {answers.max_tokens} tokens")


def _asked(row: Row) -> str:
    return f"“{one_line(row.question or row.text or row.messages[-1].text)}”"


def _name(side: Side) -> str:
    return side.session.folder_name if side.session else "base"


def _numbered(session: Session) -> str:
    return f"{session.number} {session.name}"


def _sessions(sessions: Sequence[Session]) -> str:
    if not sessions:
        return "no session"
    names = [_numbered(session) for session in sessions[:_SESSIONS]]
    more = [f"… and {len(sessions) - len(names)} more"] if len(sessions) > len(names) else []
    return ", ".join(names + more)


def _counted(asked: Sequence[AnsweredProbe]) -> str:
    return f"{sum(answered.differs for answered in asked)} of {len(asked)}"


def _norm(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _shown(number: Any, form: Callable[[Any], str]) -> str:
    return _NOTHING if number is None else form(number)


def _columns(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headings))
    for heading in headings:
        table.add_column(heading, header_style="dim")
    return table


def _note(printer: Console, line: str) -> None:
    printer.print(Text(line, style="dim"), soft_wrap=True)


def diff_json(found: Difference) -> dict[str, Any]:
    """Return a difference for ``--json``."""
    alike = len(found.shared)
    rows = {
        "a": len(found.a.taught),
        "b": len(found.b.taught),
        "only_a": list(map(_row_json, found.only_a)),
        "only_b": list(map(_row_json, found.only_b)),
        "changed": [{"a": _row_json(had), "b": _row_json(has)} for had, has in found.changed],
    }
    change = found.change
    layers = [dict(vars(layer)) for layer in change.layers()]
    return {
        "a": _side_json(found.a),
        "b": _side_json(found.b),
        "common": found.shared[-1].folder_name if alike else "base",
        "only_a": [session.folder_name for session in found.a.chain[alike:]],
        "only_b": [session.folder_name for session in found.b.chain[alike:]],
        "settings": {n: {"a": a, "b": b} for n, (a, b) in found.settings.items()},
        "rows": rows,
        "metrics": {"a": _metrics_json(found.a), "b": _metrics_json(found.b)},
        "weights": {"norm": change.norm, "of_base": change.of_base, "layers": layers},
        "answers": None if found.answers is None else _answers_json(found.answers),
    }


def _side_json(side: Side) -> dict[str, Any]:
    session = side.session
    return {
        "session": session.folder_name if session else "base",
        "id": session.id if session else None,
        "chain": [s.folder_name for s in side.chain],
    }


def _row_json(one: TaughtRow) -> dict[str, Any]:
    return {"session": one.session.folder_name, "place": one.row.place, **one.row.to_json()}


def _metrics_json(side: Side) -> dict[str, Any] | None:
    return {**side.training, "recall": list(side.recall.values())} if side.session else None


def _answers_json(answers: ComparedAnswers) -> dict[str, Any]:
    differing = [
        {
            "question": one.probe.question,
            "a": _answer_json(one.a, one.probe.a),
            "b": _answer_json(one.b, one.probe.b),
        }
        for one in answers.differing
    ]
    counts = {"asked": len(answers.probes), "differ": len(differing)}
    return {**counts, "max_tokens": answers.max_tokens, "differing": differing}


def _answer_json(answer: Answer | None, row: Row | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    return {
        "text": answer.text,
        "is_cut": answer.is_cut,
        "taught": row.answer if row else None,
        "as_taught": answer.says(row),
        "grade": answer.grade,
    }
