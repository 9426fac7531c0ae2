"""HEAD: which session is in use, the log of its moves, and two links for the eye.

HEAD holds a session's id or ``base``. It is replaced before the move is logged: a log that lacks
the last move is a gap that the next line's old id shows, a logged move that never happened a lie.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.lineage.atomic import append_line, create_file, one_line, replace_file
from mlx_tune.lineage.sealed import read_regular

BASE = "base"
HEAD = "HEAD"
LOG = "HEAD.log"
_WORD = "(base|[0-9a-f]{64})"
_MOST_BYTES = 65  # an id and its line break
_MOVE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ) {_WORD} {_WORD} (.*)")


@dataclass(frozen=True, kw_only=True)
class Move:
    """One line of HEAD.log.

    Attributes:
        time: UTC, ISO 8601, whole seconds.
        old: Where HEAD stood: a session's id or ``base``.
        new: Where it went.
        why: In the person's or the command's words.
    """

    time: str
    old: str
    new: str
    why: str


def exists(root: Path) -> bool:
    """Say whether anything at all is called HEAD."""
    return os.path.lexists(root / HEAD)


def read(root: Path) -> str | None:
    """Return the session's id or ``base``, or None when HEAD is missing or garbage.

    Raises:
        DiskError: It is there and cannot be read; that is no reason to guess.
    """
    text = _text(root / HEAD, most_bytes=_MOST_BYTES)
    return text.removesuffix("\n") if re.fullmatch(f"{_WORD}\n?", text) else None


def write(root: Path, word: str) -> None:
    """Let HEAD hold a session's id or ``base``.

    Raises:
        DiskError: The disk is full, read-only or failing; HEAD is as it was.
    """
    replace_file(root / HEAD, f"{word}\n".encode())


def start(root: Path) -> None:
    """Let HEAD hold ``base`` in a new store; one that is there by now stays as it is.

    Raises:
        DiskError: The disk is full, read-only or failing.
    """
    create_file(root / HEAD, f"{BASE}\n".encode())


def moves(root: Path) -> list[Move]:
    """Return HEAD's moves, oldest first; lines that a power cut left torn are left out."""
    matches = map(_MOVE.fullmatch, _lines(root))
    return [Move(time=m[1], old=m[2], new=m[3], why=m[4]) for m in matches if m]


def torn_lines(root: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of HEAD.log that hold no move."""
    lines = enumerate(_lines(root), start=1)
    return [number for number, line in lines if line and not _MOVE.fullmatch(line)]


def log(root: Path, *, old: str, new: str, why: str) -> None:
    """Append a move that was made.

    Raises:
        DiskError: The line could not be written; HEAD stands where it was moved to.
    """
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    safe = f"HEAD did move to {new[:12]}, only this line is missing"
    append_line(root / LOG, f"{time} {old} {new} {one_line(why)}", safe=safe)


def link(root: Path, name: str, folder_name: str | None) -> None:
    """Let a symlink show a session's folder, or remove it; where links fail there is none."""
    path = root / name
    draft = root / f".{name}.{secrets.token_hex(8)}"
    with suppress(OSError):
        if folder_name is None:
            if path.is_symlink():
                path.unlink()
            return
        draft.symlink_to(Path("sessions") / folder_name, target_is_directory=True)
        draft.replace(path)
    with suppress(OSError):
        draft.unlink(missing_ok=True)


def _lines(root: Path) -> list[str]:
    return _text(root / LOG).split("\n")


def _text(path: Path, *, most_bytes: int | None = None) -> str:
    """Return a file's text, or nothing where no regular file of that size is."""
    try:
        return read_regular(path, most_bytes=most_bytes).decode("utf-8", errors="replace")
    except DamagedStoreError:
        return ""
