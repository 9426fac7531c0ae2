"""The files of a model folder: read, checked before MLX loads them, and hashed to a fingerprint."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError, InputError
from mlx_tune.files.safetensors import Header, Tensor, read_header
from mlx_tune.text import quoted

WEIGHTS = "model*.safetensors"
"""The weight files that mlx-lm loads."""

FETCH_AGAIN = "fetch the folder again"

# Fields about where a file came from and how to sample; no logits depend on them.
_COSMETIC = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "do_sample",
        "dtype",
        "max_new_tokens",
        "quantization_config",  # mlx-lm writes it as a copy of `quantization`
        "temperature",
        "top_p",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)

# Fields about where a tokenizer was saved, and the template, which is hashed separately. The rest
# of tokenizer_config.json is hashed.
_TOKENIZER_COSMETIC = frozenset({"chat_template", "name_or_path", "tokenizer_file"})


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder; empty where there is no such file.

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
    """Return the ids of the tokens that end a turn, from generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return None


def read_template(folder: Path) -> str | None:
    """Return the chat template of a model folder, unchanged; None where it has none.

    Raises:
        InputError: The template is not a string, or its file cannot be read.
    """
    alone = folder / "chat_template.jinja"
    try:
        if alone.exists():
            return alone.read_text(encoding="utf-8")
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several, each with a name
            template = {item["name"]: item["template"] for item in template}.get("default")
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: its chat template cannot be read; fetch it again") from error
    if template is not None and not isinstance(template, str):
        raise InputError(f"{folder}: its chat template is no text; fetch it again")
    return template


def check_weights(folder: Path, *, fix: str = FETCH_AGAIN) -> dict[Path, Header]:
    """Return the headers of all weight files, after they were checked.

    Args:
        folder: A model folder with safetensors.
        fix: What to do about a damaged file, for messages.

    Raises:
        DamagedStoreError: A header breaks a rule of the format, there is no weight file, or two
            files have the same tensor, of which mlx-lm would take either.
    """
    headers = {path: read_header(path, fix=fix) for path in sorted(folder.glob(WEIGHTS))}
    if not headers:
        raise DamagedStoreError(f"{folder}: no {WEIGHTS}; {fix}")
    seen: dict[str, Path] = {}
    for path, header in headers.items():
        for name in header.tensors:
            if name in seen:
                raise DamagedStoreError(
                    f"{path}: tensor {quoted(name)} is in {seen[name].name} too; {fix}"
                )
            seen[name] = path
    return headers


def tensors(folder: Path, *, fix: str = FETCH_AGAIN) -> dict[str, tuple[Path, Tensor]]:
    """Return every tensor of a folder in the order of names, each with its file.

    Raises:
        DamagedStoreError: As of :func:`check_weights`.
    """
    found = {
        name: (path, tensor)
        for path, header in check_weights(folder, fix=fix).items()
        for name, tensor in header.tensors.items()
    }
    return dict(sorted(found.items()))


def fingerprint(folder: Path, *, template: str | None, fix: str = FETCH_AGAIN) -> str:
    """Return the sha256 (hex) of what a base model computes with.

    It covers the name, type, shape and bytes of each tensor, in the order of names; the files and
    settings of the tokenizer; the chat template and the end tokens in use; and the fields of the
    config that logits depend on.

    Args:
        folder: An MLX model folder with safetensors.
        template: The chat template with its date pinned; None where there is none.
        fix: What to do about a damaged weight file, for messages.

    Raises:
        DamagedStoreError: A weight file's header breaks a rule of the format.
    """
    digest = hashlib.sha256()
    for name, (path, tensor) in tensors(folder, fix=fix).items():
        about = [name, tensor.dtype, list(tensor.shape)]
        digest.update(json.dumps(about).encode() + b"\n")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
            memoryview(whole) as view,
            view[tensor.begin : tensor.end] as data,
        ):
            digest.update(data)
    for name in _TOKENIZER_FILES:
        if (folder / name).exists():
            digest.update(name.encode() + b"\n" + (folder / name).read_bytes())
    tokenizer = _without(read_json(folder / "tokenizer_config.json"), _TOKENIZER_COSMETIC)
    arithmetic = _without(read_config(folder), _COSMETIC)
    for part in (tokenizer, template, read_end_ids(folder), arithmetic):
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _without(values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
