"""Everything about a training that a person may set: by flag, or by the same key in YAML.

One table owns the names, the help, the limits and the fixed defaults; flags, YAML keys and the
reference pages derive from it. A setting without a fixed default is decided in `sizing`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from mlx_tune.errors import IncompatibleError, InputError, MlxTuneError, UsageError

METHODS = (
    "rehearsal", "none", "seed", "self_distill", "orthogonal", "synthetic", "soup",
)  # fmt: skip
"""Ways to remember earlier sessions; `continual/methods.py` says what each does."""

REPLAYS = ("auto", "all", "none")
"""How many old rows an epoch replays, in words; a share of them is the other way to say it."""

MAX_GENERAL_REPLAY = 0.9
"""The largest share of an epoch that may be general questions."""


DEFAULT_STORE = Path("adapters")
"""The folder of sessions unless a person names another; this one may be missing."""


def typed(words: str, store: Path) -> str:
    """Return a command as a person types it; the default store needs no option."""
    return f"mlx-tune {words}" + ("" if store == DEFAULT_STORE else f" --store {quote(str(store))}")


def _setting(
    help: str,  # noqa: A002 - the word typer uses
    low: float | None = None,
    high: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    default: Any = None,
    reason: str = "",
    optional: bool = False,
) -> Any:
    """Return a field of the table.

    Args:
        help: One line for a person.
        low: Least value allowed.
        high: Greatest value allowed.
        choices: The words allowed.
        default: Its value unless somebody sets it; None where `sizing` decides.
        reason: Why the default is that.
        optional: Not worth a line in a plan while it has its default.
    """
    return dataclasses.field(metadata=locals())  # the arguments, by their names


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """What is set for one command and leaves no trace in the sizing of a session."""

    base: str = _setting(
        "Base model: a short name, a hub id (owner/name[@revision]), a folder or a GGUF file."
    )
    name: str = _setting("Name of the session; default: the data file's.")
    allow_long: bool = _setting("Train even if over 5 % of the tokens are in too long rows.")
    replace: bool = _setting(
        "Let new rows replace earlier ones whose questions differ in case or marks alone."
    )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Why a setting has its value.

    Attributes:
        reason: One line for a person.
        source: A flag, a file's name, ``rule``, ``memory`` or ``default``.
    """

    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class ResolvedSetting(Origin):
    """A setting's value, and why it is that."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a training, all decided.

    Attributes:
        origins: Why each of the others has its value, by name.
    """

    # fmt: off
    rank: int = _setting("LoRA rank.", 1, 1024)
    alpha: float = _setting("LoRA alpha; scale = alpha / rank.", 1e-6, 1e6)
    epochs: int = _setting("Passes over the rows.", 1, 10_000)
    batch_size: int = _setting("Rows of a micro-batch.", 1, 4096)
    grad_accumulation: int = _setting("Micro-batches of a step.", 1, 4096)
    max_length: int = _setting("Longest row, in tokens.", 8, 1_000_000)
    learning_rate: float = _setting("Peak learning rate.", 1e-9, 1.0)
    decay_epochs: int = _setting(
        "Epochs in which the rate falls, the least of a training until learned; 0: all.",
        0, 10_000)
    seed: int = _setting(
        "Of the first values and of the order of rows.", 0, 2_000_000_000,
        default=0, reason="the same number repeats the run")
    dropout: float = _setting(
        "Share of the adapter's inputs set to zero in training.", 0, 0.9,
        default=0.0, reason="off", optional=True)
    rslora: bool = _setting(
        "Scale by alpha / √rank instead of alpha / rank (rsLoRA).",
        default=False, reason="scale = alpha / rank", optional=True)
    lora_plus_ratio: float = _setting(
        "How many times faster B learns than A (LoRA+).", 1, 1000,
        default=1.0, reason="A and B learn alike", optional=True)
    checkpoint_layers: int = _setting(
        "Layers computed again in the backward pass, to save memory.", 0, 1000)
    loss_chunk: int = _setting("Tokens whose logits are held at once.", 1, 65536)
    wire_memory: bool = _setting(
        "Keep a Mac from paging the training out (macOS 15).",
        default=False, reason="off", optional=True)
    validation: float = _setting(
        "Share of the rows held out to choose the best checkpoint.", 0, 0.9,
        default=0.0, reason="no rows held out", optional=True)
    method: str = _setting(
        "How earlier sessions are remembered: "
        f"{', '.join(METHODS[:-1]).replace('_', '-')} or {METHODS[-1]}.",
        choices=METHODS, default="rehearsal", reason="old rows are trained again")
    replay: str = _setting(
        "Old rows in an epoch: auto, all, none, or a share of them such as 0.05.",
        choices=REPLAYS, default="auto", reason="every old row at least three times")
    general_replay: float = _setting(
        "Share of an epoch that is general questions, answered as the base does.",
        0, MAX_GENERAL_REPLAY,
        default=0.3,  # docs/LOG.md has the shares that were tried
        reason="of an epoch, to keep general answers")
    general_weight: float = _setting(
        "Weight of a general answer's loss against a taught one's.", 0, 1000,
        default=4.0,  # docs/LOG.md has the weights that were tried
        reason="four times that of a taught answer", optional=True)
    question_noise: int = _setting(
        "Noised versions of each question, trained in turn with it; 0 for none.", 0, 64,
        default=8, reason="trained in turn with the question", optional=True)
    until_learned: bool = _setting(
        "Train until every answer is known word for word; --epochs is then the most.",
        default=False, reason="all epochs are trained")
    keep_data: bool = _setting(
        "Keep the rows in the session; without them it can be neither rehearsed nor scored.",
        default=True, reason="to be rehearsed later", optional=True)
    gate_kept: float = _setting(
        "Promote if every session keeps this share of its recall.", 0, 1,
        default=0.95, reason="promote from here", optional=True)
    gate_kept_least: float = _setting(
        "Refuse below this share.", 0, 1, default=0.85, reason="refuse below", optional=True)
    gate_backward: float = _setting(
        "Promote if mean recall of earlier sessions falls by at most this, in points.", 0, 100,
        default=2.0, reason="points; promote up to here", optional=True)
    gate_backward_most: float = _setting(
        "Refuse above this fall.", 0, 100,
        default=5.0, reason="points; refuse above", optional=True)
    gate_general: float = _setting(
        "Promote if general answers cost at most this more, in nats per token.", 0, 100,
        default=0.10, reason="nats; promote up to here", optional=True)
    gate_general_most: float = _setting(
        "Refuse above this rise.", 0, 100,
        default=0.25, reason="nats; refuse above", optional=True)
    # fmt: on
    origins: Mapping[str, Origin] = dataclasses.field(compare=False, repr=False)

    @property
    def scale(self) -> float:
        """Multiplier of the low-rank product.

        Source:
            alpha / √rank: Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).
        """
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def items(self) -> list[tuple[str, ResolvedSetting]]:
        """Return the settings in the order a person reads them."""
        return [
            (name, ResolvedSetting(value=getattr(self, name), **vars(self.origins[name])))
            for name in TRAINING_FIELDS
        ]

    def changed(self, values: Mapping[str, Any], *, reason: str, source: str) -> "TrainingSettings":
        """Return the settings with other values, all for one reason."""
        origin = Origin(reason=reason, source=source)
        return replace(self, **values, origins={**self.origins, **dict.fromkeys(values, origin)})

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return what a session's record keeps."""
        return {
            name: {"value": getattr(self, name), **vars(self.origins[name])}
            for name in TRAINING_FIELDS
        }

    @staticmethod
    def from_json(record: Mapping[str, Mapping[str, Any]]) -> "TrainingSettings":
        """Return the settings a record keeps; the inverse of :meth:`to_json`.

        Raises:
            IncompatibleError: Another version, with other settings, wrote it.
        """
        found = recorded_settings(record)
        if sorted(TRAINING_FIELDS) != sorted(found):
            odd = ", ".join(sorted({*TRAINING_FIELDS} ^ {*found}))
            raise IncompatibleError(
                f"another version of mlx-tune decided these settings ({odd}); train again"
            )
        return TrainingSettings(
            **{name: one["value"] for name, one in found.items()},
            origins={
                name: Origin(reason=one["reason"], source=one["source"])
                for name, one in found.items()
            },
        )


TRAINING_FIELDS = {
    field.name: field for field in dataclasses.fields(TrainingSettings) if field.name != "origins"
}
FIELDS = {
    **{field.name: field for field in dataclasses.fields(RequestSettings)},
    **TRAINING_FIELDS,
}
"""Everything that may be set, by name."""

RENAMED = {"guard": "general_replay"}
"""What settings were called in earlier versions."""

ADDED = {"decay_epochs": 0, "general_weight": 10.0, "question_noise": 0}
"""Settings that earlier versions did not have, each with the value that does what they did."""

REMOVED = {
    "dora": (
        "DoRA scales whole weight columns, so its change is not a sum that a chain of sessions "
        "could add up exactly; leave it out, plain LoRA is used"
    )
}
"""Settings that are not offered, with the reason."""


@dataclass(frozen=True, kw_only=True)
class ExplicitValue:
    """A value somebody gave, and where."""

    value: Any
    source: str


def kind(name: str) -> type:
    """Return a setting's plain type: int, float, bool or str."""
    found = FIELDS[name].type
    assert isinstance(found, type)
    return found


def default(name: str) -> Any:
    """Return the fixed default of a setting, None where `sizing` decides it."""
    return FIELDS[name].metadata["default"]


def recorded_settings(record: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of a session's or a run's record by the names they have today."""
    if not record:  # the base's, which nobody trained
        return {}
    before = {
        name: {"value": value, "reason": "as earlier versions did", "source": "default"}
        for name, value in ADDED.items()
    }
    return before | {RENAMED.get(name, name): chosen for name, chosen in record.items()}


def merge_settings(
    flags: Mapping[str, Any], config: tuple[str, Mapping[str, Any]] | None = None
) -> dict[str, ExplicitValue]:
    """Put flags over a config file, each value with where it came from.

    Args:
        flags: By setting's name; None where a flag was not given.
        config: The file's name and its parsed keys.

    Raises:
        UsageError: A flag is out of its limits.
        InputError: The config has an unknown key or a value that does not fit.
    """
    from_config: dict[str, ExplicitValue] = {}
    if config is not None:
        place, values = config
        from_config = {
            name: ExplicitValue(value=value, source=place) for name, value in values.items()
        }
        _check(from_config, InputError, place + ": {}")
    from_flags = {
        name: ExplicitValue(value=_spelled(name, value), source="--" + name.replace("_", "-"))
        for name, value in flags.items()
        if value is not None
    }
    _check(from_flags, UsageError, "--{}")
    return {**from_config, **from_flags}


def read_config(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file.

    Raises:
        InputError: It is missing, does not parse, is no mapping, or sets something twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        parsed = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name a YAML file") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise InputError(f"{place}: {getattr(error, 'problem', error)}; expected YAML") from error
    if parsed is None:
        return {}
    if not isinstance(parsed, dict) or not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: expected `setting: value` lines")
    _refuse_duplicates(root, path)
    return {str(key): _spelled(str(key), _number(str(key), value)) for key, value in parsed.items()}


def _refuse_duplicates(root: yaml.MappingNode, path: Path) -> None:
    """Refuse a duplicate key: YAML forbids it, but its reader takes the last."""
    lines: dict[str, int] = {}
    for key, _ in root.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            raise InputError(f"{path}:{line}: {name} is set in line {lines[name]} too; keep one")
        lines[name] = line


def replay_share(value: str) -> float | None:
    """Return the share of old rows that a ``replay`` stands for; None for one in words.

    Raises:
        ValueError: It is neither a word nor a number.
    """
    return None if value in REPLAYS else float(value)


def _spelled(name: str, value: Any) -> Any:
    """Read a number where a word or a share is meant, and a word's hyphens as it is listed."""
    if name == "replay" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    return value.replace("-", "_") if name == "method" and isinstance(value, str) else value


def _number(name: str, value: Any) -> Any:
    """Read a number that YAML takes for a text: ``1e-4`` has no dot."""
    if name in FIELDS and kind(name) is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check(given: Mapping[str, ExplicitValue], error: type[MlxTuneError], place: str) -> None:
    """Report every value that does not fit, all at once."""
    problems = []
    for name, entry in given.items():
        if problem := _problem(name, entry.value):
            shown = name.replace("_", "-") if place.startswith("--") else name
            problems.append(place.format(f"{shown}{problem}"))
    if problems:
        raise error("\n".join(problems))


def _problem(name: str, value: Any) -> str | None:
    if name in RENAMED:
        return f" is now {RENAMED[name]}"
    if name in REMOVED:
        return f": {REMOVED[name]}"
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        fix = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(FIELDS)}"
        return f" is not a setting; {fix}"
    wanted = kind(name)
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (wanted is not bool and isinstance(value, bool)):
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        return f": {_shown(value)}; expected {expected[wanted]}"
    if choices := FIELDS[name].metadata["choices"]:
        return None if value in choices or _is_share(name, value) else _no_choice(value, choices)
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    # `not <=` so that NaN is outside.
    if low is not None and not low <= value <= high:
        return f": {_shown(value)}; expected {low:g} to {high:g}"
    return None


def _is_share(name: str, value: str) -> bool:
    if name != "replay":
        return False
    try:
        return 0 < (replay_share(value) or 0) <= 1
    except ValueError:
        return False


def _no_choice(value: str, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value, choices, n=1)
    fix = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(choices)}"
    share = ", or a share such as 0.05" if choices == REPLAYS else ""
    return f": {_shown(value)}; {fix}{share}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
