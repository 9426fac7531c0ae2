"""Decides everything before training starts: rows, settings, what fits, what comes along."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_tune import sizing
from mlx_tune.continual import rehearse as rehearsing
from mlx_tune.continual.methods import Method, method
from mlx_tune.continual.rehearse import Rehearsal, current, rehearse
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row, split
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import InputError, UsageError
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.catalogue import shipped_config
from mlx_tune.models.load import load_tokenizer
from mlx_tune.settings import ExplicitValue, merge_settings, read_config
from mlx_tune.sizing import ResolvedSetting, Sizing
from mlx_tune.store.session import Session, check_name, slug
from mlx_tune.store.store import SessionStore
from mlx_tune.training import memory
from mlx_tune.training.batches import padding
from mlx_tune.workflows import fitting
from mlx_tune.workflows.fitting import DiskPlan
from mlx_tune.workflows.general import general_set, kept_general_set, written_by
from mlx_tune.workflows.training_plan import TrainingPlan, training_config
from mlx_tune.workflows.workspace import (
    DATA_FILE,
    choose_base,
    load_folded,
    locate_base,
    read_history,
)

_LONG_SHARE = 0.05
CONSOLIDATED = "consolidated"
"""What a session is called that takes the place of a chain."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What a person asked for.

    Attributes:
        data: Files or folders; none to teach the base anew what the chain was taught.
        store: The store's folder.
        flags: By setting's name; None where not given.
        config: A YAML file, or None.
        without: Sessions of the chain to leave out, where the base is taught anew.
        asks_model: Whether a model may be loaded to be asked something; `plan` loads none.
    """

    data: Sequence[Path]
    store: Path
    flags: Mapping[str, Any]
    config: Path | None = None
    without: Sequence[str] = ()
    asks_model: bool = True


def prepare(request: TrainingRequest, *, say: Say) -> TrainingPlan:
    """Read, check and size a training; no session is written.

    Raises:
        InputError: The data or the config cannot be used.
        UsageError: A flag cannot.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """
    read_rows = read.read(request.data) if request.data else []
    ground = _resolve_inputs(request, say)
    rows = read_rows or ground.rows_to_teach_anew()
    held = ground.value("validation", 0.0), ground.value("seed", 0)
    new, held_out = split(rows, held[0], seed=held[1])
    rehearsal = _rehearsal(ground, rehearse(new, read_history(ground.chain)))
    decided = _decide(ground, rehearsal)
    tokenizer = load_tokenizer(ground.info.folder, ground.info.template)
    if ground.method.synthesises and request.asks_model:
        rehearsal = replace(rehearsal, old=_written(ground, decided, say))
    fresh = tokenise.encode(rehearsal.new, tokenizer)
    tokenise.probes(rehearsal.new, tokenizer)  # what cannot be scored must fail before training
    limit = int(decided.max_length.value)
    fits = [len(example.tokens) <= limit for example in fresh]
    share = _check_lengths(fresh, fits, limit, allowed=bool(ground.value("allow_long", False)))
    # Old rows fitted the limit of the session that taught them; a shorter one now must not make
    # the model forget them.
    old = tokenise.encode(rehearsal.old, tokenizer)
    guards = _general_rows(ground, decided, request, say)
    examples = (*itertools.compress(fresh, fits), *old, *guards)
    mixture = rehearsing.mixture(
        new=sum(fits),
        old=len(old),
        guards=len(guards),
        epochs=int(decided.epochs.value),
        replay=str(decided.replay.value),
        guard=float(decided.guard.value),
        distils=ground.method.distils,
    )
    decided, memory_plan = fitting.fit(
        ground.info,
        decided,
        training_config(decided, mixture),
        examples,
        ground.asked,
    )
    batches = training_config(decided, mixture).batches(
        examples, share_prefix=fitting.dimensions(ground.info).walked
    )
    shapes, needed = batches.shapes()
    # The limit bounds memory, for these as for the others.
    scored = zip(held_out, tokenise.encode(held_out, tokenizer), strict=True)
    validation = [(row, example) for row, example in scored if len(example.tokens) <= limit]
    return TrainingPlan(
        name=ground.name,
        info=ground.info,
        store=ground.store,
        chain=ground.chain,
        replaced=ground.replaced,
        without=ground.without,
        unkept=ground.unkept,
        method=ground.method,
        rehearsal=rehearsal,
        sizing=decided,
        too_long=tuple(itertools.compress(rehearsal.new, map(operator.not_, fits))),
        long_share=share,
        examples=examples,
        mixture=mixture,
        held_out=tuple(row for row, _ in validation),
        validation=tuple(example for _, example in validation),
        disk=_disk(ground, decided, [*rehearsal.rows, *held_out]),
        memory=memory_plan,
        shapes=len(set(shapes.values())),
        padding=padding(shapes, needed),
        sources=tuple(map(str, request.data)),
    )


@dataclass(frozen=True, kw_only=True)
class _TrainingContext:
    """What a training stands on, known before its rows are looked at.

    Attributes:
        name: Of the session to be.
        store: Where it will go.
        info: The base.
        chain: The sessions it stands on; none when it takes the place of one.
        replaced: The chain it takes the place of.
        without: Those of it whose rows are left out.
        method: How earlier sessions are remembered.
        given: What flags and config set.
        asked: Names of settings that a person gave, by flag or in a file of their own.
    """

    name: str
    store: SessionStore
    info: BaseInfo
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    method: Method
    given: Mapping[str, ExplicitValue]
    asked: frozenset[str]

    @property
    def unkept(self) -> tuple[Session, ...]:
        """The earlier sessions that keep no rows."""
        return tuple(s for s in self.chain + self.replaced if DATA_FILE not in s.hashes)

    def rows_to_teach_anew(self) -> list[Row]:
        """Return the rows in force of a chain that is replaced, without the sessions left out."""
        kept = [session for session in self.replaced if session not in self.without]
        return [row for rows in current(read_history(kept)) for row in rows]

    def value(self, name: str, default: Any) -> Any:
        """Return a setting's value where it was given."""
        return self.given[name].value if name in self.given else default


def _resolve_inputs(request: TrainingRequest, say: Say) -> _TrainingContext:
    """Find store, base, chain and method."""
    store = SessionStore.open(request.store)
    given = _explicit_values(request)  # before anything is fetched: a slip must not cost a download
    name = given["name"].value if "name" in given else _name(request.data)
    check_name(name)
    info = _base(request, store, given, say)
    asked = frozenset(given)
    if request.config is None:
        given = {**merge_settings({}, shipped_config(info.name)), **given}
    before = tuple(store.chain(store.head()))
    for note in store.notes:
        say(note)
    ground = _TrainingContext(
        name=name,
        store=store,
        info=info,
        chain=before if request.data else (),
        replaced=() if request.data else before,
        without=_left_out(store, before, request.without),
        method=method(given["method"].value if "method" in given else "rehearsal"),
        given=given,
        asked=asked,
    )
    if not request.data:
        _check_replaceable(ground)
    return ground


def _left_out(
    store: SessionStore, chain: Sequence[Session], refs: Sequence[str]
) -> tuple[Session, ...]:
    """Return the sessions of a chain that are to be left out.

    Raises:
        UsageError: One is not of the chain, or all are.
    """
    found = [store.find(ref) for ref in refs]
    names = ", ".join(session.folder_name for session in chain)
    for ref, session in zip(refs, found, strict=True):
        if session not in chain:
            raise UsageError(f"--without {ref}: not of the chain in use; that is {names}")
    left_out = tuple(session for session in chain if session in found)
    if left_out and len(left_out) == len(chain):
        raise UsageError("--without leaves nothing to teach; `mlx-tune rollback --to base` does")
    return left_out


def _check_replaceable(ground: _TrainingContext) -> None:
    """Refuse to consolidate what cannot be taught anew."""
    if not ground.replaced:
        raise UsageError(
            f"{ground.store.root}: no sessions to consolidate; train the first with "
            "`mlx-tune train data/cs.json`"
        )
    if unkept := [session for session in ground.unkept if session not in ground.without]:
        names = ", ".join(session.folder_name for session in unkept)
        raise UsageError(
            f"{names}: keeps no rows (--no-keep-data), so it cannot be taught anew; train its data "
            "again as a session of its own first, or leave it out with --without"
        )


def _rehearsal(ground: _TrainingContext, found: Rehearsal) -> Rehearsal:
    """Leave out the old rows that a method does not look at."""
    replay = ground.value("replay", ground.method.replay)
    return replace(found, old=()) if replay == "none" or ground.method.synthesises else found


def _decide(ground: _TrainingContext, rehearsal: Rehearsal) -> Sizing:
    """Size the training, and let the method say what nobody else did."""
    lengths = [session.record["sizing"]["max_length"]["value"] for session in ground.chain]
    decided = sizing.plan(
        len(rehearsal.new),
        hidden_size=ground.info.hidden_size,
        loss_chunk=memory.loss_chunk(),
        given=ground.given,
        old_rows=_rows_to_write(ground) if ground.method.synthesises else len(rehearsal.old),
        old_length=max(lengths, default=0),
    )
    replay, name = ground.method.replay, ground.method.name.replace("_", "-")
    wanted = {} if replay == "auto" else {"replay": replay, "guard": 0.0}
    chosen = {
        setting: ResolvedSetting(value=value, reason=f"as --method {name} does", source="rule")
        for setting, value in wanted.items()
        if setting not in ground.given
    }
    return replace(decided, **chosen)


def _rows_to_write(ground: _TrainingContext) -> int:
    return sum(int(session.record["data"]["rows"]) for session in ground.chain)


def _written(ground: _TrainingContext, decided: Sizing, say: Say) -> tuple[Row, ...]:
    """Let the folded model write as many rows as it was taught, in the place of those."""
    count = _rows_to_write(ground)
    if not count:
        return ()
    say(f"the model writes {count} rows of what it knows, to rehearse them…")
    return tuple(
        written_by(
            load_folded(ground.info, ground.chain),
            count,
            seed=int(decided.seed.value),
            longest=int(decided.max_length.value),
        )
    )


def _general_rows(
    ground: _TrainingContext, decided: Sizing, request: TrainingRequest, say: Say
) -> tuple[Example, ...]:
    """Return the general questions that come along."""
    if not decided.guard.value:
        return ()
    if request.asks_model:
        return general_set(ground.info, say=say).guards
    kept = kept_general_set(ground.info)
    return kept.guards if kept else ()


def _disk(ground: _TrainingContext, decided: Sizing, rows: Sequence[Row]) -> DiskPlan:
    numbers = fitting.dimensions(ground.info).adapter_numbers(int(decided.rank.value))
    return fitting.plan_disk(
        ground.store.root, adapter_bytes=4 * numbers, rows_bytes=len(read.dump(rows))
    )


def _explicit_values(request: TrainingRequest) -> dict[str, ExplicitValue]:
    """Return what flags and config set, checked."""
    if request.config is None:
        return merge_settings(request.flags)
    return merge_settings(request.flags, (str(request.config), read_config(request.config)))


def _base(
    request: TrainingRequest, store: SessionStore, given: Mapping[str, ExplicitValue], say: Say
) -> BaseInfo:
    """Find the base: the flag's, else the store's, else the config's, else what fits."""
    config = given["base"].value if "base" in given else None
    return locate_base(store, choose_base(store, request.flags.get("base"), config), say)


def _name(paths: Sequence[Path]) -> str:
    return slug("-".join(path.stem for path in paths)) if paths else CONSOLIDATED


def _check_lengths(
    fresh: Sequence[Example], fits: Sequence[bool], limit: int, *, allowed: bool
) -> float:
    """Return the share of tokens in rows over the limit; refuse when it is too much.

    A row is left out whole: cut short, it would teach an answer without its end.
    """
    if all(fits):
        return 0.0
    left_out = list(itertools.compress(fresh, map(operator.not_, fits)))
    share = sum(len(e.tokens) for e in left_out) / sum(len(e.tokens) for e in fresh)
    longest = max(left_out, key=lambda example: len(example.tokens))
    what = (
        f"{len(left_out)} of {len(fresh)} rows ({share:.0%} of the tokens) are longer than "
        f"{limit} tokens; the longest, {longest.place}, has {len(longest.tokens)}"
    )
    if not any(fits):
        raise InputError(f"{what}; none is left, so raise --max-length or split the rows")
    if share > _LONG_SHARE and not allowed:
        raise InputError(f"{what}; raise --max-length, or leave them out with --allow-long")
    return share
