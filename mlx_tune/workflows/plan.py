"""A training, decided before it starts: rows, settings, what fits, what is rehearsed."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mlx_tune.continual.gate import Thresholds
from mlx_tune.continual.in_force import History, current_rows_beside, rows_in_force
from mlx_tune.continual.methods import find_method
from mlx_tune.continual.rehearse import Rehearsal, mixture, rehearse, replacing
from mlx_tune.data import read, tokenise
from mlx_tune.data.rows import Row, split
from mlx_tune.data.tokenise import Example
from mlx_tune.data.wordings import check_wordings, without_trained_paraphrases
from mlx_tune.errors import InputError, UsageError
from mlx_tune.models.bases import Say
from mlx_tune.models.catalogue import shipped_config
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.settings import (
    ExplicitValue,
    TrainingSettings,
    default,
    merge_settings,
    read_config,
    recorded_settings,
    typed,
)
from mlx_tune.sizing import check_together, size_training
from mlx_tune.store.labels import check_untagged
from mlx_tune.store.session import Session, check_name, slug
from mlx_tune.store.snapshot import StoreSnapshot, read_store
from mlx_tune.store.store import SessionStore
from mlx_tune.training import memory
from mlx_tune.workflows import fitting
from mlx_tune.workflows.general import (
    general_set,
    kept_general_set,
    unanswered_replay,
    written_by,
)
from mlx_tune.workflows.training_plan import (
    DataReview,
    TrainingInputs,
    TrainingPlan,
    in_all_forms,
)
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
_MANY_ROWS = 1000  # from here on a person waits for seconds


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
    has_rows = request.rows or request.consolidates
    data = None if has_rows else read.read_set(request.data)
    rows = data.rows if data else request.rows
    check_wordings(rows)  # before anything is fetched
    inputs, chosen = _resolve_inputs(request, say)
    rows = rows or _rows_to_teach_anew(inputs)
    history = read_history(inputs.chain)
    if chosen.value("replace"):
        rows = replacing(rows, history)
    check_wordings(rows, current_rows_beside(rows, history))
    new, held_out = split(rows, chosen.value("validation"), seed=chosen.value("seed"))
    held_out = [*held_out, *(data.held_out if data else ())]
    rehearsal = _rehearse(inputs, chosen, new, history)
    settings = _settle(inputs, chosen, rehearsal)
    tokenizer = load_tokenizer(inputs.info.folder, inputs.info.template)
    if len(rehearsal.rows) >= _MANY_ROWS:
        say(f"tokenising {len(rehearsal.rows):,} rows…")
    # What cannot be scored must fail before training.
    tokenise.encode_paraphrases(rehearsal.new, tokenizer)
    limit, allowed = settings.max_length, chosen.value("allow_long")
    # Of what is taught anew not even a few may go: nobody chose them.
    most = 1.0 if allowed else 0.0 if request.consolidates else _LONG_SHARE
    fresh = _encode_new(rehearsal.new, tokenizer, limit, most=most)
    if fresh.rows != rehearsal.new:  # what is left out replaces nothing
        rehearsal = _rehearse(inputs, chosen, fresh.rows, history)
    if inputs.method.synthesises and request.asks_model:
        rehearsal = replace(rehearsal, old=_synthesise(inputs, settings, say))
    # Old rows fitted the limit of the session that taught them; a shorter one now must not make
    # the model forget them.
    old = tokenise.encode_variants(rehearsal.old, tokenizer)
    noised = tokenise.encode_noised(
        [*fresh.rows, *rehearsal.old], tokenizer, settings.question_noise, seed=settings.seed
    )
    general = None  # where none is replayed, the base is asked once training is over
    if settings.general_replay:
        asks = request.asks_model
        general = general_set(inputs.info, say=say) if asks else kept_general_set(inputs.info)
    if general is not None:
        replayed = general.replayed
    else:
        replayed = unanswered_replay(inputs.info, tokenizer) if settings.general_replay else ()
    taught = in_all_forms([*fresh.examples, *old], noised)
    examples = (*taught, *replayed)
    noised_counts = [*map(len, noised)]
    rows_of_epoch = mixture(
        new=len(fresh.rows),
        old=len(old),
        variants=([*map(len, fresh.examples)], [*map(len, old)]),
        noised=(noised_counts[: len(fresh.rows)], noised_counts[len(fresh.rows) :]),
        general=len(replayed),
        epochs=min(settings.decay_epochs or settings.epochs, settings.epochs),
        replay=settings.replay,
        general_replay=settings.general_replay,
        general_weight=settings.general_weight,
        distils=inputs.method.distils,
    )
    # The limit bounds memory, for these as for the others.
    scored = [*zip(held_out, tokenise.encode(held_out, tokenizer), strict=True)]
    validation = [(row, one) for row, one in scored if len(one.tokens) <= settings.max_length]
    fitted = fitting.fit(inputs, settings, rows_of_epoch, examples, chosen.fixed)
    return TrainingPlan(
        **vars(inputs),
        **vars(fitted),
        tokenizer=tokenizer,
        mixture=rows_of_epoch,
        new=fresh.rows,
        old=rehearsal.old,
        held_out=tuple(row for row, _ in validation),
        examples=examples,
        validation=tuple(example for _, example in validation),
        general=general,
        limits=Thresholds.of(settings),
        sources=tuple(map(str, request.data)),
        review=DataReview(
            files=tuple(data.files) if data else (),
            not_read=tuple(data.not_read) if data else (),
            passed_over=data.passed_over if data else read.count_passed_over(request.rows),
            rehearsal=rehearsal,
            too_long=fresh.too_long,
            long_wordings=fresh.long_wordings,
            long_share=fresh.long_share,
            long_held_out=tuple(
                row for row, one in scored if len(one.tokens) > settings.max_length
            ),
            disk=fitting.plan_disk(
                inputs.store.root,
                adapter_bytes=fitted.adapter_bytes,
                rows_bytes=len(read.dump([*rehearsal.rows, *held_out])),
            ),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Explicit:
    """What was set by a person or by the base's shipped configuration.

    Attributes:
        values: By name, with where each came from.
        fixed: Names of settings that a person gave, by flag or in a file of their own.
    """

    values: Mapping[str, ExplicitValue]
    fixed: frozenset[str]

    def value(self, name: str) -> Any:
        """Return a setting's value where it was given, else its fixed default."""
        return self.values[name].value if name in self.values else default(name)


def _resolve_inputs(request: TrainingRequest, say: Say) -> tuple[TrainingInputs, _Explicit]:
    """Find store, base, chain and method, and what was set."""
    writer = SessionStore.open(request.store)
    # Before anything is fetched: a slip must not cost a download.
    config = (str(request.config), read_config(request.config)) if request.config else None
    explicit = merge_settings(request.flags, config)
    check_together(explicit, explicit.keys())
    if "name" in explicit:
        name = explicit["name"].value
    elif request.consolidates:
        name = CONSOLIDATED
    else:
        name = slug("-".join(path.stem for path in request.data) or "rows")
    check_name(name)
    # A store to consolidate is one that is there; a training makes its own.
    store = read_store(request.store) if request.consolidates else writer.snapshot()
    check_untagged(store, name)
    before = tuple(store.chain(store.head()))
    without = _left_out(store, before, request.without)
    if request.consolidates:
        _check_replaceable(request.store, before, without)
    wanted = explicit["base"].value if "base" in explicit else None
    info = locate_base(store, choose_base(store, request.flags.get("base"), wanted), say)
    shipped = merge_settings({}, shipped_config(info.name))
    chosen = _Explicit(values={**shipped, **explicit}, fixed=frozenset(explicit))
    check_together(chosen.values, chosen.fixed)
    if chosen.value("validation") and chosen.value("until_learned"):
        say(
            f"note: {chosen.values['until_learned'].source} sets until_learned; beside "
            f"{chosen.values['validation'].source} it is off, for the held-out rows choose"
        )
    for note in store.notes:
        say(note)
    inputs = TrainingInputs(
        name=name,
        store=writer,
        info=info,
        chain=() if request.consolidates else before,
        replaced=before if request.consolidates else (),
        without=without,
        method=find_method(chosen.value("method")),
    )
    return inputs, chosen


def _rehearse(
    inputs: TrainingInputs, chosen: _Explicit, new: Sequence[Row], history: History
) -> Rehearsal:
    """Return which old rows come along; none where the method or a person wants none."""
    found = rehearse(new, history)
    replay = chosen.values.get("replay")
    if inputs.method.synthesises or (replay.value if replay else inputs.method.replay) == "none":
        return replace(found, old=())
    return found


def _rows_taught(inputs: TrainingInputs) -> int:
    """Return how many rows the chain was taught."""
    return sum(int(session.record["data"]["rows"]) for session in inputs.chain)


def _rows_to_teach_anew(inputs: TrainingInputs) -> list[Row]:
    """Return the rows in force of a chain that is replaced, without the sessions left out."""
    history = rows_in_force(read_history(inputs.taught_anew))
    return without_trained_paraphrases([row for rows in history for row in rows])


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
        back = typed("rollback --to base", store.root)
        raise UsageError(f"--without leaves nothing to teach; `{back}` does")
    return left_out


def _check_replaceable(root: Path, chain: Sequence[Session], without: Sequence[Session]) -> None:
    """Refuse to consolidate what cannot be taught anew."""
    if not chain:
        raise UsageError(
            f"{root}: no sessions to consolidate; train the first with "
            f"`{typed('train data/cs.json', root)}`"
        )
    if unkept := [s for s in chain if DATA_FILE not in s.hashes and s not in without]:
        names = ", ".join(session.folder_name for session in unkept)
        raise UsageError(
            f"{names}: keeps no rows (--no-keep-data), so it cannot be taught anew; train its data "
            "again as a session of its own first, or leave it out with --without"
        )


def _settle(inputs: TrainingInputs, chosen: _Explicit, rehearsal: Rehearsal) -> TrainingSettings:
    """Size the training, and let the method say what nobody else did."""
    recorded = [recorded_settings(session.record["sizing"]) for session in inputs.before]
    settings = size_training(
        len(rehearsal.new),
        hidden_size=inputs.info.hidden_size,
        loss_chunk=memory.loss_chunk(),
        explicit=chosen.values,
        old_rows=_rows_taught(inputs) if inputs.method.synthesises else len(rehearsal.old),
        # A session that was imported has no settings, for nobody trained it here.
        old_length=max((one["max_length"]["value"] for one in recorded if one), default=0),
        wordings=fmean(len(row.variants) for row in rehearsal.new) if rehearsal.new else 1.0,
        taught_epochs=max((_epochs_taken(session) for session in inputs.taught_anew), default=0),
    )
    replay, name = inputs.method.replay, inputs.method.name.replace("_", "-")
    wanted = {} if replay == "auto" else {"replay": replay, "general_replay": 0.0}
    implied = {key: value for key, value in wanted.items() if key not in chosen.values}
    return settings.changed(implied, reason=f"as --method {name} does", source="rule")


def _epochs_taken(session: Session) -> int:
    """Return how many epochs a session's training took; 0 where nobody trained it here."""
    return int(session.record.get("training", {}).get("epochs", 0))


def _synthesise(inputs: TrainingInputs, settings: TrainingSettings, say: Say) -> tuple[Row, ...]:
    """Let the merged model write as many rows as it was taught, in the place of those."""
    count = _rows_taught(inputs)
    if not count:
        return ()
    say(f"the model writes {count} rows of what it knows, to rehearse them…")
    merged = load_folded(inputs.info, inputs.chain)
    return tuple(written_by(merged, count, seed=settings.seed, longest=settings.max_length))


@dataclass(frozen=True, kw_only=True)
class _NewRows:
    """The new rows that are short enough, and what is not.

    Attributes:
        rows: To train on, without the wordings that are too long.
        examples: Of each of them, as taught and in each wording.
        too_long: Rows that are too long as taught; they are left out with all their wordings.
        long_wordings: Wordings that are too long of rows that are not, each as a row.
        long_share: Share of all tokens that is left out.
    """

    rows: tuple[Row, ...]
    examples: tuple[tuple[Example, ...], ...]
    too_long: tuple[Row, ...]
    long_wordings: tuple[Row, ...]
    long_share: float


def _encode_new(rows: Sequence[Row], tokenizer: Tokenizer, limit: int, *, most: float) -> _NewRows:
    """Tokenise new rows, and leave out those that are longer than ``limit`` tokens.

    What is left out is left out whole: cut short, it would teach an answer without its end.

    Raises:
        InputError: No row is left, or more than the share ``most`` of the tokens is left out.
    """
    encoded = tokenise.encode_variants(rows, tokenizer)
    kept: list[tuple[Row, tuple[Example, ...]]] = []
    too_long: list[Row] = []
    long_wordings: list[Row] = []
    left_out: list[Example] = []
    for row, several in zip(rows, encoded, strict=True):
        fits = [len(example.tokens) <= limit for example in several]
        if not fits[0]:
            too_long.append(row)
            left_out += several
            continue
        long = [not one for one in fits]
        long_wordings += itertools.compress(row.variants, long)
        left_out += itertools.compress(several, long)
        short = replace(row, wordings=tuple(itertools.compress(row.wordings, fits[1:])))
        kept.append((short, tuple(itertools.compress(several, fits))))
    everything = [*itertools.chain(*encoded)]
    share = sum(len(e.tokens) for e in left_out) / sum(len(e.tokens) for e in everything)
    if left_out and (not kept or share > most):
        has_wordings = len(everything) > len(rows)
        what = f"{len(left_out)} of {len(everything)} rows{' and wordings' * has_wordings}"
        raise _too_long(f"{what} ({share:.0%} of the tokens)", left_out, limit, none_left=not kept)
    return _NewRows(
        rows=tuple(row for row, _ in kept),
        examples=tuple(several for _, several in kept),
        too_long=tuple(too_long),
        long_wordings=tuple(long_wordings),
        long_share=share,
    )


def _too_long(what: str, left_out: Sequence[Example], limit: int, *, none_left: bool) -> InputError:
    longest = max(left_out, key=lambda example: len(example.tokens))
    fix = "raise --max-length, or leave them out with --allow-long"
    if none_left:
        fix = "none is left, so raise --max-length or split the rows"
    return InputError(
        f"{what} are longer than {limit} tokens; the longest, {longest.place}, has "
        f"{len(longest.tokens)}; {fix}"
    )
