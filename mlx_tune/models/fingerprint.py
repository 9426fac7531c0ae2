"""The fingerprint that names a base model for ever, whatever folder or shards it lies in."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tune.errors import InputError

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
)


def fingerprint(folder: Path, *, template: str | None) -> str:
    """Return the sha256 (hex) of what a base model computes with.

    Covered: each tensor's name, type, shape and bytes, in name order; the tokenizer's files; the
    chat template in effect; the fields of the config that change the arithmetic.

    Args:
        folder: An MLX model folder with safetensors.
        template: The chat template, its date pinned.

    Raises:
        InputError: A weight file's header cannot be read.
    """
    digest = hashlib.sha256()
    for name, kind, shape, data in _tensors(folder):
        digest.update(json.dumps([name, kind, shape]).encode() + b"\n")
        digest.update(data)
    for name in _TOKENIZER_FILES:
        if (folder / name).exists():
            digest.update(name.encode() + b"\n" + (folder / name).read_bytes())
    digest.update(json.dumps(template).encode() + b"\n")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arithmetic = {key: value for key, value in config.items() if key not in _COSMETIC}
    digest.update(json.dumps(arithmetic, sort_keys=True).encode())
    return digest.hexdigest()


def header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header; offsets count from the end of the header.

    Raises:
        InputError: The file does not begin with one.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            if size > 100_000_000:
                raise ValueError("its header claims over 100 MB")
            parsed = json.loads(file.read(size))
        except ValueError as error:
            raise InputError(f"{path}: not a safetensors file ({error}); fetch it again") from error
    return {"offset": 8 + size, **parsed}


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int], memoryview]]:
    """Yield every tensor of a folder's shards in name order, its bytes as a view of the file."""
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        entries = header(path)
        start = entries.pop("offset")
        entries.pop("__metadata__", None)
        places.update({name: (path, start, entry) for name, entry in entries.items()})
    for name, (path, start, entry) in sorted(places.items()):
        begin, end = entry["data_offsets"]
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
            memoryview(whole) as view,
            view[start + begin : start + end] as data,
        ):
            yield name, entry["dtype"], entry["shape"], data
