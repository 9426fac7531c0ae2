"""Where in a run a checkpoint stands, so fully that a resume knows whether it is the same run.

All of it but the number of steps could be worked out again. It is written down because a resume is
exact or says that it is not: another version may shuffle, tokenise or multiply otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from mlx_tune.errors import IncompatibleError
from mlx_tune.models import runtime
from mlx_tune.training.batches import Batches
from mlx_tune.training.mixture import UNSEEN

_TUPLES = ("permutation", "hardest", "hardest_before")


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """A place between two steps.

    Attributes:
        steps_done: Optimizer updates so far.
        planned_steps: Of the whole run.
        seed: Of the first values, the order of rows and, with the step, the dropout.
        rows_sha256: Of the tokens of all rows and which of them are supervised.
        epoch: The one under way, counted from 1.
        permutation: The order of its rows, as indices into all of them.
        cursor: How many rows of it are done; a step's rows are done all at once.
        hardest: The loss of every row's hardest token when it last came, nats; None before.
        hardest_before: The same when the epoch began: what its rows were chosen by.
        versions: Of what computes.
    """

    steps_done: int
    planned_steps: int
    seed: int
    rows_sha256: str
    epoch: int
    permutation: tuple[int, ...]
    cursor: int
    hardest: tuple[float | None, ...]
    hardest_before: tuple[float | None, ...]
    versions: Mapping[str, str]

    @staticmethod
    def of(
        batches: Batches,
        *,
        steps_done: int,
        planned_steps: int,
        hardest: Sequence[float | None],
        hardest_before: Sequence[float | None],
    ) -> "TrainerState":
        """Return the place after so many steps of a run."""
        per_epoch = planned_steps // batches.epochs
        begun = min(steps_done // per_epoch, batches.epochs - 1)
        rows = (steps_done - begun * per_epoch) * batches.effective_batch
        return TrainerState(
            steps_done=steps_done,
            planned_steps=planned_steps,
            seed=batches.seed,
            rows_sha256=batches.rows_sha256,
            epoch=begun + 1,
            permutation=tuple(batches.order(begun, known(hardest_before))),
            cursor=min(rows, batches.mixture.places),
            hardest=tuple(hardest),
            hardest_before=tuple(hardest_before),
            versions=runtime.versions(),
        )

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return (json.dumps(asdict(self), sort_keys=True) + "\n").encode()

    @staticmethod
    def from_json(data: bytes, *, place: str) -> "TrainerState":
        """Read it back.

        Raises:
            IncompatibleError: Another version wrote other keys.
        """
        try:
            record = json.loads(data)
            kept = {field.name: record[field.name] for field in fields(TrainerState)}
        except (ValueError, KeyError, TypeError) as error:
            raise IncompatibleError(
                f"{place}: written by another version of mlx-tune ({error}); resume with that one, "
                "or train again"
            ) from error
        return TrainerState(**{**kept, **{name: tuple(kept[name]) for name in _TUPLES}})

    def check(self, expected: "TrainerState", *, place: str) -> list[str]:
        """Compare a checkpoint's place with what this run has there.

        Returns:
            What a person should know, one line each: versions that changed.

        Raises:
            IncompatibleError: It belongs to another run, or rows would come in another order.
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
            raise IncompatibleError(
                f"{place}: takes the rows of epoch {self.epoch} in another order than this version "
                f"({_listed(self.versions)}); resume with that one, or train again"
            )
        changed = [
            f"{name} was {self.versions.get(name)}, is {version}"
            for name, version in expected.versions.items()
            if self.versions.get(name) != version
        ]
        if not changed:
            return []
        return [
            f"note: {', '.join(changed)}; the run goes on, though not to the very same bytes as if "
            "it had never stopped"
        ]


def known(hardest: Sequence[float | None]) -> list[float]:
    """Return losses as rows are chosen by them, from what JSON can hold."""
    return [UNSEEN if loss is None else loss for loss in hardest]


def written(hardest: Sequence[float]) -> list[float | None]:
    """Return losses as JSON can hold them; the inverse of :func:`known`."""
    return [None if loss == UNSEEN else loss for loss in hardest]


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
