"""The steps of a run: logged, checkpointed at least once a minute, stopped when somebody asks."""

import time
from collections.abc import Sequence

from mlx_tune.continual import best as best_checkpoint
from mlx_tune.continual.best import Score, best
from mlx_tune.continual.recall import score
from mlx_tune.errors import DamagedStoreError, InputError, Interrupted
from mlx_tune.lineage.checkpoints import Checkpoint
from mlx_tune.training.adapter import Adapter
from mlx_tune.training.loop import Step, Trainer
from mlx_tune.workflows import fitting
from mlx_tune.workflows.folded import load_folded
from mlx_tune.workflows.job import Job, Watch
from mlx_tune.workflows.prepare import training_config

SCORES_FILE = "validation.json"
CHECKPOINT_SECONDS = 60.0
"""At most so much work is lost by a process that dies; a step that takes longer is one more."""


def take_steps(job: Job, watch: Watch) -> tuple[Adapter, int, list[Score]]:
    """Train from the newest checkpoint, or from the start, to the last step.

    Returns:
        The adapter: the best by the held-out rows, the last without; the number of the model's
        layers; what the held-out rows scored.

    Raises:
        Interrupted: Somebody asked to stop; the step just made is in a checkpoint.
    """
    folded = load_folded(job.info, job.chain)
    watch.merged(job.chain)
    config = training_config(job.sizing, len(job.new))
    trainer = Trainer(
        folded.model, job.examples, fitting.with_cache(job.info, config, job.examples)
    )
    scores = _restore(job, trainer)
    if trainer.missing_projections:
        names = ", ".join(trainer.missing_projections)
        watch.say(f"note: this architecture has no {names}, so less of it is adapted")
    for note in (*job.run.notes, *trainer.notes):
        watch.say(note)
    watch.began(job.run, trainer)
    saved = time.monotonic()
    for step in trainer.steps():
        job.run.log(**vars(step))
        if step.ends_epoch and job.validation:
            scores.append(_score(job, trainer))
        signal = watch.stop()
        due = time.monotonic() + step.seconds - saved >= CHECKPOINT_SECONDS
        if step.ends_epoch or signal or due:  # before anybody is told that it is saved
            _save(job, trainer, step, scores)
            saved = time.monotonic()
        watch.stepped(step)
        if signal:
            raise Interrupted(f"stopped after step {step.number}, which is saved", signal=signal)
    watch.ended()
    _take_best(job, trainer, scores, watch)
    return trainer.adapter(), len(trainer.model.layers), scores


def _restore(job: Job, trainer: Trainer) -> list[Score]:
    """Go to the newest checkpoint, if there is one; return what was scored until then."""
    newest = job.run.newest_checkpoint()
    if newest is None:
        return []
    files = _files(newest)
    trainer.restore(files, place=str(newest.path))
    return best_checkpoint.from_json(files[SCORES_FILE]) if SCORES_FILE in files else []


def _save(job: Job, trainer: Trainer, step: Step, scores: Sequence[Score]) -> None:
    files = trainer.checkpoint()
    if scores:  # in the checkpoint, so that a resume chooses the best among the very same
        files[SCORES_FILE] = best_checkpoint.to_json(scores)
    chosen = best(scores)
    job.run.save_checkpoint(step.number, files, best=chosen.step if chosen else None)


def _score(job: Job, trainer: Trainer) -> Score:
    """Ask the model as it stands for the held-out rows."""
    number = trainer.steps_done
    try:
        found = score(
            trainer.model,
            job.validation,
            called=trainer.network,
            factors=trainer.adapter().factors,
        )
    except InputError:  # no finite loss: never the best
        return Score(step=number, right=0, asked=len(job.validation), loss=None)
    return Score(step=number, right=found.right, asked=found.asked, loss=found.loss)


def _take_best(job: Job, trainer: Trainer, scores: Sequence[Score], watch: Watch) -> None:
    """Go back to the best checkpoint, where held-out rows chose one."""
    chosen = best(scores)
    if chosen is None or chosen.step == trainer.steps_done:
        return
    try:
        files = _files(job.run.checkpoint(chosen.step))
    except DamagedStoreError as error:
        watch.say(f"note: the best checkpoint cannot be used, the last one is: {error}")
        return
    trainer.restore(files, place=f"step {chosen.step}")
    watch.say(
        f"the checkpoint after step {chosen.step} is the best by the held-out rows "
        f"({chosen.right} of {chosen.asked}, loss {chosen.loss:.4f})"
    )


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: checkpoint.read(name) for name in checkpoint.hashes}
