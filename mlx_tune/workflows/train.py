"""One continual session: fold, rehearse, train, score, commit, and move HEAD."""

import gc
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import mlx.core as mx

import mlx_tune
from mlx_tune.data import read
from mlx_tune.data.rows import Row
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import IncompatibleError, InputError, LockedError
from mlx_tune.lineage.runs import Run
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store
from mlx_tune.models.bases import BaseInfo
from mlx_tune.sizing import Sizing
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows import fitting
from mlx_tune.workflows.evaluate import SessionRecall, score_sessions
from mlx_tune.workflows.folded import DATA_FILE, describe_base, load_folded, read_rows
from mlx_tune.workflows.prepare import Plan, Request, prepare, training_config

NEW_ROWS, OLD_ROWS = "new.jsonl", "old.jsonl"
"""A run keeps the rows it trains on, so that a data file may change or go before a resume."""

PROMOTE = "promote"
DONE, FAILED = "done", "failed"
"""Phases of a run that there is nothing to resume in."""


class Watch(Protocol):
    """Who follows a training; the command line prints."""

    def say(self, line: str) -> None:
        """Hear of something in one line."""

    def planned(self, plan: Plan) -> None:
        """See what is about to be done."""

    def merged(self, chain: Sequence[Session]) -> None:
        """Hear that the chain was folded in; empty for a first session."""

    def began(self, run: Run, trainer: Trainer) -> None:
        """Hear that steps follow."""

    def stepped(self, step: Step) -> None:
        """See one step."""

    def ended(self) -> None:
        """Hear that no more steps follow."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished session.

    Attributes:
        session: As committed.
        recall: Of every session of its chain, itself last.
        is_head: False when HEAD moved elsewhere meanwhile.
    """

    session: Session
    recall: tuple[SessionRecall, ...]
    is_head: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is left of a plan once training starts; a resumed run reads it from its folder."""

    name: str
    info: BaseInfo
    store: Store
    chain: tuple[Session, ...]
    sizing: Sizing
    new: tuple[Row, ...]
    examples: tuple[Example, ...]
    run: Run

    @property
    def parent(self) -> Session | None:
        """The session it stands on, None for the bare base."""
        return self.chain[-1] if self.chain else None


def train(request: Request, watch: Watch) -> Outcome:
    """Train one session from the data to the store.

    Raises:
        MlxTuneError: Whatever could not be done; see the child. The run and its last checkpoint
            are kept.
    """
    plan = prepare(request, say=watch.say)
    watch.planned(plan)
    run = Run.create(
        plan.store.root,
        name=plan.name,
        record={
            "phase": "train",
            "base": describe_base(plan.info),
            "parent": plan.parent.id if plan.parent else None,
            "sizing": plan.sizing.to_json(),
            "sources": list(plan.sources),
            "data_sha256": read.fingerprint(plan.taught),
            "old_sha256": read.fingerprint(plan.rehearsal.old),
        },
        files={
            NEW_ROWS: read.dump(plan.taught),
            OLD_ROWS: read.dump(plan.rehearsal.old),
        },
    )
    job = Job(
        name=plan.name,
        info=plan.info,
        store=plan.store,
        chain=plan.chain,
        sizing=plan.sizing,
        new=plan.taught,
        examples=plan.examples,
        run=run,
    )
    return carry_out(job, watch)


def carry_out(job: Job, watch: Watch) -> Outcome:
    """Train from the newest checkpoint, or from the start, to a committed session."""
    try:
        return _carry_out(job, watch)
    except (IncompatibleError, InputError):  # it would end the same way again
        job.run.set(phase=FAILED)
        raise


def _carry_out(job: Job, watch: Watch) -> Outcome:
    adapter, num_layers = _train(job, watch)
    gc.collect()  # the trained model has gone with its frame, before its folded twin comes
    mx.clear_cache()
    watch.say("asking what was learned, and what was there before…")
    recall = _recall(job, adapter)
    session = job.store.commit(
        name=job.name,
        parent=job.parent,
        record=_record(job, recall),
        files={**adapter.files(num_layers=num_layers), DATA_FILE: read.dump(job.new)},
    )
    is_head = _move_head(job, session, watch)
    job.run.set(phase=DONE, session=session.id)
    return Outcome(session=session, recall=tuple(recall), is_head=is_head)


def _train(job: Job, watch: Watch) -> tuple[Adapter, int]:
    """Run the loop; return the adapter and the number of the model's layers."""
    folded = load_folded(job.info, job.chain)
    watch.merged(job.chain)
    config = training_config(job.sizing, len(job.new))
    trainer = Trainer(
        folded.model, job.examples, fitting.with_cache(job.info, config, job.examples)
    )
    if newest := job.run.newest_checkpoint():
        trainer.restore({name: newest.read(name) for name in newest.hashes}, place=str(newest.path))
    if trainer.missing_projections:
        names = ", ".join(trainer.missing_projections)
        watch.say(f"note: this architecture has no {names}, so less of it is adapted")
    for note in job.run.notes:
        watch.say(note)
    watch.began(job.run, trainer)
    for step in trainer.steps():
        job.run.log(**vars(step))
        if step.ends_epoch:  # before anybody is told that it is saved
            job.run.save_checkpoint(step.number, trainer.checkpoint())
        watch.stepped(step)
    watch.ended()
    return trainer.adapter(), len(trainer.model.layers)


def _recall(job: Job, adapter: Adapter) -> list[SessionRecall]:
    """Score the session, and those before it, on the model that every command will use."""
    folded = load_folded(job.info, job.chain, [adapter])
    return score_sessions(
        folded,
        [(s.number, s.name) for s in job.chain] + [(len(job.chain) + 1, job.name)],
        [*map(read_rows, job.chain), job.new],
    )


def _move_head(job: Job, session: Session, watch: Watch) -> bool:
    """Put the session in use, unless somebody moved HEAD while it was training."""
    if job.store.head() == session:  # a resume after the very last step of an earlier attempt
        return True
    try:
        job.store.move_head(session, expected=job.parent, why=f"train {job.name}")
    except LockedError as error:
        watch.say(str(error))
        return False
    return True


def _record(job: Job, recall: Sequence[SessionRecall]) -> dict[str, Any]:
    """Return session.json; it depends on the run alone, so that twice the same is one session."""
    # A resumed run takes the steps after its checkpoint again; the later line counts.
    metrics = list({line["number"]: line for line in job.run.metrics()}.values())
    return {
        "created": job.run.record["created"],
        "verdict": PROMOTE,
        "base": describe_base(job.info),
        "note": (
            "This adapter holds its own session alone. Used without mlx-tune it needs the model "
            "it was trained on: `mlx-tune fuse --session PARENT --out FOLDER`."
            if job.chain
            else "The first session: this adapter goes directly onto the base."
        ),
        "sizing": job.sizing.to_json(),
        "data": {
            "sources": job.run.record["sources"],
            "rows": len(job.new),
            "sha256": job.run.record["data_sha256"],
            "rehearsed": len(job.examples) - len(job.new),
        },
        "training": {
            "run": job.run.path.name,
            "steps": len(metrics),
            "last_loss": metrics[-1]["loss"],
            "tokens": sum(line["tokens"] for line in metrics),
            "seconds": round(sum(line["seconds"] for line in metrics), 1),
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in metrics),
        },
        "recall": [entry.to_json() for entry in recall],
        "versions": {
            "mlx-tune": mlx_tune.__version__,
            "mlx": version("mlx"),
            "mlx-lm": version("mlx-lm"),
            "python": platform.python_version(),
        },
    }
