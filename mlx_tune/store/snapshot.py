"""What a store holds at one moment: its sessions, HEAD, and the log of HEAD's moves.

HEAD holds a session's id or ``base``. It is replaced before the move is logged: a log that lacks
the last move is a gap that the next line's old id shows, a logged move that never happened a lie.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlx_tune.errors import DamagedStoreError, DiskError, UsageError
from mlx_tune.files.durable import append_line, create_file, replace_file
from mlx_tune.files.sealed import entries, read_regular
from mlx_tune.store import labels
from mlx_tune.store.session import Session, read_session
from mlx_tune.text import one_line, quoted

BASE = "base"
HEAD = "HEAD"
HEAD_LOG = "HEAD.log"
_REF = "(base|[0-9a-f]{64})"
_MOST_BYTES = 65  # an id and its line break
_MOVE = re.compile(rf"(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ) {_REF} {_REF} (.*)")


@dataclass(frozen=True, kw_only=True)
class HeadMove:
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


def head_exists(root: Path) -> bool:
    """Say whether anything at all is called HEAD."""
    return os.path.lexists(root / HEAD)


def read_head(root: Path) -> str | None:
    """Return the session's id or ``base``, or None when HEAD is missing or garbage.

    Raises:
        DiskError: It is there and cannot be read; that is no reason to guess.
    """
    text = _read_text(root / HEAD, most_bytes=_MOST_BYTES)
    return text.removesuffix("\n") if re.fullmatch(f"{_REF}\n?", text) else None


def write_head(root: Path, word: str) -> None:
    """Let HEAD hold a session's id or ``base``.

    Raises:
        DiskError: The disk is full, read-only or failing; HEAD is as it was.
    """
    replace_file(root / HEAD, f"{word}\n".encode())


def start_head(root: Path) -> None:
    """Let HEAD hold ``base`` in a new store; one that is there by now stays as it is.

    Raises:
        DiskError: The disk is full, read-only or failing.
    """
    create_file(root / HEAD, f"{BASE}\n".encode())


def head_moves(root: Path) -> list[HeadMove]:
    """Return HEAD's moves, oldest first; lines that a power cut left torn are left out."""
    matches = map(_MOVE.fullmatch, _log_lines(root))
    return [HeadMove(time=m[1], old=m[2], new=m[3], why=m[4]) for m in matches if m]


def torn_log_lines(root: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of HEAD.log that hold no move."""
    lines = enumerate(_log_lines(root), start=1)
    return [number for number, line in lines if line and not _MOVE.fullmatch(line)]


def log_move(root: Path, *, old: str, new: str, why: str) -> None:
    """Append a move that was made.

    Raises:
        DiskError: The line could not be written; HEAD stands where it was moved to.
    """
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    safe = f"HEAD did move to {new[:12]}, only this line is missing"
    append_line(root / HEAD_LOG, f"{time} {old} {new} {one_line(why)}", safe=safe)


def link_session(root: Path, name: str, folder_name: str | None) -> None:
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


def _log_lines(root: Path) -> list[str]:
    return _read_text(root / HEAD_LOG).split("\n")


def _read_text(path: Path, *, most_bytes: int | None = None) -> str:
    """Return a file's text, or nothing where no regular file of that size is."""
    try:
        return read_regular(path, most_bytes=most_bytes).decode("utf-8", errors="replace")
    except DamagedStoreError:
        return ""


SESSIONS = "sessions"
SHOWN = 10  # a line that lists sessions names at most so many


@dataclass(frozen=True, kw_only=True)
class StoreSnapshot:
    """Every session there is.

    Attributes:
        sound: By id, in order of number, then id.
        damaged: Why, by the folder's name, which ends with eight digits of the id.
    """

    sound: Mapping[str, Session]
    damaged: Mapping[str, DamagedStoreError]

    def holds(self, word: str) -> bool:
        """Say whether an id, or ``base``, names something here, be it damaged."""
        return word == BASE or word in self.sound or self._damage(word) is not None

    def session(self, word: str) -> Session | None:
        """Return the session of an id that the shelf holds, or None for ``base``.

        Raises:
            DamagedStoreError: It is damaged.
        """
        if word == BASE:
            return None
        if word not in self.sound and (error := self._damage(word)):
            raise error
        return self.sound[word]

    def _damage(self, word: str) -> DamagedStoreError | None:
        """Return what is wrong with the session of an id, if it is here and not sound."""
        return next((e for name, e in self.damaged.items() if name.endswith(word[:8])), None)

    def parent(self, session: Session) -> Session | None:
        """Return a session's parent, or None for the bare base.

        Raises:
            DamagedStoreError: The parent is missing or damaged.
        """
        word = session.parent or BASE
        if not self.holds(word):
            raise DamagedStoreError(
                f"{session.path}: its parent {word[:12]}… is missing from the store; "
                "run `mlx-tune doctor`"
            )
        return self.session(word)

    def chain(self, session: Session | None) -> list[Session]:
        """Return a session's ancestors from the root to itself; nothing for the bare base.

        Raises:
            DamagedStoreError: A parent is missing or damaged, or the parents run in a circle.
        """
        chain: dict[str, Session] = {}
        while session is not None:
            if session.id in chain:
                raise DamagedStoreError(
                    f"{session.path}: is its own ancestor; run `mlx-tune doctor`"
                )
            chain[session.id] = session
            session = self.parent(session)
        return list(chain.values())[::-1]

    def first_whole(self, sessions: Iterable[Session]) -> Session | None:
        """Return the first session every byte of whose chain is right; None if none is."""
        known: dict[str, bool] = {}  # a long chain is read once, not once a descendant
        for session in sessions:
            with suppress(DamagedStoreError):
                chain = self.chain(session)
                if all(_is_whole(member, known) for member in chain):
                    return session
        return None


def scan_sessions(root: Path) -> StoreSnapshot:
    """Read the manifest and the record of every session in a store.

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
    return StoreSnapshot(sound={session.id: session for session in sound}, damaged=damaged)


def resolve_ref(ref: str, sessions: Sequence[Session], place: Path) -> Session:
    """Return the one session that a number, name, folder's name or piece of an id means.

    Raises:
        UsageError: It means none, with those there are, or several, with which.
    """
    matches = [s for s in sessions if ref in {s.folder_name, s.id}]
    matches = matches or [s for s in sessions if _means(ref, s)]
    if not matches:
        raise UsageError(f"no session {quoted(ref)} in {place}; there are {_listed(sessions)}")
    if len(matches) > 1:
        raise UsageError(
            f"{quoted(ref)} means {len(matches)} sessions: "
            f"{', '.join(s.folder_name for s in matches)}; give the whole of one of these"
        )
    return matches[0]


def resolve_tag(tag: str, identity: str, sessions: Sequence[Session]) -> Session:
    """Return the session of a tag.

    Raises:
        UsageError: It is damaged or gone; with those there are.
    """
    for session in sessions:
        if session.id == identity:
            return session
    raise UsageError(
        f"tag {quoted(tag)} names {identity[:12]}…, which is not among the sound sessions; "
        f"there are {_listed(sessions)}"
    )


def _is_whole(session: Session, known: dict[str, bool]) -> bool:
    if session.id not in known:
        known[session.id] = session.is_whole()
    return known[session.id]


def _means(ref: str, session: Session) -> bool:
    numbered = re.fullmatch("[0-9]{1,9}", ref) is not None and int(ref) == session.number
    prefixed = re.fullmatch("[0-9a-f]{4,64}", ref) is not None and session.id.startswith(ref)
    return numbered or prefixed or ref == session.name


def _listed(sessions: Sequence[Session]) -> str:
    names = [session.folder_name for session in sessions[-SHOWN:]]
    left_out = len(sessions) - len(names)
    more = [f"{left_out} older"] if left_out else []
    return ", ".join([BASE, *more, *names])


def rebuilt_head(root: Path, found: StoreSnapshot) -> tuple[str, str]:
    """Return the id, or ``base``, that HEAD most likely held, and what that was told by."""
    # A removed session is never HEAD, so a line that ends on one is not the last move made.
    removed = labels.removed_ids(root)
    fit = [move.new for move in head_moves(root) if found.holds(move.new)]
    if logged := [word for word in fit if word not in removed]:
        return logged[-1], f"the last sound line of {HEAD_LOG}"
    newest = _newest_promoted(found, removed)
    return newest.id if newest else BASE, "the newest session that was promoted"


def newest_sound(root: Path, found: StoreSnapshot) -> Session | None:
    """Return the last session HEAD stood on that can be gone back to; None for the base."""
    words = [word for move in reversed(head_moves(root)) for word in (move.new, move.old)]
    removed = labels.removed_ids(root)
    kept = [word for word in dict.fromkeys(words) if word not in removed]
    return found.first_whole(found.sound[word] for word in kept if word in found.sound)


def recovery_advice(good: Session | None) -> str:
    """Return what to do about a damaged session, given the newest good one."""
    name, ref = (good.folder_name, good.id[:8]) if good else (BASE, BASE)
    return f"go back to {name} with `mlx-tune rollback --to {ref}`"


def _newest_promoted(found: StoreSnapshot, removed: set[str]) -> Session | None:
    """Return the session promoted last whose chain is whole, None for the base."""
    newest_last = sorted(found.sound.values(), key=lambda s: str(s.record.get("created", "")))
    promoted = [s for s in newest_last[::-1] if s.record.get("verdict") == "promote"]
    return found.first_whole(s for s in promoted if s.id not in removed)
