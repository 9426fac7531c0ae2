"""Everything about a training that a person may set: by flag, or by the same key in YAML.

This one dataclass owns the names, the help and the limits; flags, YAML keys and the reference
pages derive from it. A setting left out is decided in `sizing`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlx_tune.errors import InputError, MlxTuneError, UsageError


def _setting(
    help: str,  # noqa: A002 - the word typer uses
    *,
    low: float | None = None,
    high: float | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    metadata = {"help": help, "low": low, "high": high, "words": words}
    return dataclasses.field(default=None, metadata=metadata)


METHODS = (
    "rehearsal", "none", "seed", "self_distill", "orthogonal", "synthetic", "soup",
)  # fmt: skip
"""Ways to remember; `continual/methods` has one file for each."""

REPLAYS = ("auto", "all", "none")
"""How many old rows come along, in words; a share of them is the other way to say it."""

MOST_GUARD = 0.9
"""The largest share of an epoch that may be general questions."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be set; None everywhere means the rules decide."""

    base: str | None = _setting("Base model: a short name, a Hugging Face id or a folder.")
    name: str | None = _setting("Name of the session; default: the data file's.")
    rank: int | None = _setting("LoRA rank.", low=1, high=1024)
    alpha: float | None = _setting("LoRA alpha; scale = alpha / rank.", low=1e-6, high=1e6)
    epochs: int | None = _setting("Passes over the rows.", low=1, high=10_000)
    batch_size: int | None = _setting("Rows of a micro-batch.", low=1, high=4096)
    grad_accumulation: int | None = _setting("Micro-batches of a step.", low=1, high=4096)
    max_length: int | None = _setting("Longest row, in tokens.", low=8, high=1_000_000)
    learning_rate: float | None = _setting("Peak learning rate.", low=1e-9, high=1.0)
    seed: int | None = _setting(
        "Of the first values and of the order of rows.", low=0, high=2_000_000_000
    )
    dropout: float | None = _setting(
        "Share of the adapter's inputs set to zero in training.", low=0, high=0.9
    )
    rslora: bool | None = _setting("Scale by alpha / √rank instead of alpha / rank (rsLoRA).")
    lora_plus_ratio: float | None = _setting(
        "How many times faster B learns than A (LoRA+).", low=1, high=1000
    )
    dora: bool | None = _setting("Not offered; `--dora` says why.")
    checkpoint_layers: int | None = _setting(
        "Layers computed again in the backward pass, to save memory.", low=0, high=1000
    )
    loss_chunk: int | None = _setting("Tokens whose logits are held at once.", low=1, high=65536)
    wire_memory: bool | None = _setting("Keep a Mac from paging the training out (macOS 15).")
    validation: float | None = _setting(
        "Share of the rows held out to choose the best checkpoint.", low=0, high=0.9
    )
    method: str | None = _setting(
        "How earlier sessions are remembered: rehearsal, none, seed, self-distill, orthogonal, "
        "synthetic or soup.",
        words=METHODS,
    )
    replay: str | None = _setting(
        "Old rows in an epoch: auto, all, none, or a share of them such as 0.05.", words=REPLAYS
    )
    guard: float | None = _setting(
        "Share of an epoch that is general questions, answered as the base does.",
        low=0,
        high=MOST_GUARD,
    )
    until_learned: bool | None = _setting(
        "Train until every answer is known word for word; --epochs is then the most."
    )
    keep_data: bool | None = _setting(
        "Keep the rows in the session; without them it can be neither rehearsed nor scored."
    )
    gate_kept: float | None = _setting(
        "Promote if every session keeps this share of its recall.", low=0, high=1
    )
    gate_kept_least: float | None = _setting("Refuse below this share.", low=0, high=1)
    gate_backward: float | None = _setting(
        "Promote if mean recall of earlier sessions falls by at most this, in points.",
        low=0, high=100,
    )  # fmt: skip
    gate_backward_most: float | None = _setting("Refuse above this fall.", low=0, high=100)
    gate_general: float | None = _setting(
        "Promote if general answers cost at most this more, in nats per token.", low=0, high=100
    )
    gate_general_most: float | None = _setting("Refuse above this rise.", low=0, high=100)
    allow_long: bool | None = _setting("Train even if over 5 % of the tokens are in too long rows.")


_NO_DORA = (
    "DoRA scales whole weight columns, so its change is not a sum that a chain of sessions could "
    "add up exactly; leave it out, plain LoRA is used"
)

FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


@dataclass(frozen=True, kw_only=True)
class ExplicitValue:
    """A value somebody gave, and where."""

    value: Any
    source: str


def kind(name: str) -> type:
    """Return a setting's plain type: int, float, bool or str."""
    return {"int": int, "float": float, "bool": bool, "str": str}[
        str(FIELDS[name].type).split(" | ")[0]
    ]


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
    given: dict[str, ExplicitValue] = {}
    if config is not None:
        place, values = config
        given = {name: ExplicitValue(value=value, source=place) for name, value in values.items()}
        _check(given, InputError, place + ": {}")
    from_flags = {
        name: ExplicitValue(value=_word(name, value), source="--" + name.replace("_", "-"))
        for name, value in flags.items()
        if value is not None
    }
    _check(from_flags, UsageError, "--{}")
    return {**given, **from_flags}


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
    _refuse_twice(root, path)
    return {str(key): _plain(str(key), value) for key, value in parsed.items()}


def _refuse_twice(root: yaml.MappingNode, path: Path) -> None:
    """Refuse a setting that stands twice: YAML forbids it, but its reader takes the last."""
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


def _plain(name: str, value: Any) -> Any:
    """Read what YAML takes for one type and a person for another."""
    return _word(name, _number(name, value))


def _word(name: str, value: Any) -> Any:
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
        problem = _problem(name, entry.value)
        if problem:
            shown = name.replace("_", "-") if place.startswith("--") else name
            problems.append(place.format(f"{shown}{problem}"))
    if problems:
        raise error("\n".join(problems))


def _problem(name: str, value: Any) -> str | None:
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        fix = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(FIELDS)}"
        return f" is not a setting; {fix}"
    wanted = kind(name)
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (wanted is not bool and isinstance(value, bool)):
        return f": {_shown(value)}; expected {_words(wanted)}"
    if name == "dora" and value:
        return f": {_NO_DORA}"
    if words := FIELDS[name].metadata["words"]:
        return None if value in words or _is_share(name, value) else _not_a_word(value, words)
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


def _not_a_word(value: str, words: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value, words, n=1)
    fix = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(words)}"
    share = ", or a share such as 0.05" if words == REPLAYS else ""
    return f": {_shown(value)}; {fix}{share}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _words(wanted: type) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words[wanted]
