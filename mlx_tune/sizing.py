"""The rules that size a training from its data, each value with its reason and its source.

In the tables n counts the new rows; rehearsed ones do not count.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from mlx_tune.errors import InputError, UsageError
from mlx_tune.settings import (
    MAX_GENERAL_REPLAY,
    TRAINING_FIELDS,
    ExplicitValue,
    Origin,
    TrainingSettings,
)

SMALL_ROWS, LARGE_ROWS = 100, 500
"""Under the first a data set is small; from the second on it is large."""

_RANK = (8, 16, 32)
_EPOCHS = (10, 5, 3)
_BATCH_SIZE = (2, 2, 4)
_EFFECTIVE_BATCH = 8
_MAX_LENGTH = (512, 640, 768)

MIN_PASSES = 3
"""Epochs in which every old row comes at least, where there are as many."""

_LEAST_GENERAL = 10
"""General questions of an epoch: with four beside eight rows ΔG was 0.12, with ten 0.05."""

_GENERAL_WEIGHT = 6.0
"""Of a general answer, where more steps are taken: after 106 rows ΔG was 0.095, with 4 0.103."""

_STEPS_TO_LEARN, _STEPS_A_ROW = 120, 1.5
_DECAY_EPOCHS, _EPOCHS_A_WORDING = (24, 24, 12), 2
"""Of a training until learned. Rows in one wording are recited after about half of them, and the
rest is for other words; each further wording has to be learned too (docs/LOG.md)."""


_GATE_PAIRS = (
    ("gate_kept", "gate_kept_least", min),
    ("gate_backward", "gate_backward_most", max),
    ("gate_general", "gate_general_most", max),
)
"""The two limits of each value of the gate, and which of the two the second has to be."""


def check_together(given: Mapping[str, ExplicitValue], fixed: Collection[str]) -> None:
    """Refuse values that contradict each other, before anything is fetched, loaded or trained.

    Args:
        given: By name; what nobody gave moves along with the rest.
        fixed: The names of those that a person gave; the others are the base's own file's. Its
            ``until_learned`` gives way to a person's ``validation``, see :func:`size_training`.

    Raises:
        UsageError: Two values contradict each other, and a flag is among them: each with where it
            comes from, and what to set.
        InputError: They do, and all come from files.
    """
    problems: list[str] = []
    involved: list[ExplicitValue] = []
    for first, second, loosest in _GATE_PAIRS:
        if first in given and second in given:
            limit, beyond = given[first], given[second]
            if loosest(limit.value, beyond.value) != beyond.value:
                bound = f"at {'most' if loosest is min else 'least'} {limit.value:g}"
                problems.append(
                    f"{_as_given(second, beyond)} is stricter than {_as_given(first, limit)}; "
                    f"set it to {bound}"
                )
                involved += limit, beyond
    held_out, until = given.get("validation"), given.get("until_learned")
    if held_out and until and held_out.value and until.value and "until_learned" in fixed:
        problems.append(
            f"{_as_given('validation', held_out)} beside {_as_given('until_learned', until)}: "
            "the held-out rows would choose nothing, for the model that knows the rows is kept; "
            "add --no-until-learned or --validation 0"
        )
        involved += held_out, until
    decay, epochs = given.get("decay_epochs"), given.get("epochs")
    if decay and epochs and {"decay_epochs", "epochs"} <= {*fixed} and decay.value > epochs.value:
        problems.append(
            f"{_as_given('decay_epochs', decay)} is more than {_as_given('epochs', epochs)}; set "
            f"it to at most {epochs.value}"
        )
        involved += decay, epochs
    if problems:
        is_typed = any(one.source.startswith("--") for one in involved)
        raise (UsageError if is_typed else InputError)("\n".join(problems))


def _as_given(name: str, entry: ExplicitValue) -> str:
    """Return a value as a person gave it: a flag as typed, a key with its file."""
    value = "" if entry.value is True else f" {entry.value:g}"
    if entry.source.startswith("--"):
        return entry.source + value
    return f"{entry.source}: {name}{value or ' true'}"


def learning_rate(hidden_size: int) -> float:
    """Return the default peak rate for LoRA on a Llama of this width.

    5e-4 · (2000 / hidden)^0.781: 3.6e-4 for the 3B model, 1.3e-3 for the small one.

    Source:
        The rule that Thinking Machines' Tinker documentation gives for LoRA on Llama models.
    """
    return float(f"{5e-4 * (2000 / hidden_size) ** 0.781:.3g}")


def decay_epochs(new_rows: int, wordings: float) -> int:
    """Return in how many epochs the rate of a training until everything is learned falls.

    Args:
        new_rows: Rows to learn.
        wordings: In how many they are on average, as taught included.
    """
    return _DECAY_EPOCHS[_size(new_rows)] + round(_EPOCHS_A_WORDING * (wordings - 1))


def most_epochs(new_rows: int, old_rows: int, rows_a_step: int, wordings: float = 1.0) -> int:
    """Return how many epochs a training until everything is learned may take.

    The steps it takes grow with what there is to hold: 106 rows took 224 and 340 (docs/LOG.md). At
    least half as many epochs again as the rate takes to fall.

    Args:
        new_rows: Rows to learn.
        old_rows: Rows to keep.
        rows_a_step: Of an effective batch.
        wordings: As for :func:`decay_epochs`.
    """
    rows = new_rows + old_rows
    wanted = _STEPS_TO_LEARN + _STEPS_A_ROW * rows
    least = 3 * decay_epochs(new_rows, wordings) // 2
    return max(least, math.ceil(wanted / math.ceil(rows / rows_a_step)))


def _size(new_rows: int) -> int:
    """Return the place of a data set's values in the tables."""
    return (new_rows >= SMALL_ROWS) + (new_rows >= LARGE_ROWS)


def size_training(
    new_rows: int,
    *,
    hidden_size: int,
    loss_chunk: int,
    explicit: Mapping[str, ExplicitValue],
    old_rows: int = 0,
    old_length: int = 0,
    wordings: float = 1.0,
    taught_epochs: int = 0,
) -> TrainingSettings:
    """Decide every setting: what was given, else the rule for this many rows, else its default.

    Whether that fits the machine is asked later: see `workflows/fitting`.

    Args:
        new_rows: Rows of the data set; rehearsed ones do not count.
        hidden_size: Of the base model.
        loss_chunk: Tokens whose logits are worth holding at once on this device.
        explicit: Flags and config, see `settings.merge_settings`.
        old_rows: Rows of earlier sessions that are still to be remembered.
        old_length: The longest row that any of those sessions allowed, in tokens.
        wordings: In how many the new rows are on average, as taught included.
        taught_epochs: How many the rows took when sessions were taught them that this one replaces:
            in fewer it would not learn what they knew. 0 for none.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}

    def decide(name: str, value: Any, reason: str, source: str = "rule") -> Any:
        if name in explicit:
            value, source = explicit[name].value, explicit[name].source
            by_flag = source.startswith("--")
            reason = "as you asked" if by_flag else "set there; the file says why"
        origins[name] = Origin(reason=reason, source=source)
        values[name] = value
        return value

    for name, field in TRAINING_FIELDS.items():
        decide(name, field.metadata["default"], field.metadata["reason"], "default")

    for first, second, loosest in _GATE_PAIRS:
        strictest = max if loosest is min else min
        for name, other, follow in ((first, second, loosest), (second, first, strictest)):
            limit = follow(values[name], values[other])
            if name in explicit and limit != values[other]:
                decide(other, limit, f"moved along with {name}")

    size = _size(new_rows)
    bounds = (f"under {SMALL_ROWS}", f"{SMALL_ROWS} to {LARGE_ROWS - 1}", f"{LARGE_ROWS} or more")
    why = f"{new_rows} new row{'s' * (new_rows != 1)} ({bounds[size]})"

    rank = decide("rank", _RANK[size], why)
    decide("alpha", 2 * rank, "twice the rank, so the scale is 2")

    batch_size = _BATCH_SIZE[size]
    if "batch_size" not in explicit and "grad_accumulation" in explicit:
        batch_size = max(1, _EFFECTIVE_BATCH // explicit["grad_accumulation"].value)
    batch_size = decide("batch_size", batch_size, why)
    accumulation = max(1, _EFFECTIVE_BATCH // batch_size)
    reason = f"{batch_size * accumulation} rows a step"
    accumulation = decide("grad_accumulation", accumulation, reason)

    if size:
        decide("general_weight", _GENERAL_WEIGHT, why)
    share = _LEAST_GENERAL / (new_rows + min(new_rows, old_rows) + _LEAST_GENERAL)
    share = min(math.floor(100 * share) / 100, MAX_GENERAL_REPLAY)  # an epoch rounds up
    if share > values["general_replay"]:
        why_general = f"of an epoch: {_LEAST_GENERAL} general questions, for few rows"
        decide("general_replay", share, why_general)

    most = most_epochs(new_rows, old_rows, batch_size * accumulation, wordings)
    most = max(most, taught_epochs)
    if values["until_learned"] and values["validation"]:  # the base's file, see `check_together`
        values["until_learned"] = False
        why_off = f"{explicit['until_learned'].source} sets it, but the held-out rows choose"
        origins["until_learned"] = Origin(reason=why_off, source=explicit["validation"].source)
        decide("epochs", most, "as many as until learned might take")
        decide("decay_epochs", 0, "the rate falls to the end", "default")
    elif values["until_learned"]:
        epochs = decide("epochs", most, "the most; it stops once all is learned")
        least = min(decay_epochs(new_rows, wordings), epochs)
        decide("decay_epochs", least, "the least; then the rate is a quarter")
    else:
        longest = taught_epochs > _EPOCHS[size]
        why_epochs = "as many as a session it replaces took" if longest else why
        decide("epochs", max(_EPOCHS[size], taught_epochs), why_epochs)
        decide("decay_epochs", 0, "the rate falls to the end", "default")
    if min(values["decay_epochs"] or values["epochs"], values["epochs"]) < MIN_PASSES:
        decide("replay", values["replay"], "every old row in every epoch", "default")

    if old_length > _MAX_LENGTH[size]:
        decide("max_length", old_length, "as long as an earlier session's")
    else:
        decide("max_length", _MAX_LENGTH[size], f"{why}; tokens")
    decide("learning_rate", learning_rate(hidden_size), f"5e-4·(2000/{hidden_size})^0.781")
    decide("checkpoint_layers", 0, "everything fits")
    decide("loss_chunk", loss_chunk, "tokens whose logits are held at once")
    return TrainingSettings(**values, origins=origins)
