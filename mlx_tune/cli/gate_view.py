"""What a session cost: the gate's decision on what was forgotten, and what rounding lost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlx_tune.cli.console import counted
from mlx_tune.continual.fidelity import UNMERGED
from mlx_tune.continual.gate import Decision, nats, percent, points
from mlx_tune.continual.recall import GeneralChange
from mlx_tune.continual.retained import Retained, SessionRetention, label
from mlx_tune.settings import typed
from mlx_tune.store.session import PROMOTE
from mlx_tune.text import one_line

LOST = 5
"""How many lost questions of a session are shown."""

_SESSIONS = 8
_EXACT = 0.001  # an error below a thousandth of the change is float32's own
_VERDICTS = {
    "promote": ("green", "✓ the gate lets it through, for what was lost is within its limits"),
    "ask": ("yellow", "! the gate holds it back, it is for you to decide:"),
    "refuse": ("red", "✗ the gate refuses it, too much of what was known before is lost:"),
}


def show_decision(
    decision: Decision, questions: Mapping[int, Sequence[str]], console: Console
) -> None:
    """Print the scores, the verdict with its reasons, and what was lost.

    Args:
        decision: The gate's decision.
        questions: The questions of each session, by its number, in the order of its flags; a
            session may be missing.
    """
    skipped = (*decision.verbatim.skipped, *decision.other_words.skipped)
    if decision.measures_nothing and not skipped:
        return  # a first session: there was nothing to lose
    _show_scores(decision, console)
    style, words = _VERDICTS[decision.verdict]
    if decision.measures_nothing:
        words = "✓ the gate lets it through, for nothing could be measured"
    console.print(Text(words, style))
    show_reasons(decision.reasons, console)
    if decision.verdict != PROMOTE:
        _show_lost(decision, questions, console)


def show_reasons(reasons: Iterable[str], console: Console) -> None:
    """Print one reason a line; a narrow terminal breaks it between words."""
    for reason in reasons:
        _line(one_line(reason), console, indent=2)


def _worst(fell: Iterable[SessionRetention]) -> list[SessionRetention]:
    """Return the sessions that lost most, in their order."""
    by_share = sorted(fell, key=lambda kept: kept.share)
    return sorted(by_share[:_SESSIONS], key=lambda kept: kept.number)


def _fell(decision: Decision) -> list[SessionRetention]:
    """Return the sessions that lost an answer word for word."""
    return [kept for kept in decision.verbatim.sessions if kept.lost]


def _fell_in_other_words(decision: Decision) -> list[SessionRetention]:
    """Return those that lost more wordings than they gained: some come and go each time."""
    fell = decision.other_words.sessions
    return [kept for kept in fell if kept.changes.worse > kept.changes.better]


def _show_scores(decision: Decision, console: Console) -> None:
    _show_retained(decision.verbatim, _fell(decision), "word for word", "lost nothing", console)
    reworded = _fell_in_other_words(decision)
    _show_retained(decision.other_words, reworded, "in other words", "no fewer", console)
    if decision.losses:
        name, most = max(decision.losses.items(), key=lambda one: one[1].nats_per_token)
        if most.nats_per_token > 0:
            rise = nats(most.nats_per_token)
            _line(f"taught answers: loss +{rise} nats a token at most ({name})", console)
    if (general := decision.general) is not None:
        sign = "" if general.nats_per_token < 0 else "+"
        over_all = counted(general.asked, "question")
        rise = f"{sign}{nats(general.nats_per_token)}"
        _line(f"general ability: loss {rise} nats a token ({over_all})", console)


def _show_retained(
    retained: Retained,
    fell: Sequence[SessionRetention],
    score: str,
    kept_all: str,
    console: Console,
) -> None:
    """Print what earlier sessions kept of one score, those that lost most one a line.

    Args:
        retained: By this score.
        fell: Those that are listed.
        score: What it is called.
        kept_all: What is said of the others.
        console: Where to print.
    """
    worst = _worst(fell)
    if worst:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(score, header_style="dim", overflow="fold")
        for heading in ("kept", "known now", "at best"):
            table.add_column(heading, header_style="dim", no_wrap=True)
        for kept in worst:
            now, then = (f"{known} of {kept.asked}" for known in (kept.after, kept.before))
            table.add_row(label(kept.number, kept.name), percent(kept.share), now, then)
        console.print(table)
    if more := len(fell) - len(worst):
        _line(f"… and {more} more that lost no more", console, style="dim")
    if whole := len(retained.sessions) - len(fell):
        _line(f"{kept_all} {score}: {counted(whole, 'session')}", console)
    reasons: dict[str, list[str]] = {}
    for name, why in retained.skipped.items():
        reasons.setdefault(one_line(why), []).append(one_line(name))
    for why, names in reasons.items():
        _line(f"not measured {score}: {', '.join(names)}, since {why}", console)
    if (over := retained.backward) is not None:
        words = f"{counted(over.sessions, 'session')}, {counted(over.asked, 'question')}"
        lost = points(-over.mean)
        rise = f"+{lost[1:]}" if lost.startswith("-") else f"-{lost}" if over.mean else lost
        _line(f"backward transfer {score}: {rise} ({words})", console)


def _show_lost(
    decision: Decision, questions: Mapping[int, Sequence[str]], console: Console
) -> None:
    """Print the questions that were known and no longer are, one a line."""
    for kept in _worst(_fell(decision)):
        if (asked := questions.get(kept.number)) is not None:
            name = label(kept.number, kept.name)
            _show_questions(f"{name} no longer knows:", [asked[i] for i in kept.lost], console)
    for kept in _worst(_lost_in_other_words(decision)):
        name = label(kept.number, kept.name)
        _show_questions(f"{name} no longer answers:", kept.lost_wordings, console)


def _lost_in_other_words(decision: Decision) -> list[SessionRetention]:
    """Return the sessions whose loss in other words is hardly chance."""
    significance = decision.thresholds.significance
    fell = _fell_in_other_words(decision)
    return [kept for kept in fell if kept.changes.is_loss(significance)]


def _show_questions(heading: str, lost: Sequence[str], console: Console) -> None:
    _line(heading, console)
    for question in lost[:LOST]:
        console.print(Text(f"  “{one_line(question)}”"), no_wrap=True, overflow="ellipsis")
    if (more := len(lost) - LOST) > 0:
        _line(f"  … and {more} more", console, style="dim")


def show_ways(
    decision: Decision, console: Console, *, session: str, general_replay: float | None, store: Path
) -> None:
    """Print what to do with a session that was held back, the most promising first.

    Args:
        decision: Why it was held back.
        session: What a command calls it, such as the first digits of its id.
        general_replay: A larger share of general questions than it had; None where it had them all.
        store: Where the session is.
    """
    console.print()
    _line("The session is saved, and HEAD is where it was. You can", console)
    first, second = decision.thresholds.general, decision.thresholds.ask_general
    # Answers that were lost, and taught ones that got less likely, whether ever known or not.
    forgot = bool(_fell(decision) or _lost_in_other_words(decision))
    forgot = forgot or any(_is_over(change, first) for change in decision.losses.values())
    rise = decision.general
    drifted = rise is not None and (
        _is_over(rise, first) or any(_is_over(kind, second) for kind in rise.kinds.values())
    )
    more_general = f"train DATA --general-replay {general_replay}"
    ways = {
        "train again, rehearsing every old row": "train DATA --replay all" * forgot,
        "train again, with more general questions": more_general
        * (drifted and general_replay is not None),
        "train again, keeping only a part of what changes": "train DATA --method soup",
        "train one adapter on all that was ever taught": "consolidate" * forgot,
        "take the session as it is": f"promote {session}",
    }
    offered = [what for what in ways if ways[what]]
    for number, what in enumerate(offered, start=1):
        _line(f"{number}. {what}", console, indent=2)
        command = Text(f"     {typed(ways[what], store)}", "cyan")
        console.print(command, soft_wrap=True)  # a command that is broken cannot be copied


def _is_over(change: GeneralChange, limit: float) -> bool:
    return not change.nats_per_token <= limit  # so that NaN is over it


def _line(words: str, console: Console, *, indent: int = 0, style: str = "") -> None:
    """Print a line; where a narrow terminal breaks it, the rest is indented as it is."""
    console.print(Padding(Text(words, style), (0, 0, 0, indent), expand=False))


def fidelity_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the size of a chain's change, and how much of it the stored weights keep.

    Args:
        record: ``Fidelity.to_json``; of a chain, not of the bare base.

    Returns:
        A label and a text for each of the two.
    """
    layers = record["layers"]
    largest = max(layers, key=lambda path: layers[path]["relative"])
    size = f"{_share(record['relative'])} of the weights (rms)"
    most = f"most in {_layer(largest)}: {_share(layers[largest]['relative'])}"
    return [("change", f"{size}; {most}"), ("kept", _kept(record))]


def _kept(record: Mapping[str, Any]) -> str:
    if record["stored"] == [UNMERGED]:
        return "all of it, beside the quantised weights: nothing is rounded"
    stored = " and ".join(s for s in record["stored"] if s != UNMERGED)
    if record["error"] < _EXACT:
        return f"all of it in {stored}, to {record['error']:.0e} of it"
    layers = record["layers"]
    path = max(layers, key=lambda path: layers[path]["error"])
    lost = _share(record["lost"])
    if record["error"] < 1:
        least = f"{_layer(path)} least: {_share(1 - layers[path]['error'])}"
        return f"{_share(1 - record['error'])} in {stored}, {lost} of weights unmoved; {least}"
    worst = f"{_layer(path)} worst: {layers[path]['error']:.1f} ×"
    noise = f"with noise {record['error']:.1f} × it"
    return f"{_share(record['along'])} of the way in {stored}, {noise}; {worst}"


def _layer(path: str) -> str:
    number = path.rpartition(".")[2]
    return f"layer {number}" if number.isdecimal() else path


def _share(share: float) -> str:
    shown = 100 * share
    return f"{shown:.0f} %" if shown >= 10 or not shown else f"{shown:.2g} %"
