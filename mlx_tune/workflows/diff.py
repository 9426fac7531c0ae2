"""What two places of the lineage differ in: settings, rows, metrics, weights and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.continual.change import Change, change_norms, weight_norms
from mlx_tune.continual.rehearse import current
from mlx_tune.data.rows import Row
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load
from mlx_tune.workflows.answers import Answers, Probe, compare
from mlx_tune.workflows.folded import (
    choose_base,
    let_go,
    locate_base,
    need_sessions,
    read_adapters,
    read_history,
)


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A row in force, and whose it is.

    Attributes:
        row: As the session keeps it.
        session: The last one that taught it.
    """

    row: Row
    session: Session

    @property
    def place(self) -> str:
        """Where it stands, for a person: the session, and the line of its data.jsonl."""
        line = self.row.place.rpartition(":")[2]
        return f"{self.session.number} {self.session.name}, line {line}"

    @property
    def says(self) -> str:
        """What is taught: the answer, or the text of a row that has none."""
        return str(self.row.answer if self.row.text is None else self.row.text)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two places.

    Attributes:
        session: None for the bare base.
        chain: Its sessions, root first.
        taught: The rows in force, by topic, in the order they were taught.
    """

    session: Session | None
    chain: tuple[Session, ...]
    taught: Mapping[str, Taught]

    @property
    def settings(self) -> dict[str, Any]:
        """The values its session was trained with, by name; the base has none."""
        return {name: chosen["value"] for name, chosen in self._record("sizing").items()}

    @property
    def training(self) -> Mapping[str, Any]:
        """The numbers of its training; the base has none."""
        return self._record("training")

    @property
    def recall(self) -> dict[str, Mapping[str, Any]]:
        """By session id, what was known of each when this one was committed."""
        entries = self.session.record.get("recall", []) if self.session else []
        return {s.id: entry for s, entry in zip(self.chain, entries, strict=False)}

    def _record(self, key: str) -> Mapping[str, Any]:
        return dict(self.session.record.get(key, {})) if self.session else {}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two places of the lineage, side by side.

    Attributes:
        a: The one.
        b: The other.
        change: From A's weights to B's.
        answers: Of both; None when they were not asked.
    """

    a: Side
    b: Side
    change: Change
    answers: Answers | None

    @property
    def is_none(self) -> bool:
        """Tell whether the two are the same place."""
        return self.a.session == self.b.session

    @property
    def shared(self) -> tuple[Session, ...]:
        """The sessions that both stand on, root first."""
        return _shared(self.a, self.b)

    @property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """A's and B's value of each setting that differs; None where a side has none."""
        a, b = self.a.settings, self.b.settings
        both = {name: (a.get(name), b.get(name)) for name in {**a, **b}}
        return {name: values for name, values in both.items() if values[0] != values[1]}

    @property
    def only_a(self) -> list[Taught]:
        """The rows that A's chain teaches and B's does not."""
        return [had for topic, had in self.a.taught.items() if topic not in self.b.taught]

    @property
    def only_b(self) -> list[Taught]:
        """The rows that B's chain teaches and A's does not."""
        return [has for topic, has in self.b.taught.items() if topic not in self.a.taught]

    @property
    def changed(self) -> list[tuple[Taught, Taught]]:
        """The rows of A that B teaches with another answer, each with B's."""
        pairs = ((had, self.b.taught.get(topic)) for topic, had in self.a.taught.items())
        return [(had, has) for had, has in pairs if has is not None and has.says != had.says]


def diff(
    store_root: Path,
    a: str,
    b: str,
    *,
    base: str | None,
    ask: bool,
    shown: int | None,
    say: Say,
) -> Difference:
    """Compare two sessions, or a session and the base.

    Args:
        store_root: The store's folder.
        a: A session, ``HEAD`` or ``base``.
        b: Another.
        base: The base model, when not the store's own.
        ask: Load both models, one after the other, and ask them every question taught. Without,
            no model is loaded and nothing is known relative to the base's weights.
        shown: How many answers that differ must be there to be read; None for all.
        say: Told, in a line, what takes long.

    Raises:
        UsageError: There is no such session.
        DamagedStoreError: A session of either chain is not what was committed.
    """
    store = Store.open(store_root)
    need_sessions(store)
    left, right = _side(store, a), _side(store, b)
    for note in store.notes:
        say(note)
    if left.session == right.session:
        nothing = Answers(probes=(), max_tokens=0) if ask else None
        return Difference(a=left, b=right, change=Change(norms={}), answers=nothing)
    if not ask:
        return Difference(a=left, b=right, change=_change(left, right), answers=None)
    info = locate_base(store, choose_base(store, base), say)
    change = _change(left, right, info)
    asked = probes(left, right)
    answers = compare(info, left.chain, right.chain, asked, shown=shown, say=say)
    return Difference(a=left, b=right, change=change, answers=answers)


def probes(a: Side, b: Side) -> list[Probe]:
    """Return every question in force in either chain: those of both first, then A's, then B's."""
    rows = [{t: x.row for t, x in side.taught.items() if x.row.question} for side in (a, b)]
    found = [Probe(a=rows[0].get(t), b=rows[1].get(t)) for t in {**rows[0], **rows[1]}]
    return sorted(found, key=lambda probe: probe.a is None or probe.b is None)


def _side(store: Store, ref: str) -> Side:
    session = store.find(ref)
    chain = store.chain(session)
    in_force = current(read_history(chain))
    taught = {
        row.topic: Taught(row=row, session=owner)
        for owner, rows in zip(chain, in_force, strict=True)
        for row in rows
    }
    return Side(session=session, chain=tuple(chain), taught=taught)


def _shared(a: Side, b: Side) -> tuple[Session, ...]:
    # A chain is a way from the root of a tree, so what two have in common they begin with.
    return tuple(s for s, t in zip(a.chain, b.chain, strict=False) if s == t)


def _change(a: Side, b: Side, info: BaseInfo | None = None) -> Change:
    """Measure the weights; what both chains share is left out, so it cancels exactly."""
    alike = len(_shared(a, b))
    norms = change_norms(read_adapters(a.chain[alike:]), read_adapters(b.chain[alike:]))
    own = weight_norms(load(info).model, list(norms)) if info else {}
    let_go()
    return Change(norms=norms, base_norms=own)
