"""A session: one training on one data set, sealed under a name, a number and its parent's id."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlx_tune.errors import DamagedStoreError, DiskError, IncompatibleError, UsageError
from mlx_tune.files.records import from_json
from mlx_tune.files.sealed import MANIFEST, Sealed, entries, open_sealed
from mlx_tune.text import quoted

NAME_PATTERN = "[a-z0-9][a-z0-9-]{0,39}"
NAME_LENGTH = 40
SESSIONS = "sessions"
SESSION_FILE = "session.json"

Verdict = Literal["promote", "ask", "refuse"]
PROMOTE: Verdict = "promote"
ASK: Verdict = "ask"
REFUSE: Verdict = "refuse"
"""What the gate says of a session; kept in its record."""

SCHEMA = 1
_RESERVED = {"base": "base-data", "head": "head-data"}
_MEANS = {"base": "the bare base model", "head": "the session in use, on the server"}


@dataclass(frozen=True, kw_only=True)
class Session(Sealed):
    """A committed session. Its ``id`` covers every file, and through session.json its parent's id.

    Attributes:
        number: Its depth in the chain; a session on the bare base has 1.
        name: What the person calls it, within ``NAME_PATTERN``.
        parent: The parent's id, or None on the bare base.
        record: session.json, parsed.
    """

    number: int
    name: str
    parent: str | None
    record: Mapping[str, Any] = field(compare=False, repr=False)  # the id stands for it

    @property
    def folder_name(self) -> str:
        """What its folder is called, such as ``0003-dining-7f3a9c12``."""
        return folder_name(self.number, self.name, self.id)


def read_session(path: Path) -> Session:
    """Open a session's folder, checking its manifest, its listing, session.json and its name.

    The other files are checked as they are read, or all at once by ``verify``.

    Raises:
        DamagedStoreError: The folder is not what was committed.
        IncompatibleError: A newer version wrote it.
    """
    sealed = open_sealed(path)
    place = path / SESSION_FILE
    record = from_json(sealed.read(SESSION_FILE), place)
    _check_record(record, place)
    own = {key: record[key] for key in ("number", "name", "parent")}
    session = Session(**vars(sealed), **own, record=record)
    if path.name != session.folder_name:
        raise DamagedStoreError(
            f"{path}: its {MANIFEST} and {SESSION_FILE} belong to {session.folder_name}, so one of "
            "them or the folder's name was changed; run `mlx-tune doctor`"
        )
    return session


def scan_sessions(root: Path) -> tuple[dict[str, Session], dict[str, DamagedStoreError]]:
    """Read the manifest and the record of every session in a store.

    Returns:
        The sound ones by id, in order of number, then id; by folder name, what is wrong with the
        others.

    Raises:
        IncompatibleError: A newer version wrote one of them.
        DiskError: The folder cannot be read.
    """
    sound: list[Session] = []
    damaged: dict[str, DamagedStoreError] = {}
    for path in entries(root / SESSIONS):
        try:
            sound.append(read_session(path))
        except (DamagedStoreError, DiskError) as error:
            if not os.path.lexists(path):  # a collection moved it while it was read
                continue
            if isinstance(error, DiskError):
                raise
            damaged[path.name] = error
    sound.sort(key=lambda session: (session.number, session.id))
    return {session.id: session for session in sound}, damaged


def folder_name(number: int, name: str, identity: str) -> str:
    """Return what a session's folder is called: number, name, the id's first eight digits."""
    return f"{number:04d}-{name}-{identity[:8]}"


def check_name(name: str, what: str = "session name") -> None:
    """Accept a session's name, or a tag's, or say what is allowed.

    Lower case only: two names never differ in case alone, which a Mac's disk could not hold.

    Args:
        name: What a person gave.
        what: What to call it in the message.

    Raises:
        UsageError: The name, the allowed pattern and a name that would do.
    """
    if name in _RESERVED:
        raise UsageError(
            f"{what} {quoted(name)} is not allowed: it means {_MEANS[name]}; "
            f'try "{_RESERVED[name]}"'
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{what} {quoted(name)} is not allowed; a name matches {NAME_PATTERN}; "
            f'try "{slug(name)}"'
        )


def slug(text: str) -> str:
    """Return an allowed name made from any text: ``CS Notes (2)`` gives ``cs-notes-2``."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    name = words[:NAME_LENGTH].rstrip("-") or "session"
    return unreserved(name)


def unreserved(name: str) -> str:
    """Return an allowed name, and another for one that earlier versions allowed."""
    return _RESERVED.get(name, name)


def refuse_newer(record: Mapping[str, Any], newest: int, place: Path) -> None:
    """Refuse a record whose schema is newer than this version reads.

    Raises:
        IncompatibleError: It is.
    """
    schema = record.get("schema")
    if type(schema) is int and schema > newest:
        raise IncompatibleError(
            f"{place}: schema {schema} is newer than {newest}, which this version reads; "
            "upgrade mlx-tune"
        )


def _check_record(record: Mapping[str, Any], place: Path) -> None:
    refuse_newer(record, SCHEMA, place)
    number, parent = record.get("number"), record.get("parent")
    is_id = isinstance(parent, str) and re.fullmatch("[0-9a-f]{64}", parent) is not None
    sound = {
        "schema": record.get("schema") == SCHEMA,
        "number": type(number) is int and number >= 1,
        "name": bool(re.fullmatch(NAME_PATTERN, str(record.get("name")))),
        "parent": "parent" in record and (parent is None or is_id),
    }
    wrong = [f'"{key}"' for key, good in sound.items() if not good]
    if wrong:
        raise DamagedStoreError(
            f"{place}: {', '.join(wrong)} missing or malformed; run `mlx-tune doctor`"
        )
