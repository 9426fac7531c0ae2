"""Examines the machine and a store."""

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx

from mlx_tune import blas
from mlx_tune.errors import MlxTuneError
from mlx_tune.models import bases, cache, runtime
from mlx_tune.store.snapshot import read_store
from mlx_tune.store.verify import verify
from mlx_tune.workflows import fitting

_ROOM_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the examination.

    Attributes:
        about: What was looked at.
        text: What was found, with the fix where one is needed.
        good: Nothing to do.
        error: Why the store cannot be used, None otherwise.
    """

    about: str
    text: str
    good: bool = True
    error: MlxTuneError | None = None


def examine(store_root: Path) -> list[Finding]:
    """Look at everything that commonly goes wrong; nothing is changed."""
    return [
        Finding(about="python", text=f"{platform.python_version()} on {platform.platform()}"),
        Finding(about="mlx", text=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"),
        _device(),
        *_blas(),
        *_compiler(),
        *_rival(),
        _disk(store_root),
        *_bases(),
        *_store(store_root),
    ]


def _device() -> Finding:
    memory = runtime.memory_bytes() / 1e9
    kind = "GPU" if runtime.on_gpu() else "CPU, computing in float32"
    name = mx.device_info().get("device_name", "") if runtime.on_gpu() else ""
    return Finding(
        about="device",
        text=f"{kind} {name}".strip()
        + f", {memory:.1f} GB; default base model {runtime.default_base()}",
    )


def _blas() -> list[Finding]:
    if not sys.platform.startswith("linux"):
        return []
    advice = blas.advice()
    return [Finding(about="blas", text=advice or f"{blas.loaded}", good=advice is None)]


def _compiler() -> list[Finding]:
    """Look for what MLX's CPU backend compiles with; without it every operation runs alone."""
    if runtime.on_gpu():
        return []
    if shutil.which("g++"):
        return [Finding(about="compiler", text="g++; the first training waits for it, once")]
    advice = "no g++, so MLX compiles nothing and trains slower; `sudo apt-get install g++`"
    return [Finding(about="compiler", text=advice, good=False)]


def _rival() -> list[Finding]:
    """Look for the other project whose package has the same import name."""
    try:
        found = version("mlx-tune")
    except PackageNotFoundError:
        return []
    return [
        Finding(
            about="package",
            text=f"another project's `mlx-tune` {found} is installed and shares the import name; "
            "`pip uninstall mlx-tune`, then install mlx-tune-continual again",
            good=False,
        )
    ]


def _disk(store_root: Path) -> Finding:
    place, free = fitting.nearest_folder(store_root), fitting.free_bytes(store_root)
    return Finding(
        about="disk",
        text=f"{free / 1e9:.1f} GB free at {place}"
        + ("" if free > _ROOM_BYTES else "; a run may need more, make room"),
        good=free > _ROOM_BYTES,
    )


def _bases() -> list[Finding]:
    from mlx_tune.models.catalogue import KNOWN

    here = [name for name in KNOWN if bases.is_here(name)]
    return [
        Finding(
            about="bases",
            text=f"{', '.join(here) or 'none fetched yet'} in {cache.cache_dir()}",
        )
    ]


def _store(store_root: Path) -> list[Finding]:
    """Check every byte of every session, and that HEAD's chain is whole."""
    try:
        store = read_store(store_root)
        found = verify(store)
        notes = [Finding(about="store", text=note, good=False) for note in found.notes]
        if found.error is not None:
            # Each line says what is wrong; one of them is enough to end with.
            first, *rest = found.problems
            worst = Finding(about="store", text=first, good=False, error=found.error)
            return [*notes, worst, *(Finding(about="store", text=p, good=False) for p in rest)]
        where = " → ".join(session.name for session in store.chain(store.head())) or "the base"
    except MlxTuneError as error:
        return [Finding(about="store", text=str(error), good=False, error=error)]
    whole = f"{store_root}: {found.sessions} sessions whole, HEAD {where}"
    return [*notes, Finding(about="store", text=whole)]
