"""Which models can be named, and what each name stands for right now."""

from dataclasses import dataclass
from pathlib import Path

from mlx_tune.errors import MlxTuneError, UsageError
from mlx_tune.lineage.session import Session
from mlx_tune.lineage.store import Store

HEAD, BASE = "head", "base"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model to be asked.

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
        """What makes two choices the same model."""
        return self.is_folded, tuple(session.id for session in self.chain)

    @property
    def root(self) -> str:
        """The session's folder, or ``base``."""
        return self.chain[-1].folder_name if self.chain else BASE


class UnknownModelError(UsageError):
    """A request names a model that is not there."""


class Shelf:
    """The lineage as the API shows it. Files are read at each call: HEAD may have moved."""

    def __init__(self, store_root: Path) -> None:
        self._root = store_root

    def choose(self, name: str) -> Choice:
        """Return what a name stands for: ``head``, ``base``, or any way to say a session.

        Raises:
            UnknownModelError: It stands for none.
            DamagedStoreError: The session, or one it stands on, is damaged.
        """
        store = Store.open(self._root)
        head = store.head()
        if name.lower() == HEAD:
            return self._choice(HEAD, store, head, head)
        try:
            session = store.find(name)
        except UsageError as error:
            raise UnknownModelError(
                f"the model {name!r} does not exist; GET /v1/models lists those there are"
            ) from error
        return self._choice(session.folder_name if session else BASE, store, session, head)

    def choices(self) -> list[Choice]:
        """Return every model there is: HEAD, the base, and all sessions whose chain is sound."""
        store = Store.open(self._root)
        found = []
        for name in (HEAD, *(session.folder_name for session in reversed(store.sessions())), BASE):
            try:
                found.append(self.choose(name))
            except MlxTuneError:
                continue  # a damaged one cannot answer; `verify` and the page say what is wrong
        return found

    def _choice(
        self, name: str, store: Store, session: Session | None, head: Session | None
    ) -> Choice:
        return Choice(
            name=name,
            chain=tuple(store.chain(session)),
            is_folded=session is not None and session == head,
        )
