"""The rules that size a training from its data, each value with its reason and its source.

The tables are the ones of the program this one replaces (rows S2 to S7 of its summary); n counts
the new rows.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_tune.errors import IncompatibleError
from mlx_tune.settings import ExplicitValue

SMALL_ROWS, LARGE_ROWS = 100, 500
"""Under the first a data set is small; from the second on it is large."""

_RANK = (8, 16, 32)
_EPOCHS = (10, 5, 3)
_BATCH_SIZE = (2, 2, 4)
_EFFECTIVE_BATCH = 8
_MAX_LENGTH = (512, 640, 768)

GUARD = 0.3
"""Share of an epoch that is general questions, unless another is asked for (docs/LOG.md)."""

_STEPS_TO_LEARN, _STEPS_A_ROW, _LEAST_EPOCHS = 120, 1.5, 10

OPTIONAL = (
    "dropout", "rslora", "lora_plus_ratio", "wire_memory", "validation", "keep_data", "gate_kept",
    "gate_kept_least", "gate_backward", "gate_backward_most", "gate_general", "gate_general_most",
)  # fmt: skip
"""Settings that are off unless somebody turns them on."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSetting:
    """A value, why it is that, and where it came from (a flag, a file, a rule, a default)."""

    value: Any
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The settings of a training, all decided."""

    rank: ResolvedSetting
    alpha: ResolvedSetting
    epochs: ResolvedSetting
    batch_size: ResolvedSetting
    grad_accumulation: ResolvedSetting
    max_length: ResolvedSetting
    learning_rate: ResolvedSetting
    seed: ResolvedSetting
    dropout: ResolvedSetting
    rslora: ResolvedSetting
    lora_plus_ratio: ResolvedSetting
    checkpoint_layers: ResolvedSetting
    loss_chunk: ResolvedSetting
    wire_memory: ResolvedSetting
    validation: ResolvedSetting
    method: ResolvedSetting
    replay: ResolvedSetting
    guard: ResolvedSetting
    until_learned: ResolvedSetting
    keep_data: ResolvedSetting
    gate_kept: ResolvedSetting
    gate_kept_least: ResolvedSetting
    gate_backward: ResolvedSetting
    gate_backward_most: ResolvedSetting
    gate_general: ResolvedSetting
    gate_general_most: ResolvedSetting

    @property
    def scale(self) -> float:
        """Multiplier of the low-rank product.

        Source:
            alpha / √rank: Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).
        """
        rank = int(self.rank.value)
        return float(self.alpha.value) / (math.sqrt(rank) if self.rslora.value else rank)

    def items(self) -> list[tuple[str, ResolvedSetting]]:
        """Return the settings in the order a person reads them."""
        return list(vars(self).items())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return what a session's record keeps."""
        return {name: dict(vars(chosen)) for name, chosen in self.items()}

    @staticmethod
    def from_json(record: Mapping[str, Mapping[str, Any]]) -> "Sizing":
        """Return the sizing a record keeps; the inverse of :meth:`to_json`.

        Raises:
            IncompatibleError: Another version, with other settings, wrote it.
        """
        names = [field.name for field in dataclasses.fields(Sizing)]
        if sorted(names) != sorted(record):
            odd = ", ".join(sorted({*names} ^ {*record}))
            raise IncompatibleError(
                f"another version of mlx-tune decided these settings ({odd}); train again"
            )
        return Sizing(**{name: ResolvedSetting(**record[name]) for name in names})


def learning_rate(hidden_size: int) -> float:
    """Return the default peak rate for LoRA on a Llama of this width.

    5e-4 · (2000 / hidden)^0.781: 3.6e-4 for the 3B model, 1.3e-3 for the small one.

    Source:
        The rule that Thinking Machines' Tinker documentation gives for LoRA on Llama models.
    """
    return float(f"{5e-4 * (2000 / hidden_size) ** 0.781:.3g}")


def most_epochs(new_rows: int, old_rows: int, rows_a_step: int) -> int:
    """Return how many epochs a training until everything is learned may take.

    The steps it takes grow with what there is to hold: 106 rows took 224 and 340 (docs/LOG.md).
    The cosine spans them all.

    Args:
        new_rows: Rows to learn.
        old_rows: Rows to keep.
        rows_a_step: Of an effective batch.
    """
    rows = new_rows + old_rows
    wanted = _STEPS_TO_LEARN + _STEPS_A_ROW * rows
    return max(_LEAST_EPOCHS, math.ceil(wanted / math.ceil(rows / rows_a_step)))


def plan(
    new_rows: int,
    *,
    hidden_size: int,
    loss_chunk: int,
    given: Mapping[str, ExplicitValue],
    old_rows: int = 0,
    old_length: int = 0,
) -> Sizing:
    """Decide every setting: what was given, else the rule for this many rows.

    Whether that fits the machine is asked later: see `workflows/fitting`.

    Args:
        new_rows: Rows of the data set; rehearsed ones do not count.
        hidden_size: Of the base model.
        loss_chunk: Tokens whose logits are worth holding at once on this device.
        given: Flags and config, see `settings.gather`.
        old_rows: Rows of earlier sessions that are still to be remembered.
        old_length: The longest row that any of those sessions allowed, in tokens.
    """
    size = (new_rows >= SMALL_ROWS) + (new_rows >= LARGE_ROWS)
    bounds = (f"under {SMALL_ROWS}", f"{SMALL_ROWS} to {LARGE_ROWS - 1}", f"{LARGE_ROWS} or more")
    why = f"{new_rows} new row{'s' * (new_rows != 1)} ({bounds[size]})"

    def decide(name: str, value: Any, reason: str, source: str = "rule") -> ResolvedSetting:
        if name in given:
            asked = given[name].source.startswith("--")
            reason = "as you asked" if asked else "set there; the file says why"
            return ResolvedSetting(
                value=given[name].value, reason=reason, source=given[name].source
            )
        return ResolvedSetting(value=value, reason=reason, source=source)

    rank = decide("rank", _RANK[size], why)
    batch_size = _BATCH_SIZE[size]
    if "batch_size" not in given and "grad_accumulation" in given:
        batch_size = max(1, _EFFECTIVE_BATCH // given["grad_accumulation"].value)
    batch = decide("batch_size", batch_size, why)
    accumulation = decide(
        "grad_accumulation",
        max(1, _EFFECTIVE_BATCH // batch.value),
        f"{_EFFECTIVE_BATCH} rows a step",
    )
    until = decide("until_learned", False, "all epochs are trained", "default")
    epochs, why_epochs = _EPOCHS[size], why
    if until.value:
        a_step = batch.value * accumulation.value
        epochs, why_epochs = (
            most_epochs(new_rows, old_rows, a_step),
            "the most; it stops once all is learned",
        )
    length, why_length = _MAX_LENGTH[size], f"{why}; tokens"
    if old_length > length:
        length, why_length = old_length, "as long as an earlier session's"
    return Sizing(
        rank=rank,
        alpha=decide("alpha", 2 * rank.value, "twice the rank, so the scale is 2"),
        epochs=decide("epochs", epochs, why_epochs),
        batch_size=batch,
        grad_accumulation=accumulation,
        max_length=decide("max_length", length, why_length),
        learning_rate=decide(
            "learning_rate", learning_rate(hidden_size), f"5e-4·(2000/{hidden_size})^0.781"
        ),
        seed=decide("seed", 0, "the same number repeats the run", "default"),
        dropout=decide("dropout", 0.0, "off", "default"),
        rslora=decide("rslora", False, "scale = alpha / rank", "default"),
        lora_plus_ratio=decide("lora_plus_ratio", 1.0, "A and B learn alike", "default"),
        checkpoint_layers=decide("checkpoint_layers", 0, "everything fits"),
        loss_chunk=decide("loss_chunk", loss_chunk, "tokens whose logits are held at once"),
        wire_memory=decide("wire_memory", False, "off", "default"),
        validation=decide("validation", 0.0, "no rows held out", "default"),
        method=decide("method", "rehearsal", "old rows are trained again", "default"),
        replay=decide("replay", "auto", "every old row at least three times", "default"),
        guard=decide("guard", GUARD, "of an epoch, to keep general answers", "default"),
        until_learned=until,
        keep_data=decide("keep_data", True, "to be rehearsed later", "default"),
        gate_kept=decide("gate_kept", 0.95, "promote from here", "default"),
        gate_kept_least=decide("gate_kept_least", 0.85, "refuse below", "default"),
        gate_backward=decide("gate_backward", 2.0, "points; promote up to here", "default"),
        gate_backward_most=decide("gate_backward_most", 5.0, "points; refuse above", "default"),
        gate_general=decide("gate_general", 0.10, "nats; promote up to here", "default"),
        gate_general_most=decide("gate_general_most", 0.25, "nats; refuse above", "default"),
    )
