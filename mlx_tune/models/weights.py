"""A base's weight files: checked before MLX reads them, and hashed to its fingerprint."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tune.errors import DamagedStoreError
from mlx_tune.files.safetensors import Header, Tensor, read_header
from mlx_tune.models import cache
from mlx_tune.text import quoted

PATTERN = "model*.safetensors"  # the files that mlx-lm loads
FETCH_AGAIN = "fetch the folder again"


def check(folder: Path, *, fix: str = FETCH_AGAIN) -> dict[Path, Header]:
    """Return the header of every weight file, each sound and no tensor in two of them.

    Args:
        folder: A model folder with safetensors.
        fix: What the person should do about a damaged one.

    Raises:
        DamagedStoreError: A header breaks a rule of the format, there is no weight file, or two
            hold one tensor, of which mlx-lm would take either.
    """
    headers = {path: read_header(path, fix=fix) for path in sorted(folder.glob(PATTERN))}
    if not headers:
        raise DamagedStoreError(f"{folder}: no {PATTERN}; {fix}")
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
    """Return every tensor of a folder in order of name, and the file that holds it.

    Raises:
        DamagedStoreError: As for :func:`check`.
    """
    found = {
        name: (path, tensor)
        for path, header in check(folder, fix=fix).items()
        for name, tensor in header.tensors.items()
    }
    return dict(sorted(found.items()))


# Fields that say where a file came from or how to sample, and change no product of matrices.
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
# Where it was saved and what is hashed apart; the rest of tokenizer_config.json counts.
_TOKENIZER_COSMETIC = frozenset({"chat_template", "name_or_path", "tokenizer_file"})


def fingerprint(folder: Path, *, template: str | None, fix: str = FETCH_AGAIN) -> str:
    """Return the sha256 (hex) of what a base model computes with.

    Covered: each tensor's name, type, shape and bytes, in name order; the tokenizer's files and
    settings; the chat template and the end tokens in effect; the fields of the config that change
    the arithmetic.

    Args:
        folder: An MLX model folder with safetensors.
        template: The chat template, its date pinned.
        fix: What the person should do about a damaged weight file.

    Raises:
        DamagedStoreError: A weight file's header breaks a rule of the format.
    """
    digest = hashlib.sha256()
    for name, kind, shape, data in _tensors(folder, fix):
        digest.update(json.dumps([name, kind, shape]).encode() + b"\n")
        digest.update(data)
    for name in _TOKENIZER_FILES:
        if (folder / name).exists():
            digest.update(name.encode() + b"\n" + (folder / name).read_bytes())
    tokenizer = _without(cache.read_json(folder / "tokenizer_config.json"), _TOKENIZER_COSMETIC)
    arithmetic = _without(cache.read_config(folder), _COSMETIC)
    for part in (tokenizer, template, cache.read_end_ids(folder), arithmetic):
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _without(values: dict[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in left_out}


def _tensors(folder: Path, fix: str) -> Iterator[tuple[str, str, list[int], memoryview]]:
    """Yield every tensor of a folder's shards in name order, its bytes as a view of the file."""
    for name, (path, tensor) in tensors(folder, fix=fix).items():
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
            memoryview(whole) as view,
            view[tensor.begin : tensor.end] as data,
        ):
            yield name, tensor.dtype, list(tensor.shape), data
