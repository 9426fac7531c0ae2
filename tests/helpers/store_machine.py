"""A store driven at random beside a model of it in memory: crashes, damage and forks included.

Every operation is planned on the model first: what it must be refused with, or its effects one
after the other, each of which the disk shows at once. An operation that dies at any moment must
leave the disk as after one of these effects, and nothing in between.
"""

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from helpers.store_model import (
    Effect,
    ExpectedRun,
    ExpectedSession,
    Model,
    Plan,
    ProcessDied,
    drop_if_gone,
    dying_at,
    expected_session,
    folders,
    read_model,
)
from helpers.stores import flip, names, state
from mlx_tune.errors import DamagedStoreError, IncompatibleError, LockedError, UsageError
from mlx_tune.files.sealed import open_sealed
from mlx_tune.store.gc import KEPT_DAYS, collect_garbage
from mlx_tune.store.labels import mark_removed, tag, unmark_removed, untag
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session, read_session
from mlx_tune.store.store import SessionStore
from mlx_tune.store.verify import verify

TAGS = ("good", "best", "old")
DAYS = (0, 1, KEPT_DAYS - 1, KEPT_DAYS, KEPT_DAYS + 1)
PICK = st.integers(0, 10**6)
MOMENT = st.integers(1, 8) | st.integers(1, 32)  # a commit makes some thirty changes, others few


class Machine(RuleBasedStateMachine):
    """The rules; `do` carries a plan out, `crash` kills it on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "s"
        self.store = SessionStore.open(self.root)
        self.model = Model()
        self.today = date(2026, 11, 23)
        self.ever: dict[str, ExpectedSession] = {}
        # Flushes are for power cuts, which are tried elsewhere, on real disks.
        self.unflushed = mock.patch.object(os, "fsync", return_value=None)
        self.unflushed.start()

    def teardown(self) -> None:
        self.unflushed.stop()
        shutil.rmtree(self.folder)

    # Plans

    def pick(
        self, number: int, fit: Callable[[ExpectedSession], bool] | None = None
    ) -> ExpectedSession | None:
        """Return one of the sessions there are; mostly one that is fit, where there is any."""
        there = self.model.in_order()
        if fit and number % 4:
            there = [*filter(fit, there)] or there
        return there[number // 4 % len(there)] if there else None

    def session(self, identity: str) -> Session | None:
        if identity == "base":
            return None
        return read_session(self.root / "sessions" / self.ever[identity].folder)

    def committing(self, made: ExpectedSession) -> Plan:
        parent = made.parent

        def act(store: SessionStore) -> Session:
            on = self.session(parent) if parent else None
            session = store.commit(name=made.name, parent=on, record=made.record, files=made.files)
            assert session.id == made.id
            return session

        def begin(model: Model) -> None:
            model.format = model.format or {"version": 1, "requires": []}

        def start(model: Model) -> None:
            if model.head_text is None and not model.sessions:
                model.head_text = "base"

        self.ever[made.id] = made
        return Plan(act, [begin, start, lambda model: model.sessions.update({made.id: made})])

    def moving(self, to: str) -> Plan:
        def act(store: SessionStore) -> None:
            store.move_head(self.session(to), expected=store.snapshot().head(), why="a move")

        old = self.model.head

        def move(model: Model) -> None:
            model.head_text = to

        error = UsageError if to in self.model.marked else None
        return Plan(act, [move, lambda model: model.log.append((old, to))], error)

    def fresh(self, parent: ExpectedSession | None, verdict: str) -> ExpectedSession:
        count = len(self.ever)
        return expected_session(f"s{count}", parent, verdict, f"{count:06d}")

    def plan_train(self, _a: int, _b: int) -> Plan:
        word = self.model.head
        made = self.fresh(self.model.sessions.get(word), "promote")
        commit, move = self.committing(made), self.moving(made.id)

        def act(store: SessionStore) -> None:
            parent = store.snapshot().head()
            session = commit.act(store)
            store.move_head(session, expected=parent, why="train")

        return Plan(act, [*commit.effects, *move.effects])

    def plan_hold(self, a: int, _b: int) -> Plan:
        # On a marked one too: without locks, somebody may have trained there meanwhile.
        parent = self.pick(a, lambda made: made.id in self.model.marked)
        return self.committing(self.fresh(parent, "refuse"))

    def plan_again(self, a: int, _b: int) -> Plan | None:
        """Commit what was committed before, whether it is there, in the trash or long gone."""
        fit = [s for s in self.ever.values() if s.parent is None or s.parent in self.model.sessions]
        return self.committing(sorted(fit)[a % len(fit)]) if fit else None

    def plan_rollback(self, a: int, b: int) -> Plan | None:
        to = self.pick(a)
        if self.model.format is None:
            return None
        return self.moving(to.id if to and b % 4 else "base")

    def plan_tag(self, a: int, b: int) -> Plan | None:
        of, name = self.pick(a), TAGS[b % len(TAGS)]
        if of is None:
            return None
        error = UsageError if of.id in self.model.marked else None
        return Plan(
            lambda store: tag(store, name, self.session(of.id)),
            [lambda model: model.tags.update({name: of.id})],
            error,
        )

    def plan_untag(self, a: int, _b: int) -> Plan:
        name = TAGS[a % len(TAGS)]
        error = None if name in self.model.tags else UsageError
        return Plan(lambda s: untag(s, name), [lambda model: model.tags.pop(name)], error)

    def plan_rm(self, a: int, _b: int) -> Plan | None:
        of = self.pick(a, lambda made: not self.model.standing_on(made.id))
        return self.removing(of) if of else None

    def removing(self, of: ExpectedSession) -> Plan:
        error = UsageError if self.model.standing_on(of.id) else None

        def demand(model: Model) -> None:
            model.format = {**model.format, "requires": ["removal"]}

        def mark(model: Model) -> None:
            model.marks[of.folder] = of.id

        return Plan(lambda store: mark_removed(store, self.session(of.id)), [demand, mark], error)

    def plan_undo(self, a: int, _b: int) -> Plan | None:
        of = self.pick(a, lambda made: made.id in self.model.marked)
        if of is None:
            return None
        marked = self.model.marked
        error = UsageError if of.id not in marked or of.parent in marked else None
        drop: Effect = lambda model: model.marks.pop(of.folder)  # noqa: E731 an effect like the others
        return Plan(lambda store: unmark_removed(store, self.session(of.id)), [drop], error)

    def plan_gc(self, a: int, _b: int) -> Plan:
        self.today += timedelta(DAYS[a % len(DAYS)])
        effects = [self.trashing(made) for made in self.collectable()]
        flat: list[Effect] = [effect for pair in effects for effect in pair]
        for name in sorted(self.model.trash):
            if date.fromisoformat(name[:10]) + timedelta(KEPT_DAYS) <= self.today:
                flat.append(lambda model, name=name: model.trash.pop(name))
        for name, run in sorted(self.model.runs.items()):
            if run.phase == "done":
                flat.append(
                    lambda model, name=name, run=run: model.runs.update(
                        {name: run._replace(steps=())}
                    )
                )
        for name in sorted(self.model.marks):
            flat.append(lambda model, name=name: drop_if_gone(model, name))
        error = DamagedStoreError if self.model.is_lost else None
        return Plan(lambda store: collect_garbage(store, today=self.today), flat, error)

    def collectable(self) -> list[ExpectedSession]:
        model = self.model
        named = {model.head, *model.tags.values(), *model.parents_of_unfinished()}
        roots = [s for s in model.sessions if s not in model.marked or s in named]
        needed = {member for root in roots for member in model.chain(root)}
        return [made for made in reversed(model.in_order()) if made.id not in needed]

    def trashing(self, made: ExpectedSession) -> list[Effect]:
        def move(model: Model) -> None:
            stem = f"{self.today}-{made.folder}"
            count = sum(re.fullmatch(rf"{stem}(~\d+)?", name) is not None for name in model.trash)
            model.trash[stem if not count else f"{stem}~{count + 1}"] = made.id
            del model.sessions[made.id]

        return [move, lambda model: model.marks.pop(made.folder, None)]

    def plan_checkpoint(self, a: int, _b: int) -> Plan | None:
        names_ = sorted(self.model.runs)
        if not names_:
            return None
        name = names_[a % len(names_)]
        steps = self.model.runs[name].steps
        step = max(steps, default=0) + 1

        def act(_store: SessionStore) -> None:
            run = Run.open(self.root / "runs" / name)
            run.log(step=step)
            run.save_checkpoint(step, {"a": b"%d" % step})

        def put(model: Model, now: tuple[int, ...]) -> None:
            model.runs[name] = model.runs[name]._replace(steps=now)

        states = [(*steps, step)]
        while len(states[-1]) > 2:  # the newest of those that go goes first
            states.append((*states[-1][:-3], *states[-1][-2:]))
        return Plan(act, [lambda model, now=now: put(model, now) for now in states])

    # Rules

    def do(self, plan: Plan | None) -> None:
        """Carry a plan out, and all that follows."""
        if plan is None:
            return
        if plan.error:
            before = state(self.root)
            with pytest.raises(plan.error) as caught:
                plan.act(self.store)
            assert type(caught.value) is plan.error
            assert state(self.root) == before
            return
        plan.act(self.store)
        for effect in plan.effects:
            effect(self.model)

    @initialize(is_new=st.booleans())
    def begin(self, is_new: bool) -> None:
        for kind in [] if is_new else ("train", "hold", "train", "hold"):
            self.do(getattr(self, f"plan_{kind}")(1, 0))

    @rule(a=PICK)
    def train(self, a: int) -> None:
        self.do(self.plan_train(a, 0))

    @rule(a=PICK)
    def hold(self, a: int) -> None:
        self.do(self.plan_hold(a, 0))

    @rule(a=PICK)
    def commit_again(self, a: int) -> None:
        self.do(self.plan_again(a, 0))

    @rule(a=PICK, b=PICK)
    def rollback(self, a: int, b: int) -> None:
        self.do(self.plan_rollback(a, b))

    @rule(a=PICK, b=PICK)
    def tag(self, a: int, b: int) -> None:
        self.do(self.plan_tag(a, b))

    @precondition(lambda self: self.model.format)
    @rule(a=PICK)
    def untag(self, a: int) -> None:
        self.do(self.plan_untag(a, 0))

    @rule(a=PICK)
    def rm(self, a: int) -> None:
        self.do(self.plan_rm(a, 0))

    @rule(a=PICK)
    def rm_branch(self, a: int) -> None:
        """Remove a session and all that stands on it, the last first, as far as that goes."""
        root = self.pick(a)
        for made in reversed(self.model.in_order()):
            if root and root.id in self.model.chain(made.id):
                self.do(self.removing(made))

    @precondition(lambda self: self.model.marks)
    @rule(a=PICK)
    def undo(self, a: int) -> None:
        self.do(self.plan_undo(a, 0))

    @precondition(lambda self: self.model.format)
    @rule(a=PICK)
    def gc(self, a: int) -> None:
        self.do(self.plan_gc(a, 0))

    @rule(a=PICK)
    def checkpoint(self, a: int) -> None:
        self.do(self.plan_checkpoint(a, 0))

    @precondition(lambda self: len(self.model.runs) < 3)
    @rule(a=PICK)
    def start_run(self, a: int) -> None:
        on = self.pick(a)
        record = {"phase": "train", "parent": on.id if on else None}
        run = Run.create(self.root, name="cs", record=record, files={})
        self.model.runs[run.path.name] = ExpectedRun(record["parent"], "train", ())

    @precondition(lambda self: self.model.runs)
    @rule(a=PICK, phase=st.sampled_from(["score", "commit", "done", "failed"]))
    def go_on(self, a: int, phase: str) -> None:
        name = sorted(self.model.runs)[a % len(self.model.runs)]
        Run.open(self.root / "runs" / name).set(phase=phase)
        self.model.runs[name] = self.model.runs[name]._replace(phase=phase)

    @precondition(lambda self: not self.model.is_lost)
    @rule()
    def fork(self) -> None:
        """Two writers see the same HEAD; both commit, one moves it, the other is refused."""
        ours, theirs = SessionStore.open(self.root), SessionStore.open(self.root)
        word = self.model.head
        expected = ours.snapshot().head()
        made = [self.committing(self.fresh(self.model.sessions.get(word), "promote"))]
        mine = made[0].act(ours)
        made.append(self.committing(self.fresh(self.model.sessions.get(word), "promote")))
        other = made[1].act(theirs)
        theirs.move_head(other, expected=expected, why="theirs")
        with pytest.raises(LockedError):
            ours.move_head(mine, expected=expected, why="ours")
        for effect in (*made[0].effects, *made[1].effects, *self.moving(other.id).effects):
            effect(self.model)

    @rule(
        kind=st.sampled_from(["train", "hold", "again", "rollback", "checkpoint"]),
        a=PICK,
        b=PICK,
        moment=MOMENT,
    )
    def crash_in_a_training(self, kind: str, a: int, b: int, moment: int) -> None:
        self.crash(kind, a, b, moment)

    @rule(kind=st.sampled_from(["tag", "untag", "rm", "undo", "gc"]), a=PICK, b=PICK, moment=MOMENT)
    def crash_in_the_upkeep(self, kind: str, a: int, b: int, moment: int) -> None:
        self.crash(kind, a, b, moment)

    def crash(self, kind: str, a: int, b: int, moment: int) -> None:
        """Let an operation die; the disk is then as after one of its effects."""
        plan = getattr(self, f"plan_{kind}")(a, b)
        if plan is None or (self.model.format is None and kind in ("untag", "gc")):
            return
        allowed = [copy.deepcopy(self.model)]
        for effect in [] if plan.error else plan.effects:
            allowed.append(copy.deepcopy(allowed[-1]))
            effect(allowed[-1])
        try:
            with dying_at(moment):
                plan.act(self.store)
            allowed = allowed[-1:]
        except ProcessDied:
            pass
        except Exception as error:
            assert type(error) is plan.error
        self.store = SessionStore.open(self.root)
        found = read_model(self.root)
        assert found in allowed
        self.model = found

    @precondition(lambda self: self.model.trash)
    @rule(a=PICK)
    def bring_back_by_hand(self, a: int) -> None:
        name = sorted(self.model.trash)[a % len(self.model.trash)]
        made = self.ever[self.model.trash[name]]
        if made.id in self.model.sessions or (made.parent or "base") not in {
            *self.model.sessions,
            "base",
        }:
            return
        (self.root / "trash" / name).rename(self.root / "sessions" / made.folder)
        del self.model.trash[name]
        self.model.sessions[made.id] = made

    @precondition(lambda self: self.model.sessions)
    @rule(a=PICK, b=PICK, c=PICK)
    def corrupt(self, a: int, b: int, c: int) -> None:
        """Flip a bit of any file of any session: it is found, and nothing is collected."""
        path = self.root / "sessions" / self.pick(a).folder
        place = path / names(path)[b % len(names(path))]
        whole = place.read_bytes()
        flip(place, c % len(whole))
        problems = verify(SessionStore.open(self.root).snapshot()).problems
        assert any(str(path) in problem for problem in problems)
        before = state(self.root)
        with pytest.raises(DamagedStoreError):
            collect_garbage(self.store, today=self.today + timedelta(365))
        assert state(self.root) == before
        place.write_bytes(whole)

    @precondition(lambda self: self.model.sessions)
    @rule(text=st.sampled_from([None, "", "garbage", "0" * 64, "base "]) | PICK)
    def lose_head(self, text: str | int | None) -> None:
        place = self.root / "HEAD"
        if isinstance(text, int):  # a session that is here, or in the trash, or gone
            text = sorted(self.ever)[text % len(self.ever)]
        if text is None:
            place.unlink(missing_ok=True)
        else:
            place.write_text(text)
        self.model.head_text = text
        if self.model.head not in {"base", *self.model.sessions}:
            self.leave_a_missing_head()

    def leave_a_missing_head(self) -> None:
        """Nothing answers in its place, nothing is collected, and the way back leads to a model."""
        missing = self.model.head
        found = self.store.snapshot()
        with pytest.raises(DamagedStoreError, match=f"{missing[:12]}.*mlx-tune rollback --to "):
            found.head()
        assert any(missing[:12] in problem for problem in verify(found).problems)
        with pytest.raises(DamagedStoreError):
            collect_garbage(self.store, today=self.today)
        self.store.leave_damaged_head(None, why="rollback")
        self.model.head_text = "base"
        self.model.log.append((missing, "base"))

    @precondition(lambda self: self.model.format)
    @rule(a=PICK)
    def meet_a_newer_minor_version(self, a: int) -> None:
        """It leaves a key that nobody here knows, which is kept for ever after."""
        place = self.root / "format.json"
        self.model.format = {**self.model.format, f"unknown {a % 3}": [a, {"deep": None}]}
        place.write_text(json.dumps(self.model.format))

    @precondition(lambda self: self.model.sessions)
    @rule(a=PICK)
    def meet_a_newer_version(self, a: int) -> None:
        """It demands what nobody here can do: nothing is read, and nothing changes."""
        place = self.root / "format.json"
        whole = place.read_bytes()
        session = self.session(self.pick(a).id)
        place.write_text(json.dumps({**self.model.format, "requires": ["removal", "deltas"]}))
        before = state(self.root)
        for call in (
            lambda: SessionStore.open(self.root),
            self.store.snapshot,
            lambda: self.plan_hold(a, 0).act(self.store),
            lambda: self.store.move_head(session, expected=None, why=""),
            lambda: tag(self.store, "good", session),
            lambda: untag(self.store, "good"),
            lambda: mark_removed(self.store, session),
            lambda: unmark_removed(self.store, session),
            lambda: collect_garbage(self.store, today=self.today + timedelta(365)),
        ):
            with pytest.raises(IncompatibleError):
                call()
        assert state(self.root) == before
        place.write_bytes(whole)

    # What always holds

    @invariant()
    def the_disk_shows_what_the_model_says(self) -> None:
        assert read_model(self.root) == self.model

    @invariant()
    def the_store_reads_what_the_model_says(self) -> None:
        store = SessionStore.open(self.root).snapshot()
        current = store.head()
        assert (current.id if current else "base") == self.model.head
        assert list(store.sessions) == [s.id for s in self.model.in_order()]
        assert bool(store.notes) == self.model.is_lost
        for name, identity in self.model.tags.items():
            assert store.find(name).id == identity

    @invariant()
    def a_check_of_everything_finds_nothing(self) -> None:
        found = verify(SessionStore.open(self.root).snapshot())
        assert (found.problems, found.sessions) == ([], len(self.model.sessions))
        for path in folders(self.root / "trash"):
            open_sealed(path).verify()
