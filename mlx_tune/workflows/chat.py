"""A conversation with a model of a store, of which any session may answer."""

from collections.abc import Generator
from pathlib import Path

from mlx_tune.errors import UsageError
from mlx_tune.inference import Conversation
from mlx_tune.models.bases import Say
from mlx_tune.store.session import Session
from mlx_tune.store.snapshot import read_snapshot
from mlx_tune.workflows.workspace import FoldedModel, find_session, load_folded, open_workspace


class Chat:
    """A conversation; what was said is kept when another session goes on answering.

    Args:
        root: The store's folder.
        base: The base model, when not the store's own.
        session: Who answers: a session, ``base``, or None for HEAD.
        max_tokens: The longest answer, in tokens.
        temperature: 0 takes the likeliest token each time.
        say: Told, in a line, what a person should know.

    Raises:
        UsageError: There is no such session.
        DamagedStoreError: A session of its chain is not what was committed.
        IncompatibleError: The base is not the one the store's sessions stand on.
    """

    def __init__(
        self,
        root: Path,
        base: str | None,
        *,
        session: str | None,
        max_tokens: int,
        temperature: float,
        say: Say,
    ) -> None:
        opened = open_workspace(root, session=session, base=base, say=say)
        self._root, self._say, self._info = root, say, opened.info
        self._conversation = Conversation(max_tokens=max_tokens, temperature=temperature)
        self._merged: FoldedModel | None = load_folded(opened.info, opened.chain)

    @property
    def chain(self) -> tuple[Session, ...]:
        """The sessions folded into the model that answers, root first."""
        return self._merged.chain if self._merged else ()

    @property
    def turns(self) -> list[dict[str, str]]:
        """What was said, as the messages of a chat template."""
        return list(self._conversation.turns)

    @property
    def answering(self) -> str:
        """Who answers, for a person."""
        names = " → ".join(session.name for session in self.chain)
        return f"{self._info.name} + {names}" if names else f"{self._info.name} (the bare base)"

    def switch(self, session: str | None) -> None:
        """Let another session answer; the store is read again, for it may have changed.

        Args:
            session: A session, ``base``, or None for HEAD.

        Raises:
            UsageError: There is no such session.
            DamagedStoreError: A session of its chain is not what was committed.
        """
        store = read_snapshot(self._root)
        found = find_session(store, session)
        for note in store.notes:
            self._say(note)
        self._merged = None  # two models at once may not fit
        self._merged = load_folded(self._info, store.chain(found))

    def clear(self) -> None:
        """Forget what was said."""
        self._conversation.clear()

    def stream(self, question: str) -> Generator[str, None, None]:
        """Yield the answer as it is generated; closing the iterator stops it.

        Raises:
            UsageError: No model is loaded, because the last switch failed, or the conversation
                fills the model's context.
        """
        if self._merged is None:
            raise UsageError("no model is loaded; /base or /session N loads one")
        return self._conversation.ask(self._merged.model, self._merged.tokenizer, question)

    def ask(self, question: str) -> str:
        """Return the whole answer to a question.

        Raises:
            UsageError: As for :meth:`stream`.
        """
        return "".join(self.stream(question))
