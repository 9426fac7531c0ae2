"""The state of a run between two steps, complete enough to tell whether a resume is exact.

All of it but the number of steps could be computed again. It is written down because a resume is
exact or says that it is not: another version may shuffle, tokenise or multiply differently.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from mlx_tune.errors import IncompatibleError
from mlx_tune.models import runtime
from mlx_tune.training.batches import Batches
from mlx_tune.training.mixture import UNKNOWN_LOSS

_RECORDED = {"max_token_losses": "hardest", "max_token_losses_before": "hardest_before"}


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where a run stands between two steps.

    Attributes:
        steps_done: Optimizer updates so far.
        planned_steps: Optimizer updates of the whole run.
        seed: Seed of the adapter, of the order of the rows and, with the step, of the dropout.
        rows_sha256: sha256 (hex) of the tokens of all examples and of which are supervised.
        epoch: The current epoch, counted from 1.
        permutation: The examples of this epoch, as indices into all, in the order they are taken.
        cursor: How many of them are done; those of a step are done all at once.
        max_token_losses: The largest token loss of every example when it was last trained on, nats;
            ``UNKNOWN_LOSS`` before that.
        max_token_losses_before: The same when the epoch began; the examples of the epoch were
            chosen by it.
        versions: Versions of the libraries and of the device that compute.
    """

    steps_done: int
    planned_steps: int
    seed: int
    rows_sha256: str
    epoch: int
    permutation: tuple[int, ...]
    cursor: int
    max_token_losses: tuple[float, ...]
    max_token_losses_before: tuple[float, ...]
    versions: Mapping[str, str]

    @staticmethod
    def of(
        batches: Batches,
        *,
        steps_done: int,
        planned_steps: int,
        max_token_losses: Sequence[float],
        max_token_losses_before: Sequence[float],
    ) -> "TrainerState":
        """Return the state of a run after ``steps_done`` steps."""
        steps_per_epoch = planned_steps // batches.epochs
        epoch = min(steps_done // steps_per_epoch, batches.epochs - 1)  # counted from 0
        rows = (steps_done - epoch * steps_per_epoch) * batches.effective_batch
        return TrainerState(
            steps_done=steps_done,
            planned_steps=planned_steps,
            seed=batches.seed,
            rows_sha256=batches.rows_sha256,
            epoch=epoch + 1,
            permutation=tuple(batches.order(epoch, max_token_losses_before)),
            cursor=min(rows, batches.mixture.rows_per_epoch),
            max_token_losses=tuple(max_token_losses),
            max_token_losses_before=tuple(max_token_losses_before),
            versions=runtime.versions(),
        )

    def to_json(self) -> bytes:
        """Return the content of state.json, by the names that its format has."""
        record = {_RECORDED.get(name, name): value for name, value in asdict(self).items()}
        for name in _RECORDED.values():  # JSON has no infinity
            record[name] = [None if loss == UNKNOWN_LOSS else loss for loss in record[name]]
        return (json.dumps(record, sort_keys=True) + "\n").encode()

    @staticmethod
    def from_json(data: bytes, *, place: str) -> "TrainerState":
        """Return the state that state.json holds; the inverse of :meth:`to_json`.

        Args:
            data: The content of the file.
            place: The name of the file, for messages.

        Raises:
            IncompatibleError: It is not the JSON of this version.
        """
        try:
            record = json.loads(data)
            names = [field.name for field in fields(TrainerState)]
            found = {name: record[_RECORDED.get(name, name)] for name in names}
            for name in _RECORDED:
                found[name] = tuple(UNKNOWN_LOSS if n is None else n for n in found[name])
            return TrainerState(**{**found, "permutation": tuple(found["permutation"])})
        except (ValueError, KeyError, TypeError) as error:
            raise IncompatibleError(
                f"{place}: written by another version of mlx-tune ({error}); resume with that one, "
                "or train again"
            ) from error

    def check(self, expected: "TrainerState", *, place: str) -> list[str]:
        """Compare the state of a checkpoint with the state of this run after as many steps.

        Args:
            expected: The state of this run.
            place: The folder of the checkpoint, for messages.

        Returns:
            Notes for the user, one line each: versions that changed.

        Raises:
            IncompatibleError: The checkpoint belongs to another run, or this version would take
                the rows in another order.
        """
        for name, words in (
            ("planned_steps", "plans {} steps, this run {}"),
            ("seed", "has the seed {}, this run {}"),
            ("rows_sha256", "was made of other rows: sha256 {:.12}…, this run's are {:.12}…"),
        ):
            found, wanted = getattr(self, name), getattr(expected, name)
            if found != wanted:
                raise IncompatibleError(
                    f"{place}: {words.format(found, wanted)}; resume with the rows and settings it "
                    "began with"
                )
        if (self.permutation, self.cursor) != (expected.permutation, expected.cursor):
            versions = ", ".join(map(" ".join, sorted(self.versions.items())))
            raise IncompatibleError(
                f"{place}: takes the rows of epoch {self.epoch} in another order than this version "
                f"({versions}); resume with that one, or train again"
            )
        changed = [
            f"{name} was {self.versions.get(name)}, is {version}"
            for name, version in expected.versions.items()
            if self.versions.get(name) != version
        ]
        note = (
            f"note: {', '.join(changed)}; the run goes on, though not to the very same bytes as if "
            "it had never stopped"
        )
        return [note] if changed else []
