"""Which models a request can name, and which sessions each name means right now."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, MlxTuneError, UsageError
from mlx_tune.files.sealed import MANIFEST
from mlx_tune.serving.errors import ApiError
from mlx_tune.store import snapshot
from mlx_tune.store.labels import TAGS
from mlx_tune.store.session import SESSION_FILE, Session
from mlx_tune.store.snapshot import SESSIONS

HEAD, BASE = "head", "base"


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model that a request can name.

    Attributes:
        name: As its model is listed: ``head``, ``base`` or a session's folder.
        chain: The sessions it is made of, root first.
        is_folded: Whether their change is in the weights; else it stands beside the base's.
    """

    name: str
    chain: tuple[Session, ...]
    is_folded: bool

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


class ModelRegistry:
    """The lineage as the API shows it, read again as soon as a file of it has changed.

    A store that goes away stays as it was read last: a model becomes the base when HEAD is moved
    there, and never because a folder was moved or a disk unplugged.
    """

    def __init__(self, store_root: Path) -> None:
        self._root = store_root
        # One attribute, for threads share it: when each file was changed, and the store then.
        self._read: tuple[dict[str, int], snapshot.StoreSnapshot] | None = None
        self._is_gone = False

    @property
    def warning(self) -> str | None:
        """What a person should know of the store; None where all is well."""
        with contextlib.suppress(MlxTuneError):  # a request will tell
            self.snapshot()
        return GONE if self._is_gone else None

    def get(self, name: str) -> RegisteredModel:
        """Return the model of a name: ``head``, ``base``, or any way to name a session.

        Raises:
            ApiError: There is none, 404.
            DamagedStoreError: The session, or one it stands on, is damaged.
        """
        store = self.snapshot()
        return _find(store, name, head=store.head())

    def all(self) -> list[RegisteredModel]:
        """Return every model there is: HEAD, all sessions whose chain is sound, and the base."""
        store = self.snapshot()
        head = store.head()
        newest_first = [one.folder_name for one in list(store.sessions.values())[::-1]]
        found = []
        for name in (HEAD, *newest_first, BASE):
            # A damaged one cannot answer; `verify` and the page show what is wrong.
            with contextlib.suppress(DamagedStoreError):
                found.append(_find(store, name, head=head))
        return found

    def snapshot(self) -> snapshot.StoreSnapshot:
        """Return the store as it is, or as it was last where it has gone away.

        Raises:
            DamagedStoreError: HEAD stands on what is damaged.
        """
        stamp = _stamp(self._root)
        if self._read is not None and self._read[0] == stamp:
            self._is_gone = False
            return self._read[1]
        store = snapshot.read_snapshot(self._root)
        self._is_gone = store.is_new and self._read is not None and not self._read[1].is_new
        if self._is_gone and self._read is not None:
            return self._read[1]
        store.head()  # a damaged one is an error each time, and read again until it is repaired
        self._read = stamp, store
        return store


def _find(store: snapshot.StoreSnapshot, name: str, *, head: Session | None) -> RegisteredModel:
    is_head = name.lower() == HEAD
    try:
        session = head if is_head else store.find(name)
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
        is_folded=session is not None and session == head,
    )


def _stamp(root: Path) -> dict[str, int]:
    """Return when each file or list was changed that a snapshot reads, in ns."""
    sessions = root / SESSIONS
    read = ("", MANIFEST, SESSION_FILE)
    places = [root / snapshot.HEAD, root / TAGS, sessions]
    with contextlib.suppress(OSError):
        places += [entry / name for entry in sessions.iterdir() for name in read]
    return {str(place): _changed(place) for place in places}


def _changed(path: Path) -> int:
    """Return when a file or a folder's list was changed; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
