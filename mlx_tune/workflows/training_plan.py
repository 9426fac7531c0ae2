"""A training's plan: all that was decided, written to a run's folder and read back from it alone.

A run keeps its own rows and settings, so a resume needs neither the data file nor today's
configuration.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from mlx_tune.continual.gate import Thresholds
from mlx_tune.continual.methods import Method, find_method
from mlx_tune.continual.rehearse import Rehearsal
from mlx_tune.data import read, tokenise
from mlx_tune.data.read import DataFile
from mlx_tune.data.rows import Row, canonical_json
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import DamagedStoreError, IncompatibleError, MlxTuneError
from mlx_tune.models.bases import BaseInfo, Say
from mlx_tune.models.load import load_tokenizer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.settings import TrainingSettings
from mlx_tune.store.runs import RUN_FILE, TRAIN, Run, list_runs
from mlx_tune.store.session import Session, unreserved
from mlx_tune.store.snapshot import StoreSnapshot
from mlx_tune.store.store import SessionStore
from mlx_tune.text import one_line
from mlx_tune.training import optimizer
from mlx_tune.training.mixture import Mixture
from mlx_tune.workflows import fitting
from mlx_tune.workflows.fitting import DiskPlan, Fitted
from mlx_tune.workflows.general import GeneralSet, general_set
from mlx_tune.workflows.workspace import DATA_FILE, describe_base, find_base, folding

NEW_ROWS, OLD_ROWS, HELD_OUT_ROWS = "new.jsonl", "old.jsonl", "held-out.jsonl"
GENERAL_ROWS = "guards.jsonl"
"""Its name, and its key in run.json, are those of every store there is."""


@dataclass(frozen=True, kw_only=True)
class DataReview:
    """What a person should know of the data before it is trained on.

    Attributes:
        files: What was read; none for rows of a program.
        not_read: What stands in the folders besides; a folder ends with a slash.
        passed_over: Of every field that teaches nothing, in how many rows it stands.
        rehearsal: New rows and old ones, and where they meet.
        too_long: Rows left out because they exceed the length limit.
        long_wordings: Wordings left out for that of rows that are not, each as a row.
        long_share: Share of all tokens that is left out so.
        long_held_out: Rows to hold out that are left out for that.
        disk: What the run will write, and what is free.
    """

    files: tuple[DataFile, ...]
    not_read: tuple[str, ...]
    passed_over: Mapping[str, int]
    rehearsal: Rehearsal
    too_long: tuple[Row, ...]
    long_wordings: tuple[Row, ...]
    long_share: float
    long_held_out: tuple[Row, ...]
    disk: DiskPlan


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """What a training stands on, known before its rows are looked at.

    Attributes:
        name: Of the session to be.
        store: Where it goes.
        info: The base model.
        chain: The sessions it stands on, root first.
        replaced: The sessions it takes the place of, root first; none but to consolidate.
        without: Those of them whose rows are left out.
        method: How earlier sessions are remembered.
    """

    name: str
    store: SessionStore
    info: BaseInfo
    chain: tuple[Session, ...]
    replaced: tuple[Session, ...]
    without: tuple[Session, ...]
    method: Method

    @property
    def parent(self) -> Session | None:
        """The session it stands on, None for the bare base."""
        return self.chain[-1] if self.chain else None

    @property
    def stands_on(self) -> tuple[Session, ...]:
        """The sessions that are folded underneath it, root first."""
        return tuple(self.method.stands_on(folding(self.chain)))

    @property
    def before(self) -> tuple[Session, ...]:
        """The sessions that must not be forgotten, root first."""
        return self.replaced or self.chain

    @property
    def taught_anew(self) -> tuple[Session, ...]:
        """The sessions whose rows the base is taught anew, root first; none but to consolidate."""
        return tuple(session for session in self.replaced if session not in self.without)

    @property
    def head(self) -> Session | None:
        """Where HEAD is expected, None for the bare base."""
        return self.before[-1] if self.before else None

    @property
    def unkept(self) -> tuple[Session, ...]:
        """The earlier sessions that keep no rows."""
        return tuple(s for s in self.chain + self.replaced if DATA_FILE not in s.hashes)


@dataclass(frozen=True, kw_only=True)
class Candidate(TrainingInputs):
    """What the gate judges: a session to be, whether it is trained here or comes from elsewhere.

    Attributes:
        tokenizer: The base's.
        new: The rows it is taught.
        general: The general questions with the base's answers; None where it was not asked yet.
        limits: The gate's.
    """

    tokenizer: Tokenizer
    new: tuple[Row, ...]
    general: GeneralSet | None
    limits: Thresholds


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(Candidate, Fitted):
    """A training, fully decided: `plan` shows it, `train` runs it, `resume` reads it from a run.

    Attributes:
        mixture: Which examples come in which epoch.
        old: Those of earlier sessions that are rehearsed.
        held_out: Rows that choose the best checkpoint.
        examples: What is trained on: new rows and old ones, each in all its wordings, then general
            questions.
        validation: The held-out rows, tokenised.
        sources: The data files as they were named.
        review: What to tell a person beforehand; None for a run that is resumed.
    """

    mixture: Mixture
    old: tuple[Row, ...]
    held_out: tuple[Row, ...]
    examples: tuple[Example, ...]
    validation: tuple[Example, ...]
    sources: tuple[str, ...]
    review: DataReview | None = None

    @property
    def general_examples(self) -> tuple[Example, ...]:
        """The general questions that are trained on."""
        return self.examples[sum(one.num_examples for one in self.mixture.sources[:2]) :]

    @cached_property
    def planned_steps(self) -> int:
        """Optimizer updates; the most where training stops once all is learned."""
        return self.config.planned_steps(len(self.examples))

    @property
    def steps_for_new_rows(self) -> int:
        """How many there would be of the new rows alone: the others are there to remember."""
        new = self.mixture.sources[0].per_epoch
        return -(-new // self.config.effective_batch) * self.config.epochs

    @property
    def least_epochs(self) -> int:
        """Epochs before which it never ends: all, but where it stops once all is learned.

        Then the rate has to have fallen. How often each old row came does not count: the check of
        early stopping asks the old rows too.
        """
        settings = self.settings
        return settings.decay_epochs if settings.until_learned else settings.epochs

    @property
    def shapes(self) -> int:
        """How many distinct shapes micro-batches are padded to."""
        return len({*self.batches.shapes.values()})

    @property
    def warmup_steps(self) -> int:
        """How many of them warm up."""
        return optimizer.warmup_steps(len(self.new), self.planned_steps)

    @cached_property
    def tokens_by_kind(self) -> tuple[float, ...]:
        """Tokens of an epoch: of new rows, old ones and general questions, padding not counted."""
        found, rest = [], iter(self.examples)
        for source in self.mixture.sources:
            lengths = [len(one.tokens) for one in itertools.islice(rest, source.num_examples)]
            means = [fmean(lengths[i] for i in row) for row in source.rows]
            found.append(sum(means) / max(1, source.size) * source.per_epoch)
        return tuple(found)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of an epoch, padding not counted; a mean where rows take turns."""
        return round(sum(self.tokens_by_kind))


def in_all_forms(
    variants: Sequence[Sequence[Example]], noised: Sequence[Sequence[Example]]
) -> Iterator[Example]:
    """Yield the examples of rows in the order in which a mixture counts them.

    Args:
        variants: Of each row, in its wordings.
        noised: Of each row, its noised questions.
    """
    for several, versions in zip(variants, noised, strict=True):
        yield from several
        yield from versions


def create_run(plan: TrainingPlan) -> Run:
    """Write down all that a training needs, so that it can be resumed from the run's folder."""
    rows = {NEW_ROWS: plan.new, OLD_ROWS: plan.old, HELD_OUT_ROWS: plan.held_out}
    general = "".join(canonical_json(one.to_json()) + "\n" for one in plan.general_examples)
    return Run.create(
        plan.store.root,
        name=plan.name,
        record={
            "phase": TRAIN,
            "base": describe_base(plan.info),
            **_place(plan),
            "mixture": plan.mixture.to_json(),
            "sizing": plan.settings.to_json(),
            "sources": list(plan.sources),
            "old_sha256": read.fingerprint(plan.old),
            "held_out_sha256": read.fingerprint(plan.held_out),
            "guards_sha256": hashlib.sha256(general.encode()).hexdigest(),
        },
        files={
            **{name: read.dump(kept) for name, kept in rows.items()},
            GENERAL_ROWS: general.encode(),
        },
    )


def read_plan(writer: SessionStore, store: StoreSnapshot, run: Run, say: Say) -> TrainingPlan:
    """Return the plan that a run began with.

    Args:
        writer: The store, for what the plan will write.
        store: What it holds.
        run: The run.
        say: Called, in a line, with what takes long.

    Raises:
        IncompatibleError: Another version's settings, another base, or other rows than it began
            with.
        DamagedStoreError: A file of the run, or a session it stands on, is damaged.
    """
    try:
        return _read_plan(writer, store, run, say)
    except MlxTuneError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 80)
        raise DamagedStoreError(
            f"{run.path / RUN_FILE}: not what a training was begun with ({reason}); put it back"
        ) from error


def _read_plan(writer: SessionStore, store: StoreSnapshot, run: Run, say: Say) -> TrainingPlan:
    record = run.record
    settings = TrainingSettings.from_json(record["sizing"])
    parent = record["parent"]
    chain = tuple(store.chain(store.find(parent))) if parent else ()
    info = _same_base(run, say)
    new = _read_rows(run, NEW_ROWS, "data_sha256")
    old = _read_rows(run, OLD_ROWS, "old_sha256")
    held_out = _read_rows(run, HELD_OUT_ROWS, "held_out_sha256")
    tokenizer = load_tokenizer(info.folder, info.template)
    noised = tokenise.encode_noised(
        [*new, *old], tokenizer, settings.question_noise, seed=settings.seed
    )
    taught = in_all_forms(tokenise.encode_variants([*new, *old], tokenizer), noised)
    examples = (*taught, *_read_general(run))
    mixture = Mixture.from_json(record["mixture"])
    inputs = TrainingInputs(
        name=unreserved(record["name"]),
        store=writer,
        info=info,
        chain=chain,
        replaced=_sessions(store, record["replaces"]),
        without=_sessions(store, record["without"]),
        method=find_method(settings.method),
    )
    fitted = fitting.predict(inputs, settings, mixture, examples)
    return TrainingPlan(
        **vars(inputs),
        **vars(fitted),
        tokenizer=tokenizer,
        mixture=mixture,
        new=tuple(new),
        old=tuple(old),
        held_out=tuple(held_out),
        examples=examples,
        validation=tuple(tokenise.encode(held_out, tokenizer)),
        general=general_set(info, say=say),
        limits=Thresholds.of(settings),
        sources=tuple(record["sources"]),
    )


def unfinished_twin(plan: TrainingPlan) -> Run | None:
    """Return the newest unfinished run of the same data in the same place."""
    newest_first = reversed(list_runs(plan.store.root))
    return next((run for run in newest_first if run.is_unfinished and _is_twin(run, plan)), None)


def other_settings(run: Run, plan: TrainingPlan) -> dict[str, Any]:
    """Return the values of a run's settings that a plan has otherwise."""
    began = TrainingSettings.from_json(run.record["sizing"])
    return {
        name: one.value for name, one in began.items() if one.value != getattr(plan.settings, name)
    }


def _place(plan: TrainingPlan) -> dict[str, Any]:
    """Return what tells whether two runs are of the same data in the same place."""
    return {
        "data_sha256": read.fingerprint(plan.new),
        "parent": plan.parent.id if plan.parent else None,
        "replaces": [session.id for session in plan.replaced],
        "without": [session.id for session in plan.without],
    }


def _is_twin(run: Run, plan: TrainingPlan) -> bool:
    try:
        TrainingSettings.from_json(run.record["sizing"])
        same_base = run.record["base"]["fingerprint"] == plan.info.fingerprint
    except (IncompatibleError, KeyError, TypeError, AttributeError):
        return False
    return same_base and all(run.record.get(key) == value for key, value in _place(plan).items())


def _same_base(run: Run, say: Say) -> BaseInfo:
    """Find the base that the run began with."""
    kept = run.record["base"]
    info = find_base(kept["name"], kept, say)
    if info.fingerprint != kept["fingerprint"]:
        raise IncompatibleError(
            f"{run.path}: began on the base {kept['fingerprint'][:12]}, {kept['name']} is now "
            f"{info.fingerprint[:12]}; put that base back"
        )
    return info


def _sessions(store: StoreSnapshot, ids: Sequence[str]) -> tuple[Session, ...]:
    return tuple(session for ref in ids if (session := store.find(ref)))


def _read_general(run: Run) -> list[Example]:
    """Read the general questions that are trained on."""
    data = run.read(GENERAL_ROWS)
    _check_same(run, GENERAL_ROWS, hashlib.sha256(data).hexdigest(), "guards_sha256")
    return [Example.from_json(json.loads(line)) for line in data.splitlines()]


def _read_rows(run: Run, name: str, key: str) -> list[Row]:
    """Read rows that a run keeps, and refuse others than those it began with."""
    rows = read.load(run.read(name), str(run.path / name))
    _check_same(run, name, read.fingerprint(rows), key)
    return rows


def _check_same(run: Run, name: str, found: str, key: str) -> None:
    began = str(run.record.get(key))
    if found != began:
        raise IncompatibleError(
            f"{run.path / name}: sha256 {found[:12]}…, the run began with {began[:12]}…; "
            "put the rows back"
        )
