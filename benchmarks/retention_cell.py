"""One cell of the retention benchmark: trains one session as the command does, and scores it.

`benchmarks.retention` starts it in a process of its own, so that each session has fresh memory:
`python -m benchmarks.retention_cell TASK`, the task as JSON; its last line is the result.
"""

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_tune.continual.recall import score
from mlx_tune.data import read, tokenise
from mlx_tune.models import bases, runtime
from mlx_tune.store.runs import Run
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.training.loop import Step
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.plan import TrainingRequest
from mlx_tune.workflows.run import train
from mlx_tune.workflows.store_commands import promote
from mlx_tune.workflows.training_plan import TrainingPlan
from mlx_tune.workflows.workspace import FoldedModel, free_memory, load_folded

KINDS = ("verbatim", "paraphrases")
"""The two ways a subject is asked; the session's record calls them so too."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a cell is to do.

    Attributes:
        label: For the lines that say where it is.
        base: The base model.
        store: The chain's folder.
        subjects: Every subject's file, by index.
        taught: Indices of the subjects known afterwards, in the order they were taught; none: the
            base alone is scored.
        joint: Teach them all in one session, not the last on top of the others.
        name: Of the session.
        flags: As the command line's, by setting's name.
    """

    label: str
    base: str
    store: str
    subjects: list[str]
    taught: list[int]
    joint: bool
    name: str
    flags: dict[str, Any]

    @property
    def chain_length(self) -> int:
        """How many sessions the store holds afterwards."""
        return min(len(self.taught), 1) if self.joint else len(self.taught)

    @property
    def data(self) -> list[Path]:
        """The files that the session is taught."""
        return [Path(self.subjects[i]) for i in (self.taught if self.joint else self.taught[-1:])]


class Follows(TrainingObserver):
    """Says where the training is, and resumes what was begun.

    It leaves the gate's verdict as it is in the record; :func:`_train` overrules it.
    """

    def __init__(self, label: str) -> None:
        self._label = label

    def say(self, line: str) -> None:
        """Print it to stderr; the result alone goes to stdout."""
        print(f"{self._label}  {line}", file=sys.stderr, flush=True)

    def offered(self, run: Run, other_settings: Mapping[str, Any]) -> bool:
        """Go on with an interrupted run, unless it was begun with other settings."""
        return not other_settings

    def planned(self, plan: TrainingPlan) -> None:
        """Say what each epoch has."""
        old = len(plan.old)
        self.say(f"{len(plan.new)} new rows and {old} old ones")

    def stepped(self, step: Step) -> None:
        """Say how an epoch ended."""
        if step.ends_epoch:
            self.say(f"epoch {step.epoch}: loss {step.loss:.4f}")


def carry_out(task: Task) -> dict[str, Any]:
    """Train the cell's session, unless an earlier attempt did, and score what is known.

    Raises:
        MlxTuneError: As for `workflows.train`.
    """
    began = time.monotonic()
    chain = taught_chain(task)
    trained = time.monotonic() - began
    folded = load_folded(bases.locate(task.base), chain)
    return {
        "scores": scores(task, chain, folded),
        "fold_sha256": weights_sha256(folded.model),
        "files_sha256": {session.folder_name: dict(session.hashes) for session in chain},
        "versions": runtime.versions(),
        "train_seconds": trained,
        "score_seconds": time.monotonic() - began - trained,
        **(of_session(chain[-1]) if chain else {}),
    }


def taught_chain(task: Task) -> list[Session]:
    """Train the cell's session, unless an earlier attempt did; return the chain, root first.

    Raises:
        MlxTuneError: As for `workflows.train`.
    """
    store = SessionStore.open(Path(task.store))
    if len(store.snapshot().chain(store.snapshot().head())) < task.chain_length:
        _train(task, store)
        free_memory()
    return list(store.snapshot().chain(store.snapshot().head()))


def _train(task: Task, store: SessionStore) -> None:
    """Train a session and chain it, whatever the gate says of it.

    The benchmark measures what the gate is there to prevent; the record keeps what it said.
    """
    session = _held_back(task, store)
    if session is None:
        flags = {"base": task.base, "name": task.name, **task.flags}
        request = TrainingRequest(data=task.data, store=store.root, flags=flags)
        session = train(request, Follows(task.label)).session
    if store.snapshot().head() != session:
        promote(store.root, session.id)


def _held_back(task: Task, store: SessionStore) -> Session | None:
    """Return the session that an attempt cut short has committed and not put in use."""
    wanted = (task.chain_length, task.name)
    sessions = store.snapshot().sessions.values()
    return next((s for s in sessions if (s.number, s.name) == wanted), None)


def of_session(session: Session) -> dict[str, Any]:
    """Return what a session's record says of the training and of what it did."""
    record = session.record
    return {
        "session": session.folder_name,
        "training": record["training"],
        "rehearsed": record["data"]["rehearsed"],
        "gate": record["gate"],
        "recall": record["recall"],
    }


def scores(
    task: Task, chain: Sequence[Session], folded: FoldedModel
) -> dict[str, list[list[int] | None]]:
    """Return each subject's outcomes, by kind and index: one 0 or 1 for every question.

    What was taught is in the session's record; the rest, the matrix's upper triangle, is asked now.
    """
    found: dict[str, list[list[int] | None]] = {k: [None] * len(task.subjects) for k in KINDS}
    known = recorded(task, chain[-1].record["recall"]) if chain else {}
    for index, path in enumerate(task.subjects):
        outcomes = known.get(index) or _ask(folded, Path(path))
        for kind in KINDS:
            found[kind][index] = outcomes[kind]
    return found


def recorded(task: Task, recall: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, list[int]]]:
    """Return the outcomes that a session's record keeps, by subject's index.

    A subject is left out whose rows were not kept, so that the session could not ask them.

    Raises:
        ValueError: It does not keep one outcome for every question.
    """
    outcomes = {k: [entry[k]["outcomes"] if entry[k] else [] for entry in recall] for k in KINDS}
    if task.joint:  # one session taught them all, in this order
        rows = [read.read([Path(task.subjects[i])]) for i in task.taught]
        probes = [[text for row in some for text in row.paraphrases] for some in rows]
        lengths = dict(zip(KINDS, ([len(x) for x in rows], [len(x) for x in probes]), strict=True))
        outcomes = {k: parted(outcomes[k][0], lengths[k]) for k in KINDS}
    per_kind = [outcomes[k] for k in KINDS]
    return {
        index: dict(zip(KINDS, of_subject, strict=True))
        for index, *of_subject in zip(task.taught, *per_kind, strict=True)
        if of_subject[0]
    }


def parted(outcomes: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut a list into pieces of these lengths.

    Raises:
        ValueError: It is longer or shorter than they are together.
    """
    if len(outcomes) != sum(lengths):
        raise ValueError(f"{len(outcomes)} outcomes; expected {sum(lengths)}")
    ends = np.cumsum(lengths).tolist()
    return [list(outcomes[e - n : e]) for e, n in zip(ends, lengths, strict=True)]


def _ask(folded: FoldedModel, path: Path) -> dict[str, list[int]]:
    rows = read.read([path])
    asked = (
        tokenise.encode(rows, folded.tokenizer),
        tokenise.encode_paraphrases(rows, folded.tokenizer),
    )
    return {
        kind: [int(right) for right in score(folded.model, examples).verbatim]
        for kind, examples in zip(KINDS, asked, strict=True)
    }


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 (hex) of every weight's name, shape, type and bytes, in name order."""
    digest = hashlib.sha256()
    for name, weight in sorted(tree_flatten(model.parameters())):
        digest.update(f"{name} {weight.shape} {weight.dtype}\n".encode())
        digest.update(np.array(weight.view(mx.uint8)).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(carry_out(Task(**json.loads(sys.argv[1])))))
