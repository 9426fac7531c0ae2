"""A training, decided before it starts: rows, settings, what fits, what is rehearsed."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_tune.continual.methods import Method, find_method
from mlx_tune.continual.rehearse import Rehearsal, current_rows, mixture, rehearse
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row, split
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import InputError, UsageError
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.catalogue import shipped_config
from mlx_tune.models.load import load_tokenizer
from mlx_tune.settings import (
    ExplicitValue,
    TrainingSettings,
    default,
    merge_settings,
    read_config,
    recorded_settings,
)
from mlx_tune.sizing import size_training
from mlx_tune.store.session import Session, check_name, slug
from mlx_tune.store.snapshot import StoreSnapshot
from mlx_tune.store.store import SessionStore
from mlx_tune.training import memory
from mlx_tune.workflows import fitting
from mlx_tune.workflows.general import general_set, kept_general_set, written_by
from mlx_tune.workflows.training_plan import DataReview, TrainingPlan
from mlx_tune.workflows.workspace import (
    DATA_FILE,
    choose_base,
    load_folded,
    locate_base,
    read_history,
)

CONSOLIDATED = "consolidated"
"""What a session is called that takes the place of a chain."""

_LONG_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What a person asked for.

    Attributes:
        data: Files or folders.
        rows: Rows of a program, instead of data.
        consolidates: Teach the base anew what the chain was taught, without data.
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
    rows: Sequence[Row] = ()
    consolidates: bool = False


def plan_training(request: TrainingRequest, *, say: Say) -> TrainingPlan:
    """Read, check and size a training; no session is written.

    Raises:
        InputError: The data or the config cannot be used.
        UsageError: A flag cannot.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """
    rows = request.rows or ([] if request.consolidates else read.read(request.data))
    context = _resolve_inputs(request, say)
    rows = rows or context.rows_to_teach_anew()
    new, held_out = split(rows, context.value("validation"), seed=context.value("seed"))
    rehearsal = rehearse(new, read_history(context.chain))
    replay = context.explicit.get("replay")
    if context.method.synthesises or (replay.value if replay else context.method.replay) == "none":
        rehearsal = replace(rehearsal, old=())
    settings = _settle(context, rehearsal)
    tokenizer = load_tokenizer(context.info.folder, context.info.template)
    if context.method.synthesises and request.asks_model:
        rehearsal = replace(rehearsal, old=_synthesise(context, settings, say))
    fresh = tokenise.encode(rehearsal.new, tokenizer)
    # What cannot be scored must fail before training.
    tokenise.encode_paraphrases(rehearsal.new, tokenizer)
    fits = [len(example.tokens) <= settings.max_length for example in fresh]
    allowed = context.value("allow_long")
    long_share = _check_lengths(fresh, fits, settings.max_length, allowed=allowed)
    # Old rows fitted the limit of the session that taught them; a shorter one now must not make
    # the model forget them.
    old = tokenise.encode(rehearsal.old, tokenizer)
    general = None  # where none is replayed, the base is asked once training is over
    if settings.general_replay:
        asks = request.asks_model
        general = general_set(context.info, say=say) if asks else kept_general_set(context.info)
    replayed = general.replayed if general else ()
    examples = (*itertools.compress(fresh, fits), *old, *replayed)
    rows_of_epoch = mixture(
        new=sum(fits),
        old=len(old),
        general=len(replayed),
        epochs=settings.epochs,
        replay=settings.replay,
        general_replay=settings.general_replay,
        distils=context.method.distils,
    )
    # The limit bounds memory, for these as for the others.
    scored = zip(held_out, tokenise.encode(held_out, tokenizer), strict=True)
    validation = [(row, one) for row, one in scored if len(one.tokens) <= settings.max_length]
    fitted = fitting.fit(context.info, settings, rows_of_epoch, examples, context.fixed)
    return TrainingPlan(
        name=context.name,
        store=context.store,
        info=context.info,
        tokenizer=tokenizer,
        chain=context.chain,
        replaced=context.replaced,
        without=context.without,
        method=context.method,
        settings=fitted.settings,
        mixture=rows_of_epoch,
        config=fitted.config,
        batches=fitted.batches,
        memory=fitted.memory,
        new=tuple(itertools.compress(rehearsal.new, fits)),
        old=rehearsal.old,
        held_out=tuple(row for row, _ in validation),
        examples=examples,
        validation=tuple(example for _, example in validation),
        general=general,
        sources=tuple(map(str, request.data)),
        review=DataReview(
            rehearsal=rehearsal,
            too_long=tuple(itertools.compress(rehearsal.new, map(operator.not_, fits))),
            long_share=long_share,
            unkept=context.unkept,
            disk=fitting.plan_disk(
                context.store.root,
                adapter_bytes=fitted.adapter_bytes,
                rows_bytes=len(read.dump([*rehearsal.rows, *held_out])),
            ),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _TrainingContext:
    """What a training stands on, known before its rows are looked at; see :class:`TrainingPlan`.

    Attributes:
        explicit: What flags and config set.
        fixed: Names of settings that a person gave, by flag or in a file of their own.
    """

    name: str
    store: SessionStore
    info: BaseInfo
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    method: Method
    explicit: Mapping[str, ExplicitValue]
    fixed: frozenset[str]

    @property
    def unkept(self) -> tuple[Session, ...]:
        """The earlier sessions that keep no rows."""
        return tuple(s for s in self.chain + self.replaced if DATA_FILE not in s.hashes)

    @property
    def rows_taught(self) -> int:
        """How many rows the chain was taught."""
        return sum(int(session.record["data"]["rows"]) for session in self.chain)

    def rows_to_teach_anew(self) -> list[Row]:
        """Return the rows in force of a chain that is replaced, without the sessions left out."""
        kept = [session for session in self.replaced if session not in self.without]
        return [row for rows in current_rows(read_history(kept)) for row in rows]

    def value(self, name: str) -> Any:
        """Return a setting's value where it was given, else its fixed default."""
        return self.explicit[name].value if name in self.explicit else default(name)


def _resolve_inputs(request: TrainingRequest, say: Say) -> _TrainingContext:
    """Find store, base, chain and method."""
    writer = SessionStore.open(request.store)
    # Before anything is fetched: a slip must not cost a download.
    config = (str(request.config), read_config(request.config)) if request.config else None
    explicit = merge_settings(request.flags, config)
    if "name" in explicit:
        name = explicit["name"].value
    elif request.consolidates:
        name = CONSOLIDATED
    else:
        name = slug("-".join(path.stem for path in request.data) or "rows")
    check_name(name)
    wanted = explicit["base"].value if "base" in explicit else None
    store = writer.snapshot()
    info = locate_base(store, choose_base(store, request.flags.get("base"), wanted), say)
    fixed = frozenset(explicit)
    if request.config is None:
        explicit = {**merge_settings({}, shipped_config(info.name)), **explicit}
    before = tuple(store.chain(store.head()))
    for note in store.notes:
        say(note)
    method = explicit["method"].value if "method" in explicit else default("method")
    context = _TrainingContext(
        name=name,
        store=writer,
        info=info,
        chain=() if request.consolidates else before,
        replaced=before if request.consolidates else (),
        without=_left_out(store, before, request.without),
        method=find_method(method),
        explicit=explicit,
        fixed=fixed,
    )
    if request.consolidates:
        _check_replaceable(context)
    return context


def _left_out(
    store: StoreSnapshot, chain: Sequence[Session], refs: Sequence[str]
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


def _check_replaceable(context: _TrainingContext) -> None:
    """Refuse to consolidate what cannot be taught anew."""
    if not context.replaced:
        raise UsageError(
            f"{context.store.root}: no sessions to consolidate; train the first with "
            "`mlx-tune train data/cs.json`"
        )
    if unkept := [session for session in context.unkept if session not in context.without]:
        names = ", ".join(session.folder_name for session in unkept)
        raise UsageError(
            f"{names}: keeps no rows (--no-keep-data), so it cannot be taught anew; train its data "
            "again as a session of its own first, or leave it out with --without"
        )


def _settle(context: _TrainingContext, rehearsal: Rehearsal) -> TrainingSettings:
    """Size the training, and let the method say what nobody else did."""
    recorded = [recorded_settings(session.record["sizing"]) for session in context.chain]
    settings = size_training(
        len(rehearsal.new),
        hidden_size=context.info.hidden_size,
        loss_chunk=memory.loss_chunk(),
        explicit=context.explicit,
        old_rows=context.rows_taught if context.method.synthesises else len(rehearsal.old),
        old_length=max((one["max_length"]["value"] for one in recorded), default=0),
    )
    replay, name = context.method.replay, context.method.name.replace("_", "-")
    wanted = {} if replay == "auto" else {"replay": replay, "general_replay": 0.0}
    chosen = {key: value for key, value in wanted.items() if key not in context.explicit}
    return settings.changed(chosen, reason=f"as --method {name} does", source="rule")


def _synthesise(context: _TrainingContext, settings: TrainingSettings, say: Say) -> tuple[Row, ...]:
    """Let the merged model write as many rows as it was taught, in the place of those."""
    count = context.rows_taught
    if not count:
        return ()
    say(f"the model writes {count} rows of what it knows, to rehearse them…")
    merged = load_folded(context.info, context.chain)
    return tuple(written_by(merged, count, seed=settings.seed, longest=settings.max_length))


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
