"""The state of a chat: which model answers, and what was said."""

import sys
from pathlib import Path

from mlx_tune.cli.console import say
from mlx_tune.errors import UsageError
from mlx_tune.inference import Conversation
from mlx_tune.store.session import Session
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.workspace import (
    FoldedModel,
    choose_base,
    find_session,
    load_folded,
    locate_base,
)


class Chat:
    """A conversation with a model of the lineage."""

    def __init__(
        self, store: Path, base: str | None, *, max_tokens: int, temperature: float
    ) -> None:
        self._store = SessionStore.open(store)
        self._info = locate_base(self._store, choose_base(self._store, base), say)
        self._conversation = Conversation(max_tokens=max_tokens, temperature=temperature)
        self._folded: FoldedModel | None = None

    @property
    def chain(self) -> tuple[Session, ...]:
        """The sessions folded into the model that answers."""
        return self._folded.chain if self._folded else ()

    @property
    def who(self) -> str:
        """Who answers, for a person."""
        names = " → ".join(session.name for session in self.chain)
        return f"{self._info.name} + {names}" if names else f"{self._info.name} (the bare base)"

    def switch(self, ref: str | None) -> None:
        """Let another session answer: a reference, ``base``, or None for HEAD."""
        session = find_session(self._store, ref)
        for note in self._store.notes:
            say(note)
        self._folded = None  # two models at once may not fit
        self._folded = load_folded(self._info, self._store.chain(session))

    def clear(self) -> None:
        """Forget the conversation."""
        self._conversation.clear()

    def answer(self, question: str) -> None:
        """Print the answer as it comes; Ctrl-C stops it.

        The text goes out as the model says it, with no wrapping of ours: a terminal that wraps by
        itself still knows that a URL over two lines is one.
        """
        if self._folded is None:  # the last switch failed midway
            raise UsageError("nobody answers; /base or /session N loads a model")
        pieces = self._conversation.ask(self._folded.model, self._folded.tokenizer, question)
        try:
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()
            sys.stdout.write(" …stopped")
        print()
