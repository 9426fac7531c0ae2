"""Which models a request can name, and which sessions each name means right now."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, MlxTuneError, UsageError
from mlx_tune.files.sealed import MANIFEST
from mlx_tune.serving.errors import ApiError
from mlx_tune.settings import typed
from mlx_tune.store import format as store_format
from mlx_tune.store import snapshot
from mlx_tune.store.labels import REMOVED, TAGS
from mlx_tune.store.session import SESSION_FILE, Session
from mlx_tune.store.snapshot import SESSIONS, StoreSnapshot

HEAD, BASE = "head", "base"


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model that a request can name.

    Attributes:
        name: As its model is listed: ``head``, ``base`` or a session's folder.
        chain: The sessions it is made of, root first.
        is_folded: Whether their change is in the weights; else it stands beside the base's.
        problem: Why it may not be on the disk any more; None where the store is as it was read.
    """

    name: str
    chain: tuple[Session, ...]
    is_folded: bool
    problem: str | None = None

    @property
    def key(self) -> tuple[bool, tuple[str, ...]]:
        """What makes two of them the same model."""
        return self.is_folded, tuple(session.id for session in self.chain)

    @property
    def root(self) -> str:
        """The session's folder, or ``base``."""
        return self.chain[-1].folder_name if self.chain else BASE


GONE = (
    "the store's folder is not there any more; this server goes on with the sessions that it has "
    "in memory until the folder is back"
)
KEPT = "this server goes on with the sessions that it has in memory"
Stamp = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """The store as it is served: when its files were changed, and why it is not the one there."""

    stamp: Stamp
    store: StoreSnapshot
    problem: str | None = None


class ModelRegistry:
    """The lineage as the API shows it, read again as soon as a file of it has changed.

    A model changes when HEAD is moved, and never because a folder was moved, deleted or put in
    another's place, or a disk unplugged: what is found then is not served, and said.

    Args:
        store_root: The store's folder.
        fingerprint: Of the base that all the models stand on.
    """

    def __init__(self, store_root: Path, *, fingerprint: str) -> None:
        self._root, self._fingerprint = store_root, fingerprint
        # One attribute, for threads share it.
        self._last: _Reading | None = None

    @property
    def problem(self) -> str | None:
        """Why the store that is there is not the one that is served; None where it is.

        Raises:
            MlxTuneError: As for :meth:`snapshot`.
        """
        return self._reading().problem

    @property
    def warning(self) -> str | None:
        """What a person should know of the store; None where all is well."""
        try:
            reading = self._reading()
            if reading.problem:
                return reading.problem
            error = str(reading.store.head_error or "")
            notes = [note for note in reading.store.notes if note not in error]
            return "; ".join([error, *notes] if error else notes) or None
        except MlxTuneError as failed:
            return str(failed)

    def get(self, name: str) -> RegisteredModel:
        """Return the model of a name: ``head``, ``base``, or any way to name a session.

        Raises:
            ApiError: There is none, 404.
            DamagedStoreError: The session, or one it stands on, is damaged.
        """
        reading = self._reading()
        return replace(_find(reading.store, name), problem=reading.problem)

    def all(self) -> list[RegisteredModel]:
        """Return every model there is: HEAD, all sessions whose chain is sound, and the base."""
        store = self.snapshot()
        newest_first = [one.folder_name for one in list(store.sessions.values())[::-1]]
        found = []
        for name in (HEAD, *newest_first, BASE):
            # A damaged one cannot answer; `verify` and the page show what is wrong.
            with contextlib.suppress(DamagedStoreError):
                found.append(_find(store, name))
        return found

    def snapshot(self) -> StoreSnapshot:
        """Return the store as it is, or as it was last where another is in its place.

        Raises:
            MlxTuneError: As for :func:`mlx_tune.store.snapshot.read_snapshot`.
        """
        return self._reading().store

    def _reading(self) -> _Reading:
        last, stamp = self._last, _stamp(self._root)
        if last is not None and last.stamp == stamp:
            return last
        store = snapshot.read_snapshot(self._root)
        if last is not None and (problem := self._problem(last.store, store)):
            return replace(last, problem=problem)  # and looked at again each time
        self._last = _Reading(stamp=stamp, store=store)
        return self._last

    def _problem(self, served: StoreSnapshot, found: StoreSnapshot) -> str | None:
        """Return why what is there now is not what is served, gone on with; None where it is."""
        if found.is_new and not served.is_new:
            return GONE
        base = found.base()
        if base and base["fingerprint"] != self._fingerprint:
            return (
                f"the store that is at {self._root} now stands on another base model, "
                f"{base['name']}; {KEPT}; put the old store back, or start the server again"
            )
        if _has_moved_on(served, found):
            return None
        head = served.sessions.get(served.head_id)
        return (
            f"{self._root}: HEAD's session {head.folder_name if head else BASE} is not in use or "
            f"not there any more, and no move of HEAD says why; {KEPT}; put it back, or choose "
            f"another with `{typed('rollback --to SESSION', self._root)}`, or start the server "
            "again"
        )


def _has_moved_on(served: StoreSnapshot, found: StoreSnapshot) -> bool:
    """Tell whether one snapshot came of the other: it holds the HEAD of before, or left it."""
    before = served.head_id
    if found.is_head_lost:  # nobody moved it, so it has to be where it was
        return found.head_id == before and found.holds(before)
    if found.holds(before):
        return True
    last = [move for move in found.moves if before in (move.old, move.new)][-1:]
    return bool(last) and last[0].old == before != found.head_id


def _find(store: StoreSnapshot, name: str) -> RegisteredModel:
    is_head = name.lower() == HEAD
    try:
        session = store.head() if is_head else store.find(name)
    except UsageError as error:
        raise ApiError(
            f"the model {name!r} does not exist; GET /v1/models lists those there are",
            status=404,
            code="model_not_found",
            param="model",
        ) from error
    plain = session.folder_name if session else BASE
    return RegisteredModel(
        name=HEAD if is_head else plain,
        chain=tuple(store.chain(session)),
        is_folded=session is not None and session.id == store.head_id,
    )


def _stamp(root: Path) -> Stamp:
    """Return when each file or list was changed that a snapshot reads."""
    sessions = root / SESSIONS
    read = ("", MANIFEST, SESSION_FILE)
    own = (store_format.FILE, snapshot.HEAD, TAGS, REMOVED, SESSIONS)
    places = [root / name for name in own]
    with contextlib.suppress(OSError):
        places += [entry / name for entry in sessions.iterdir() for name in read]
    return {str(place): _changed(place) for place in places}


def _changed(path: Path) -> tuple[int, int]:
    """Return when a file or a folder's list was changed, in ns; zeros where there is none.

    A copy that mends a file may carry the old time of its bytes, but never that of its entry.
    """
    try:
        status = path.stat()
        return status.st_mtime_ns, status.st_ctime_ns
    except OSError:
        return 0, 0
