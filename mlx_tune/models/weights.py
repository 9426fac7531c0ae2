"""The weight files of a model folder: no header is believed before it was checked."""

from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage.session import quoted
from mlx_tune.lineage.strict_safetensors import Header, Tensor, read_header

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
