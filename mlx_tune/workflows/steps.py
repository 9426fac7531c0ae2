"""The steps of a run: logged, checkpointed at least once a minute, stopped when somebody asks."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_tune.continual.early_stopping import (
    EarlyStopping,
    ValidationScore,
    best_score,
    scores_from_json,
    scores_to_json,
)
from mlx_tune.continual.fold import negated_factors
from mlx_tune.continual.recall import Recall, score
from mlx_tune.continual.rehearse import learnable
from mlx_tune.data.tokenise import Example
from mlx_tune.errors import DamagedStoreError, InputError, Interrupted
from mlx_tune.models import runtime
from mlx_tune.store.runs import Checkpoint, Run
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.loop import Objective, Step, Trainer
from mlx_tune.training.mixture import BASE
from mlx_tune.workflows.observer import TrainingObserver
from mlx_tune.workflows.training_plan import TrainingPlan
from mlx_tune.workflows.workspace import load_folded, read_adapters

SCORES_FILE, STOPPING_FILE = "validation.json", "exam.json"
CHECKPOINT_SECONDS = 60.0
"""At most so much work is lost by a process that dies; a step that takes longer is one more."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What is left when the steps are done.

    Attributes:
        adapter: The best by the held-out rows, the last without.
        num_layers: Of the model.
        scores: Of the held-out rows.
        is_learned: Whether training ended because all was learned; None where it was not checked.
    """

    adapter: Adapter
    num_layers: int
    scores: tuple[ValidationScore, ...]
    is_learned: bool | None


def take_steps(plan: TrainingPlan, run: Run, observer: TrainingObserver) -> TrainingResult:
    """Train from the newest checkpoint, or from the start, to the last step.

    Raises:
        Interrupted: Somebody asked to stop; the step just made is in a checkpoint.
    """
    folded = load_folded(plan.info, plan.stands_on)
    observer.merged(plan.stands_on)
    objective = _objective(plan, runtime.dtype_of(folded.model))
    trainer = Trainer(
        folded.model, plan.examples, plan.config, objective=objective, batches=plan.batches
    )
    scores, stopping = _restore(plan, run, trainer)
    if trainer.missing_projections:
        names = ", ".join(trainer.missing_projections)
        observer.say(f"note: this architecture has no {names}, so less of it is adapted")
    for note in (*run.notes, *trainer.notes):
        observer.say(note)
    observer.began(trainer)
    saved = time.monotonic()
    for step in () if stopping.is_met(trainer.steps_done) else trainer.steps():
        run.log(**vars(step))
        if step.ends_epoch and plan.validation:
            scores.append(_score(plan, trainer))
        if step.ends_epoch and stopping.is_due(
            step.epoch, trainer.max_token_losses, trainer.epoch_examples()
        ):
            stopping = _check_rows(stopping, trainer, plan)
        signal = observer.stop()
        due = time.monotonic() + step.seconds - saved >= CHECKPOINT_SECONDS
        if step.ends_epoch or signal or due:  # before anybody is told that it is saved
            _save(run, trainer, step, scores, stopping)
            saved = time.monotonic()
        observer.stepped(step)
        if signal:
            raise Interrupted(f"stopped after step {step.number}, which is saved", signal=signal)
        if stopping.is_met(step.number):
            observer.say(f"all of it is known word for word after {step.epoch} epochs: enough")
            break
    observer.ended()
    is_learned = stopping.is_met(trainer.steps_done) if stopping.rows else None
    if stopping.rows and scores:
        observer.say("note: the held-out rows chose no checkpoint; the last one knows the rows")
    else:
        _take_best(run, trainer, scores, observer)
    return TrainingResult(
        adapter=trainer.adapter(),
        num_layers=len(trainer.model.layers),
        scores=tuple(scores),
        is_learned=is_learned,
    )


def _objective(plan: TrainingPlan, dtype: mx.Dtype) -> Objective:
    """Return what the method minimises besides the taught tokens' loss.

    Args:
        plan: The training.
        dtype: Of the teacher's factors: the one that the model computes in.
    """
    penalised = bool(plan.stands_on and plan.method.penalty_weight)
    has_teacher = BASE in plan.mixture.teachers
    past = read_adapters(plan.stands_on) if penalised or has_teacher else []
    teacher = negated_factors(past if has_teacher else [], scale=plan.settings.scale, dtype=dtype)
    return Objective(
        penalty=partial(plan.method.penalty, past=past) if penalised else None,
        teachers={BASE: teacher},
    )


def _early_stopping(plan: TrainingPlan) -> EarlyStopping:
    """Return which rows end the training once they are learned: none to take all planned steps."""
    flags = learnable([*plan.new, *plan.old])
    coming = sum(source.size for source in plan.mixture.sources[:2] if source.per_epoch)
    return EarlyStopping(
        rows=tuple(itertools.compress(plan.mixture.rows, flags[:coming]))
        if plan.settings.until_learned
        else (),
        min_epochs=plan.least_epochs,
    )


def _check_rows(stopping: EarlyStopping, trainer: Trainer, plan: TrainingPlan) -> EarlyStopping:
    """Check the rows that have to be learned; the loop gets the losses."""
    for part, may_fail in stopping.parts():
        found = _recall(trainer, [plan.examples[i] for i in part])
        for i, nats in zip(part, found.max_token_losses, strict=True):
            trainer.max_token_losses[i] = nats
        stopping = stopping.update(trainer.steps_done, found.max_token_losses, may_fail=may_fail)
        if stopping.failing:
            break
    return stopping


def _restore(
    plan: TrainingPlan, run: Run, trainer: Trainer
) -> tuple[list[ValidationScore], EarlyStopping]:
    """Go to the newest checkpoint, if there is one; return what was scored until then."""
    stopping, newest = _early_stopping(plan), run.newest_checkpoint()
    if newest is None:
        return [], stopping
    files = _files(newest)
    trainer.restore(files, place=str(newest.path))
    scores = scores_from_json(files[SCORES_FILE]) if SCORES_FILE in files else []
    return scores, stopping.resumed(files[STOPPING_FILE]) if STOPPING_FILE in files else stopping


def _save(
    run: Run,
    trainer: Trainer,
    step: Step,
    scores: Sequence[ValidationScore],
    stopping: EarlyStopping,
) -> None:
    files = trainer.checkpoint()
    if scores:  # in the checkpoint, so that a resume chooses the best among the very same
        files[SCORES_FILE] = scores_to_json(scores)
    if stopping.step:  # and ends where the run would have ended
        files[STOPPING_FILE] = stopping.to_json()
    chosen = None if stopping.rows else best_score(scores)
    run.save_checkpoint(step.number, files, best=chosen.step if chosen else None)


def _score(plan: TrainingPlan, trainer: Trainer) -> ValidationScore:
    """Score the held-out rows with the model as it stands."""
    number = trainer.steps_done
    try:
        found = _recall(trainer, plan.validation)
    except InputError:  # no finite loss: never the best
        return ValidationScore(step=number, right=0, asked=len(plan.validation), loss=None)
    return ValidationScore(step=number, right=found.right, asked=found.asked, loss=found.loss)


def _recall(trainer: Trainer, examples: Sequence[Example]) -> Recall:
    factors = trainer.adapter().factors
    return score(trainer.model, examples, forward=trainer.network, factors=factors)


def _take_best(
    run: Run, trainer: Trainer, scores: Sequence[ValidationScore], observer: TrainingObserver
) -> None:
    """Go back to the best checkpoint, where held-out rows chose one."""
    chosen = best_score(scores)
    if chosen is None and scores:
        observer.say(
            "note: no held-out row was ever right, so they chose no checkpoint; the last is kept"
        )
    if chosen is None or chosen.step == trainer.steps_done:
        return
    try:
        files = _files(run.checkpoint(chosen.step))
    except DamagedStoreError as error:
        observer.say(f"note: the best checkpoint cannot be used, the last one is: {error}")
        return
    trainer.restore(files, place=f"step {chosen.step}")
    observer.say(
        f"the checkpoint after step {chosen.step} is the best by the held-out rows "
        f"({chosen.right} of {chosen.asked}, loss {chosen.loss:.4f})"
    )


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: checkpoint.read(name) for name in checkpoint.hashes}
